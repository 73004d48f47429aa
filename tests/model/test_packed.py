"""The packed and branched path against the same model's ordinary padded forward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tiny import tiny_gpt2, tiny_llama, tiny_qwen2, tiny_qwen3
from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Response
from trimtab.errors import ModelError
from trimtab.model.packed import attention
from trimtab.model.policy import response_kl, response_logprobs

FAMILIES = [tiny_llama, tiny_qwen2, tiny_qwen3, tiny_gpt2]
PAD = 0


def examples(seed: int = 3) -> list[Example]:
    """Pairs, a single response, three responses; lengths from 1 up."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (count,), generator=generator).tolist())

    shapes = [(5, (4, 7)), (1, (1, 3)), (9, (6,)), (3, (2, 1, 5)), (12, (8, 8))]
    return [
        Example(ids(prompt), tuple(Response(ids(length), True) for length in responses))
        for prompt, responses in shapes
    ]


def with_packed_attention(model: PreTrainedModel) -> PreTrainedModel:
    packed = copy.deepcopy(model)
    packed.set_attn_implementation("trimtab")
    return packed


def padded_logprobs(model: PreTrainedModel, wanted: list[Example], side: str) -> Tensor:
    """Each response in a padded row of its own, its prompt repeated; whole logits are kept."""
    rows = [(example.prompt, response.ids) for example in wanted for response in example.responses]
    longest = max(len(prompt) + len(ids) for prompt, ids in rows)
    input_ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    starts = []
    for index, (prompt, ids) in enumerate(rows):
        first = 0 if side == "right" else longest - len(prompt) - len(ids)
        starts.append(first + len(prompt))
        whole = torch.tensor([*prompt, *ids])
        input_ids[index, first : first + len(whole)] = whole
        mask[index, first : first + len(whole)] = 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    logits = model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    parts = []
    for index, (_, ids) in enumerate(rows):
        places = torch.arange(starts[index], starts[index] + len(ids))
        parts.append(logprobs[index, places - 1, torch.tensor(ids)])
    return torch.cat(parts)


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_logprobs_equal_the_padded_forward(build: Callable[[], PreTrainedModel], side: str) -> None:
    model = build()
    expected = padded_logprobs(model, examples(), side)
    found = response_logprobs(with_packed_attention(model), pack(examples()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", FAMILIES)
def test_gradients_equal_those_of_the_padded_forward(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    packed = with_packed_attention(model)
    weights = torch.linspace(-1, 1, sum(len(r.ids) for e in examples() for r in e.responses))
    (padded_logprobs(model, examples(), "right") * weights).sum().backward()
    (response_logprobs(packed, pack(examples())) * weights).sum().backward()
    for (name, expected), found in zip(model.named_parameters(), packed.parameters(), strict=True):
        assert expected.grad is not None and found.grad is not None, name
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_temperature_divides_the_logits() -> None:
    model = tiny_llama()
    packed = with_packed_attention(model)
    example = examples()[2]
    ids = torch.tensor([[*example.prompt, *example.responses[0].ids]])
    logits = model(ids).logits[0, len(example.prompt) - 1 : -1]
    expected = torch.log_softmax(logits / 0.7, -1).gather(1, ids[0, len(example.prompt) :, None])[:, 0]
    found = response_logprobs(packed, pack([example]), temperature=0.7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_other_branch_does_not_matter() -> None:
    model = with_packed_attention(tiny_llama())
    first = examples()[0]
    other = Example(first.prompt, (first.responses[0], Response((9, 8, 7, 6, 5, 4, 3), True)))
    length = len(first.responses[0].ids)
    before = response_logprobs(model, pack([first]))[:length]
    after = response_logprobs(model, pack([other]))[:length]
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0)


def test_kl_over_the_vocabulary_is_the_sum_of_its_definition() -> None:
    policy, reference = tiny_llama(seed=0), tiny_llama(seed=1)
    example = examples()[2]
    ids = torch.tensor([[*example.prompt, *example.responses[0].ids]])
    p, q = (
        torch.log_softmax(model(ids).logits[0, len(example.prompt) - 1 : -1].double(), -1)
        for model in (policy, reference)
    )
    expected = (p.exp() * (p - q)).sum(-1).float()
    found = response_kl(with_packed_attention(policy), with_packed_attention(reference), pack([example]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found > 0).all()


@pytest.mark.parametrize("feature", ["sliding_window", "softcap", "s_aux", "something_new"])
def test_a_feature_that_is_not_computed_is_refused_by_name(feature: str) -> None:
    query = torch.zeros(1, 2, 3, 4)
    layout = SimpleNamespace(attend=lambda *_: query)
    attention(torch.nn.Module(), query, query, query, None, layout=layout, **{feature: None})
    with pytest.raises(ModelError, match=feature):
        attention(torch.nn.Module(), query, query, query, None, layout=layout, **{feature: 4})


def test_dropout_and_a_missing_layout_are_refused() -> None:
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ModelError, match="dropout"):
        attention(torch.nn.Module(), query, query, query, None, layout=SimpleNamespace(), dropout=0.1)
    with pytest.raises(ModelError, match="layout"):
        attention(torch.nn.Module(), query, query, query, None)
