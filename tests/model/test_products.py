"""Attention by blocks of matrix products, beside torch's own and beside the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trimtab.data.batches import Span
from trimtab.model import products, varlen
from trimtab.model.products import attend, blocks

HEADS, KEY_HEADS, SIZE = 6, 2, 8
SHORT = ((3, (2, 4)), (5, (1,)), (1, (1, 1)), (2, (3, 1, 2)), (4, ()))
LONG = ((300, (20, 280)), (1, (128, 128)), (40, (60,) * 5), (2, (3, 1)))


def spans_of(lengths: tuple[tuple[int, tuple[int, ...]], ...]) -> tuple[Span, ...]:
    found: list[Span] = []
    start = 0
    for prompt, responses in lengths:
        found.append(Span(start, prompt, responses))
        start += prompt + sum(responses)
    return tuple(found)


def leaves(tokens: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """[H, T, D] and twice [K, T, D], laid out as models do: heads side by side within a token."""
    generator = torch.Generator().manual_seed(0)

    def leaf(heads: int) -> Tensor:
        drawn = torch.randn(tokens, heads, SIZE, generator=generator, dtype=torch.float64)
        return drawn.to(dtype).transpose(0, 1).requires_grad_()

    return leaf(HEADS), leaf(KEY_HEADS), leaf(KEY_HEADS)


def places(spans: tuple[Span, ...]) -> list[tuple[int, int, int]]:
    """(example, branch, position) of each token of the row; branch 0 is the prompt."""
    found = []
    for example, span in enumerate(spans):
        found += [(example, 0, place) for place in range(span.prompt)]
        for branch, length in enumerate(span.responses, start=1):
            found += [(example, branch, span.prompt + place) for place in range(length)]
    return found


def by_definition(
    query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...], scaling: float
) -> Tensor:
    """One softmax over the whole row, with who sees whom spelled out pair by pair."""
    where = places(spans)
    seen = torch.tensor(
        [
            [theirs[0] == own[0] and theirs[1] in (0, own[1]) and theirs[2] <= own[2] for theirs in where]
            for own in where
        ]
    )
    keys, values = (tensor.repeat_interleave(HEADS // KEY_HEADS, dim=0) for tensor in (key, value))
    scores = torch.einsum("htd,hsd->hts", query, keys) * scaling
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ values


def by_pieces(inputs: tuple[Tensor, ...], spans: tuple[Span, ...], scaling: float) -> Tensor:
    """torch's fused attention, one call for prompt and first branch and one for each further branch."""
    plan = varlen.plan(spans, torch.device("cpu"))
    query, key, value = (tensor.unsqueeze(0) for tensor in inputs)
    return varlen._pieces(query, key, value, plan, scaling)[0]


@pytest.fixture(params=[(1, 1), (9, 5), (256, 128)])
def longest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of one query, of a few beside whole short examples, and as they are."""
    whole, longest = request.param
    monkeypatch.setattr(products, "WHOLE", whole)
    monkeypatch.setattr(products, "LONGEST", longest)
    return max(int(whole), int(longest))


def test_values_and_gradients_are_those_of_the_definition(longest: int) -> None:
    spans = spans_of(SHORT)
    inputs = leaves(len(places(spans)))
    found = attend(*inputs, blocks(spans, torch.float64), 0.3)
    expected = by_definition(*inputs, spans, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    above = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((found * above).sum(), inputs)
    theirs = torch.autograd.grad((expected * above).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_long_examples_are_those_of_torch_piece_by_piece() -> None:
    spans = spans_of(LONG)
    inputs = leaves(len(places(spans)))
    found = attend(*inputs, blocks(spans, torch.float64), 0.4)
    expected = by_pieces(inputs, spans, 0.4)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    ours = torch.autograd.grad(found.square().sum(), inputs)
    theirs = torch.autograd.grad(expected.square().sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("lengths", [SHORT, LONG])
def test_every_query_is_in_one_block_and_none_is_larger_than_the_longest(
    lengths: tuple[tuple[int, tuple[int, ...]], ...], longest: int
) -> None:
    spans = spans_of(lengths)
    plan = blocks(spans, torch.float32)
    assert [place for block in plan for place in range(block.queries.start, block.queries.stop)] == list(
        range(len(places(spans)))
    )
    for block in plan:
        assert block.mask.shape == (
            block.queries.stop - block.queries.start,
            sum(part.stop - part.start for part in block.keys),
        )
        assert len(block.mask) <= longest


def test_bfloat16_is_no_further_off_than_torch_in_bfloat16() -> None:
    spans = spans_of(LONG)
    exact = leaves(len(places(spans)))
    expected = by_definition(*exact, spans, 0.35)
    rounded = tuple(tensor.detach().bfloat16() for tensor in exact)
    found = attend(*rounded, blocks(spans, torch.bfloat16), 0.35)
    theirs = by_pieces(rounded, spans, 0.35)
    assert found.dtype == torch.bfloat16
    ours_off, theirs_off = ((one.double() - expected).norm() / expected.norm() for one in (found, theirs))
    assert ours_off < 0.006 and ours_off < 1.5 * theirs_off


def test_scores_are_never_rounded() -> None:
    """Under autocast, rotary positions leave queries and keys in float32 and values in bfloat16."""
    spans = spans_of(SHORT)
    query, key, value = (tensor.detach() * 4 for tensor in leaves(len(places(spans))))
    value = value.bfloat16()
    exact = by_definition(query, key, value.double(), spans, 0.5)
    plan = blocks(spans, torch.bfloat16)
    kept = attend(query.float(), key.float(), value, plan, 0.5)
    rounded = attend(query.bfloat16(), key.bfloat16(), value, plan, 0.5)
    ours, theirs = ((found.double() - exact).square().mean().sqrt() for found in (kept, rounded))
    # What is left is the rounding of the weights and of the result, not of scores as large as 60.
    assert kept.dtype == torch.bfloat16 and ours < 0.25 * theirs
    assert float(ours) < 2**-8 * float(exact.square().mean().sqrt())


def test_nothing_of_the_size_of_the_scores_is_kept() -> None:
    spans = spans_of(((200, (20, 30)),))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    inputs = leaves(250)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(*inputs, blocks(spans, torch.float64), 1.0)
    assert sorted(tensor.numel() for tensor in kept) == sorted(tensor.numel() for tensor in inputs)
