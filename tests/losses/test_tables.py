"""Gradients of vocabulary tables, added in place, beside autograd's own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tiny import tiny_gpt2, tiny_llama
from trimtab.data.batches import PackedRow, pack
from trimtab.data.tokens import Example, Response
from trimtab.losses.tables import adding_in_place, kept_gradient
from trimtab.model.fused import fuse
from trimtab.model.policy import response_logprobs, response_logprobs_and_entropy


def row(first: int) -> PackedRow:
    """Tokens that occur in prompts and responses, more than once."""
    ids = tuple(first + offset % 5 for offset in range(12))
    return pack([Example(ids, (Response(ids[:4], False), Response(ids[3:9], True)))])


def logprobs(model: PreTrainedModel, packed: PackedRow) -> Tensor:
    return response_logprobs(model, packed).square().sum()


def logprobs_and_entropy(model: PreTrainedModel, packed: PackedRow) -> Tensor:
    values, entropy = response_logprobs_and_entropy(model, packed)
    return (values.square() + entropy).sum()


def with_packed_attention(model: PreTrainedModel) -> PreTrainedModel:
    model.set_attn_implementation("trimtab")
    return model.eval()


@pytest.mark.parametrize("loss", [logprobs, logprobs_and_entropy])
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_of_several_rows_are_autograds(
    build: Callable[[], PreTrainedModel], tied: bool, loss: Callable[[PreTrainedModel, PackedRow], Tensor]
) -> None:
    plain = with_packed_attention(build())
    if not tied:
        plain.lm_head.weight = nn.Parameter(plain.lm_head.weight.detach().clone())
    faster = fuse(copy.deepcopy(plain))
    with adding_in_place():
        for first in (3, 5, 40):
            loss(faster, row(first)).backward()
    # The plain model's embedding is torch's; outside of `adding_in_place` its head is autograd's to collect.
    for first in (3, 5, 40):
        loss(plain, row(first)).backward()
    found, expected = ({name: p.grad for name, p in model.named_parameters()} for model in (faster, plain))
    for name, gradient in expected.items():
        ours = found[name]
        assert gradient is not None and ours is not None, name
        torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max() + 1))


def test_the_entry_for_padding_has_no_gradient() -> None:
    table = nn.Embedding(6, 3, padding_idx=2)
    model = fuse(nn.Sequential(copy.deepcopy(table)))
    ids = torch.tensor([[1, 2, 2, 5]])
    table(ids).square().sum().backward()
    with adding_in_place():
        model(ids).square().sum().backward()
    weight = model[0].weight
    assert table.weight.grad is not None and torch.equal(weight.grad, table.weight.grad)
    assert not weight.grad[2].any() and weight.grad[5].any()


def test_frozen_tables_and_other_callers_are_left_alone() -> None:
    model = fuse(with_packed_attention(tiny_llama()))
    table = model.get_input_embeddings().weight
    (by_table,) = torch.autograd.grad(logprobs(model, row(3)), [table])
    assert by_table.abs().max() > 0 and table.grad is None
    table.requires_grad_(False)
    with adding_in_place():
        logprobs(model, row(3)).backward()
    assert table.grad is None


def test_sums_are_kept_only_in_their_own_arithmetic() -> None:
    table = torch.zeros(3, 2, requires_grad=True)
    with adding_in_place():
        assert kept_gradient(table, torch.float64) is None
        kept = kept_gradient(table, torch.float32)
    assert kept is table.grad and kept_gradient(table, torch.float32) is None


def test_no_whole_gradient_is_made_beside_the_kept_one() -> None:
    """Memory, counted: within a row nothing as large as the table comes into being."""
    model = fuse(with_packed_attention(tiny_llama()))
    table = model.get_input_embeddings().weight
    with adding_in_place():
        logprobs(model, row(3)).backward()
        kept = table.grad
        value = logprobs(model, row(5))
        with torch.profiler.profile(record_shapes=True) as profile:
            value.backward()
    assert table.grad is kept
    whole = {
        event.name for event in profile.events() for shape in event.input_shapes if shape == [*table.shape]
    }
    assert "aten::index_put_" in whole and "aten::zeros_like" not in whole
    assert "aten::embedding_dense_backward" not in {event.name for event in profile.events()}
