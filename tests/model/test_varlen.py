"""The forms of CUDA's attention against a mask written out by hand; the kernel itself: tests/gpu."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen as kernels
from torch.nn.attention.flex_attention import create_mask, flex_attention

from trimtab.data.batches import Span
from trimtab.model import varlen
from trimtab.model.varlen import Kind, Piece, attend, fastest, kind_of, measured, plan, sees

CPU = torch.device("cpu")
SHAPES = [(5, (4, 7)), (1, (1, 3)), (9, (6,)), (3, (2, 1, 5)), (4, ()), (0, (3, 2)), (6, (0, 4))]
SCALING = 0.3


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(varlen, "_chosen", {})
    yield


def spans(shapes: list[tuple[int, tuple[int, ...]]] = SHAPES) -> list[Span]:
    starts = itertools.accumulate((p + sum(rs) for p, rs in shapes), initial=0)
    return [Span(start, *shape) for start, shape in zip(starts, shapes, strict=False)]


def visible(wanted: list[Span]) -> Tensor:
    """[T, T]: who sees whom, token by token, from the definition."""
    owners: list[tuple[int, int]] = []
    for example, span in enumerate(wanted):
        for branch, length in enumerate((span.prompt, *span.responses), start=-1):
            owners += [(example, branch)] * length
    mask = torch.zeros(len(owners), len(owners), dtype=torch.bool)
    for query, (example, branch) in enumerate(owners):
        for key, (other, other_branch) in enumerate(owners[: query + 1]):
            mask[query, key] = example == other and other_branch in (-1, branch)
    return mask


def by_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Plain attention: scores, mask, softmax, sum."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2) * SCALING).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ value


def tensors(tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, heads, tokens, 8, generator=generator).double().requires_grad_() for heads in (4, 2, 2)
    ]


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    top_left: bool = False,
) -> Tensor:
    """What varlen_attn is documented to compute, segment by segment with plain products."""
    assert window_size == (-1, 0) and enable_gqa and query_ends.dtype == key_ends.dtype == torch.int32
    parts, longest = [], [0, 0]
    for (a, b), (c, d) in zip(
        itertools.pairwise(query_ends.tolist()), itertools.pairwise(key_ends.tolist()), strict=True
    ):
        longest = [max(longest[0], b - a), max(longest[1], d - c)]
        keys, values = (part[c:d].repeat_interleave(2, dim=1) for part in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[a:b], keys) * scale
        mask = torch.ones(b - a, d - c).tril(0 if top_left else d - c - b + a).bool()
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), values))
    assert longest == [longest_query, longest_key]
    return torch.cat(parts)


def test_the_pieces_of_a_row() -> None:
    found = plan(spans([(5, (4, 7)), (3, (2,))]), CPU)
    assert found.pieces == (Piece(0, 9, 0, 0), Piece(9, 7, 0, 5), Piece(16, 5, 16, 0))
    assert found.query_ends.tolist() == [0, 9, 16, 21] and found.key_ends.tolist() == [0, 9, 21, 26]
    assert found.key_index is not None
    assert found.key_index.tolist() == [*range(9), *range(5), *range(9, 16), *range(16, 21)]
    assert (found.longest_query, found.longest_key, found.tokens) == (9, 12, 21)


def test_without_further_responses_nothing_is_gathered() -> None:
    found = plan(spans([(5, (4,)), (3, ())]), CPU)
    assert found.key_index is None and torch.equal(found.key_ends, found.query_ends)


@pytest.mark.parametrize("name", ["varlen", "pieces"])
def test_a_form_equals_the_mask_written_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "fastest", lambda *_: name)
    mask = visible(spans())
    inputs = tensors(len(mask))
    upstream = torch.randn(1, 4, len(mask), 8, generator=torch.Generator().manual_seed(1)).double()
    expected = by_mask(*inputs, mask)
    found = attend(*inputs, plan(spans(), CPU), SCALING)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_flex_equals_the_mask_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not compiled, and without gradients, which FlexAttention does not have on a CPU.
    monkeypatch.setattr(varlen, "_compiled_flex", lambda: flex_attention)
    monkeypatch.setattr(varlen, "fastest", lambda *_: "flex")
    mask = visible(spans())
    inputs = [tensor.detach().float() for tensor in tensors(len(mask))]
    with pytest.warns(UserWarning, match="flex_attention called without torch.compile"):
        found = attend(*inputs, plan(spans(), CPU), SCALING)
    torch.testing.assert_close(found, by_mask(*inputs, mask))


def test_the_mask_of_flex_is_who_sees_whom() -> None:
    found = plan(spans(), CPU)
    mask = create_mask(sees(found.example, found.branch), 1, 1, found.tokens, found.tokens, device="cpu")
    assert torch.equal(mask[0, 0], visible(spans()))


def test_the_type_of_the_values_is_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        seen.append((query.dtype, key.dtype, torch.is_autocast_enabled("cpu")))
        return query

    monkeypatch.setattr(varlen, "FORMS", {"watched": watched})
    query, key, value = (tensor.detach().float() for tensor in tensors(9))
    row = plan(spans([(4, (5,))]), CPU)
    monkeypatch.setattr(varlen, "_chosen", {kind_of(query.bfloat16(), key, row): "watched"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = attend(query, key, value.bfloat16(), row, SCALING)
    assert seen == [(torch.bfloat16, torch.bfloat16, False)] and attended.dtype == torch.bfloat16


def kind(**changes: Any) -> Kind:
    usual = Kind("cpu", torch.float32, 4, 2, 8, tokens=64, longest=16, branched=True)
    return usual._replace(**changes)


def test_the_fastest_form_is_taken_and_measured_once_for_each_kind() -> None:
    asked = []

    def measure(_: varlen.Plan, kind: Kind) -> dict[str, float]:
        asked.append(kind)
        return {"varlen": 3.0, "flex": 1.0 if kind.longest > 16 else 4.0, "pieces": 2.0}

    row = plan(spans(), CPU)
    short, long = kind(), kind(longest=1024)
    assert [fastest(row, one, measure) for one in (short, long, short, long)] == [
        "pieces",
        "flex",
        "pieces",
        "flex",
    ]
    assert asked == [short, long]
    assert varlen.chosen() == {short: "pieces", long: "flex"}


def test_rows_of_one_kind() -> None:
    def kind_for(shapes: list[tuple[int, tuple[int, ...]]]) -> Kind:
        row = plan(spans(shapes), CPU)
        query, key, _ = tensors(row.tokens)
        return kind_of(query, key, row)

    first = kind_for([(20, (10, 12))])
    assert first == Kind("cpu", torch.float64, 4, 2, 8, tokens=64, longest=32, branched=True)
    assert kind_for([(17, (9, 8))]) == first, "the same powers of two"
    assert kind_for([(20, (22,))]) != first, "nothing to gather"
    assert kind_for([(20, (10, 13)), (20, (10, 13))]).tokens == 128


def test_what_fails_or_differs_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Tensor:
        raise RuntimeError("no such kernel here")

    ticks = itertools.count()
    monkeypatch.setattr(varlen, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    monkeypatch.setattr(varlen, "FORMS", {**varlen.FORMS, "flex": refused})
    row = plan(spans(), CPU)
    monkeypatch.setattr(kernels, "varlen_attn", kernel)
    assert measured(row, kind()) == {"varlen": 1.0, "pieces": 1.0}

    def top_left(*arguments: Any, **options: Any) -> Tensor:
        return kernel(*arguments, **options, top_left=True)

    monkeypatch.setattr(kernels, "varlen_attn", top_left)
    assert measured(row, kind()) == {"pieces": 1.0}, "another alignment of the triangle is another result"


def test_measuring_draws_nothing_from_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "FORMS", {"pieces": varlen.FORMS["pieces"]})
    before = torch.random.get_rng_state()
    with torch.no_grad():
        assert "pieces" in measured(plan(spans(), CPU), kind())
    assert torch.equal(torch.random.get_rng_state(), before)
