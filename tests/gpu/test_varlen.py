"""CUDA's kernels against plain attention with a mask: alignment, gradients, and the choice by the clock."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trimtab.data.batches import Span
from trimtab.model import varlen
from trimtab.model.varlen import FORMS, attend, fastest, kind_of, measured, plan, sees

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SPANS = [Span(0, 50, (40, 70)), Span(160, 1, (1, 30)), Span(192, 90, (60,)), Span(342, 30, (20, 10, 50))]
TOKENS, SCALING = 452, 0.125


def inputs(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    return [
        torch.randn(1, heads, TOKENS, 64, generator=generator, dtype=dtype, device="cuda").requires_grad_()
        for heads in (9, 3, 3)
    ]


def by_mask(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """In float64: scores, mask, softmax, sum."""
    row = plan(SPANS, torch.device("cuda"))
    place = torch.arange(TOKENS, device="cuda")
    mask = sees(row.example, row.branch)(place, place, place[:, None], place[None])
    query, key, value = query.double(), *(one.double().repeat_interleave(3, dim=1) for one in (key, value))
    scores = (query @ key.transpose(-1, -2) * SCALING).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_form_equals_plain_attention(name: str, dtype: torch.dtype) -> None:
    given = inputs(dtype)
    upstream = torch.randn(1, 9, TOKENS, 64, dtype=dtype, device="cuda")
    found = FORMS[name](*given, plan(SPANS, torch.device("cuda")), SCALING)
    expected = by_mask(*given)
    pairs = [
        (found, expected),
        *zip(
            torch.autograd.grad(found, given, upstream),
            torch.autograd.grad(expected, given, upstream.double()),
            strict=True,
        ),
    ]
    for ours, theirs in pairs:
        assert float((ours.double() - theirs.double()).norm() / theirs.double().norm()) < 0.01


def test_every_form_competes_and_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_chosen", {})
    query, key, value = inputs(torch.bfloat16)
    row = plan(SPANS, torch.device("cuda"))
    kind = kind_of(query, key, row)
    assert set(measured(row, kind)) == set(FORMS)
    assert fastest(row, kind) in FORMS
    assert attend(query, key, value, row, SCALING).dtype == torch.bfloat16


def test_float32_is_computed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_chosen", {})
    given = inputs(torch.float32)
    found = attend(*given, plan(SPANS, torch.device("cuda")), SCALING)
    torch.testing.assert_close(found.double(), by_mask(*given), atol=1e-3, rtol=1e-3)
