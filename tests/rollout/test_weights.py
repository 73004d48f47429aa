"""The digest of a model's weights, and engines that draw from others than the learner's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from tiny import tiny_llama
from trimtab.data.tokens import Response
from trimtab.errors import RunError
from trimtab.model import adapters
from trimtab.rollout import engine
from trimtab.rollout.engine import Sampler
from trimtab.rollout.lean import LeanPass
from trimtab.rollout.types import Rollout, Sampling
from trimtab.rollout.weights import RUN, WORD, digest, require_drawn_from

PROMPTS = ((5, 9, 17, 4), (8, 3))


def llama(seed: int = 0) -> PreTrainedModel:
    model = tiny_llama(seed=seed)
    model.set_attn_implementation("trimtab")
    return model


def sampled(sampler: Sampler) -> list[Rollout]:
    return sampler.sample(PROMPTS, Sampling(max_new=3), (1, 2))


@torch.no_grad()
def moved(model: nn.Module, place: str) -> None:
    """One element of a weight, by its least bit."""
    name, index = place.rsplit("[", 1)
    bits = model.get_parameter(name).view(-1).view(torch.int32)
    bits[int(index.rstrip("]"))] ^= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_weights_have_one_digest_whatever_holds_them(dtype: torch.dtype) -> None:
    model = llama().to(dtype)
    expected = digest(model)
    assert expected == digest(copy.deepcopy(model).train()) and len(expected) == 32
    for parameter in model.parameters():  # transposed in memory, at odd places of a larger tensor
        room = torch.empty(parameter.numel() + 1, dtype=dtype)[1:].view(parameter.shape)
        parameter.data = room.copy_(parameter.data).t().contiguous().t()
    assert digest(model) == expected


@pytest.mark.parametrize(
    "place",
    [
        "model.embed_tokens.weight[0]",
        f"model.embed_tokens.weight[{RUN * WORD // 4}]",
        "lm_head.weight[9599]",
        "model.layers.1.mlp.down_proj.weight[1000]",
        "model.norm.weight[31]",  # of a weight that is shorter than a run
    ],
)
def test_the_least_bit_of_one_weight_changes_it(place: str) -> None:
    model = llama()
    before = digest(model)
    moved(model, place)
    after = digest(model)
    moved(model, place)
    assert digest(model) == before != after


def test_every_element_counts() -> None:
    layer = nn.Linear(7, 150)
    size = layer.weight.numel() * 4
    assert size > 2 * RUN * WORD and size % (RUN * WORD), "more than two runs, and some that fill none"
    before = digest(layer)
    for index in range(layer.weight.numel()):
        moved(layer, f"weight[{index}]")
        assert digest(layer) != before
        moved(layer, f"weight[{index}]")
    assert digest(layer) == before


def test_what_has_changed_places_is_seen() -> None:
    model = llama()
    before = digest(model)
    first, second = (layer.mlp.up_proj.weight for layer in model.model.layers)
    with torch.no_grad():
        one, other = first.clone(), second.clone()
        first.copy_(other), second.copy_(one)
    swapped = digest(model)
    with torch.no_grad():
        first.copy_(one), second.copy_(other)
        table = model.lm_head.weight
        table[[0, 160]] = table[[160, 0]]  # whole runs apart
    assert len({before, swapped, digest(model)}) == 3


def test_types_and_shapes_are_a_part_of_it() -> None:
    zeros = [torch.zeros(4, 6), torch.zeros(6, 4), torch.zeros(24), torch.zeros(4, 12, dtype=torch.bfloat16)]
    holders = [nn.Module() for _ in zeros]
    for holder, tensor in zip(holders, zeros, strict=True):
        holder.weight = nn.Parameter(tensor)
    assert len({digest(holder) for holder in holders}) == len(zeros)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_sampler_says_what_it_drew_from(autocast: torch.dtype | None) -> None:
    model = llama()
    sampler = Sampler(model, autocast=autocast)
    before = sampled(sampler)
    require_drawn_from(model, before)
    moved(model, "model.norm.weight[3]")
    with pytest.raises(RunError, match="does not have the learner's weights"):
        require_drawn_from(model, before)
    require_drawn_from(model, sampled(sampler))


def test_where_nobody_says_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.rollout.weights.digest", lambda _: pytest.fail("for nothing"))
    require_drawn_from(llama(), [])
    require_drawn_from(llama(), [Rollout((5, 9), Response((20, 30), False), (-1.0, -2.0))])


def keeps_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    made = engine._Decoder

    def first(*arguments: Any) -> Any:
        kept.append(kept[0] if kept else made(*arguments))
        return kept[0]

    monkeypatch.setattr(engine, "_Decoder", first)


def keeps_its_packed_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[LeanPass] = []
    made = LeanPass.of

    def first(*arguments: Any) -> LeanPass:
        if not kept:
            lean = made(*arguments)
            assert lean is not None
            kept.append(lean)
        return kept[0]

    monkeypatch.setattr(LeanPass, "of", first)


@pytest.mark.parametrize("stale", [keeps_its_decoder, keeps_its_packed_weights])
def test_an_engine_that_ignores_the_sync_is_caught(
    stale: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale(monkeypatch)
    model = llama()
    sampler = Sampler(model, autocast=torch.bfloat16)
    require_drawn_from(model, sampled(sampler))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-6)  # one careful step, which log-probabilities would not show
    with pytest.raises(RunError, match="after every update"):
        require_drawn_from(model, sampled(sampler))


def test_one_response_from_other_weights_is_enough() -> None:
    model = llama()
    good = sampled(Sampler(model))
    bad = sampled(Sampler(llama(seed=1)))
    with pytest.raises(RunError, match=str(bad[0].drawn_from)[:12]):
        require_drawn_from(model, [*good, bad[1]])


def test_adapters_that_bind_to_nothing_are_caught() -> None:
    """The learner has adapters; the engine draws with them switched off, or from the base model."""
    base, model = llama(), llama()
    adapters.attach(
        model,
        base="given",
        rank=2,
        alpha=4.0,
        targets="all-linear",
        generator=torch.Generator().manual_seed(0),
    )
    require_drawn_from(model, sampled(Sampler(model)))
    with adapters.switched_off(model):
        unbound = sampled(Sampler(model))
    engines: Sequence[list[Rollout]] = (unbound, sampled(Sampler(base)))
    for rollouts in engines:
        with pytest.raises(RunError, match="adapters included"):
            require_drawn_from(model, rollouts)
