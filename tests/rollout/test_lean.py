"""The lean pass beside transformers' own modules."""

from __future__ import annotations

import copy
from collections.abc import Callable

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tiny import tiny_gpt2, tiny_llama, tiny_qwen2, tiny_qwen3
from trimtab.data.batches import pack
from trimtab.data.tokens import Example
from trimtab.model import adapters
from trimtab.model.fused import fuse
from trimtab.model.policy import backbone
from trimtab.rollout import engine
from trimtab.rollout.cache import DecodeLayout, KeyValueStore, PrefillLayout
from trimtab.rollout.engine import Sampler
from trimtab.rollout.lean import LeanPass
from trimtab.rollout.types import Sampling

FAMILIES = [tiny_llama, tiny_qwen2, tiny_qwen3]
PROMPTS = ((5, 9, 17, 4), (8, 3), (250, 44, 7, 7, 7, 12))
Forward = Callable[..., Tensor]
Given = Callable[[Callable[[], PreTrainedModel]], PreTrainedModel]


def built(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    model = build()
    model.set_attn_implementation("trimtab")
    with torch.no_grad():  # norms of 1 and biases of 0 would hide which is which
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(
                    0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                )
    return fuse(model.eval())


def with_adapters(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """On some matrices of those that are computed as one, not on others; the adapters have learned."""
    model, draw = built(build), torch.Generator().manual_seed(0)
    adapters.attach(
        model,
        base="given",
        rank=3,
        alpha=4.0,
        targets=["q_proj", "v_proj", "up_proj", "o_proj"],
        generator=draw,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3, generator=draw)
    return model


def modules_of(model: PreTrainedModel) -> Forward:
    def forward(ids: Tensor, positions: Tensor, layout: object) -> Tensor:
        found = backbone(model)(input_ids=ids, position_ids=positions, layout=layout, use_cache=False)
        states: Tensor = found.last_hidden_state
        return states

    return forward


@torch.no_grad()
def passes(forward: Forward, dtype: torch.dtype) -> list[Tensor]:
    """States of packed prompts, then of two more tokens a row."""
    store = KeyValueStore(len(PROMPTS), 12, dtype)
    row = pack([Example(prompt, ()) for prompt in PROMPTS])
    found = [forward(row.input_ids, row.position_ids, PrefillLayout(store, row.spans, (0, 1, 2)))]
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS])
    for token in (31, 90):
        ids = torch.tensor([[token], [token + 1], [token + 2]])
        found.append(forward(ids, lengths[:, None], DecodeLayout(store, lengths)))
        lengths = lengths + 1
    return found


@pytest.mark.parametrize("given", [built, with_adapters])
@pytest.mark.parametrize("build", FAMILIES)
def test_in_float32_it_is_the_model(build: Callable[[], PreTrainedModel], given: Given) -> None:
    model = given(build)
    lean = LeanPass.of(backbone(model), torch.float32)
    assert lean is not None
    for found, expected in zip(
        passes(lean, torch.float32), passes(modules_of(model), torch.float32), strict=True
    ):
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("given", [built, with_adapters])
@pytest.mark.parametrize("build", FAMILIES)
def test_in_bfloat16_it_is_as_near_to_float32_as_the_model(
    build: Callable[[], PreTrainedModel], given: Given
) -> None:
    model = given(build)
    exact = torch.cat([found.flatten() for found in passes(modules_of(model), torch.float32)])
    lean = LeanPass.of(backbone(model), torch.bfloat16)
    assert lean is not None
    off = []
    with torch.autocast("cpu", torch.bfloat16):
        for forward in (lean, modules_of(model)):
            found = torch.cat([states.flatten() for states in passes(forward, torch.bfloat16)])
            assert found.dtype == torch.float32
            off.append(float((found - exact).norm() / exact.norm()))
    assert 0 < off[0] < 1.5 * off[1] < 0.05


def test_adapters_that_are_switched_off_are_left_out() -> None:
    model = with_adapters(tiny_llama)
    on = LeanPass.of(backbone(model), torch.float32)
    with adapters.switched_off(model):
        off = LeanPass.of(backbone(model), torch.float32)
        expected = torch.cat([states.flatten() for states in passes(modules_of(model), torch.float32)])
    assert on is not None and off is not None
    found, other = (torch.cat([s.flatten() for s in passes(lean, torch.float32)]) for lean in (off, on))
    assert (found - expected).norm() <= 1e-5 * expected.norm() < 1e-2 * (other - expected).norm()


def test_other_families_and_adapters_of_other_kinds_are_not_taken() -> None:
    assert LeanPass.of(backbone(built(tiny_gpt2)), torch.bfloat16) is None
    for kind in ({"use_dora": True}, {"lora_bias": True}):
        model = built(tiny_qwen2)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], **kind)
        peft.inject_adapter_in_model(config, model, "default")
        assert LeanPass.of(backbone(model), torch.bfloat16) is None
    partly = built(tiny_llama)
    backbone(partly).layers[1].self_attn.extra = nn.Linear(2, 2)
    assert LeanPass.of(backbone(partly), torch.bfloat16) is None


def answers(model: PreTrainedModel) -> list[tuple[int, ...]]:
    sampler = Sampler(model, autocast=torch.bfloat16)
    return [one.response.ids for one in sampler.sample(PROMPTS, Sampling(max_new=6), (1, 2, 3))]


def test_a_model_that_computes_something_else_with_the_same_parts_keeps_its_own_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = built(tiny_llama)
    for layer in backbone(model).layers:
        del layer.mlp.forward  # of the fused part, which would ignore what comes now
        layer.mlp.act_fn = nn.Tanh()
    found = answers(model)
    assert engine._GIVES_THE_SAME[backbone(model)] is False
    monkeypatch.setattr(LeanPass, "of", lambda *_: None)
    assert found == answers(model)


def test_it_is_used_where_it_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(tiny_llama)
    answers(model)
    assert engine._GIVES_THE_SAME[backbone(model)] is True
    monkeypatch.setattr(engine._Decoder, "_by_modules", lambda *_: pytest.fail("by its modules"))
    answers(model)


def test_samples_are_the_same_the_first_time_and_later() -> None:
    """The first prompts are read twice, to compare."""
    model = built(tiny_llama)
    assert answers(model) == answers(model) == answers(copy.deepcopy(model))


def test_weights_that_have_moved_are_read_anew() -> None:
    model = built(tiny_llama)
    before = answers(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.7)
    after = answers(model)
    assert after != before and after == answers(copy.deepcopy(model))
