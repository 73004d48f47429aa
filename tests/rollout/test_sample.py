"""Drawing tokens, against softmax and sorting in plain floats."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from trimtab.errors import ModelError
from trimtab.rollout import sample
from trimtab.rollout.sample import draw, inverse_cdf, nucleus

DRAWS = 4000
ALMOST_ONE = 1 - 2**-53


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(logit / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def smallest_set(probabilities: list[float], top_p: float) -> set[int]:
    kept: set[int] = set()
    for token in sorted(range(len(probabilities)), key=lambda token: -probabilities[token]):
        if sum(probabilities[i] for i in kept) >= top_p:
            break
        kept.add(token)
    return kept


def some_logits(vocabulary: int = 12, seed: int = 0) -> list[float]:
    return (torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * 1.5).tolist()


def many(logits: list[float]) -> tuple[Tensor, Tensor]:
    uniforms = torch.rand(DRAWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.tensor(logits).expand(DRAWS, -1), uniforms


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    logits = some_logits()
    drawn = draw(*many(logits), temperature=temperature, top_p=1.0)
    expected = [p * DRAWS for p in softmax(logits, temperature)]
    assert chisquare(drawn.tokens.bincount(minlength=12).tolist(), expected).pvalue > 0.01


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.9])
def test_top_p_draws_from_exactly_the_nucleus(top_p: float) -> None:
    logits = some_logits()
    probabilities = softmax(logits, 0.7)
    kept = sorted(smallest_set(probabilities, top_p))
    counts = draw(*many(logits), temperature=0.7, top_p=top_p).tokens.bincount(minlength=12)
    assert counts.nonzero()[:, 0].tolist() == kept
    if len(kept) > 1:
        expected = torch.tensor([probabilities[token] for token in kept], dtype=torch.float64)
        assert chisquare(counts[kept].tolist(), (expected / expected.sum() * DRAWS).tolist()).pvalue > 0.01


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (0.7, 0.5), (0.0, 1.0)])
def test_logprobs_are_those_before_the_cut_and_at_zero_of_the_plain_softmax(
    temperature: float, top_p: float
) -> None:
    logits = some_logits()
    probabilities = softmax(logits, temperature or 1.0)
    drawn = draw(*many(logits), temperature=temperature, top_p=top_p)
    expected = torch.tensor(probabilities, dtype=torch.float64).log()[drawn.tokens]
    torch.testing.assert_close(drawn.logprobs, expected, atol=1e-6, rtol=0)


def test_temperature_zero_takes_the_likeliest_whatever_the_uniform() -> None:
    logits = some_logits()
    assert set(draw(*many(logits), temperature=0, top_p=0.9).tokens.tolist()) == {logits.index(max(logits))}


def test_a_tiny_temperature_is_almost_zero_and_does_not_overflow() -> None:
    logits = [1e4, 2e4, -1e4]
    drawn = draw(*many(logits), temperature=1e-35, top_p=1.0)
    assert set(drawn.tokens.tolist()) == {1}
    assert drawn.logprobs.abs().max() == 0


@pytest.mark.parametrize("top_p", [1.0, 0.95])
@pytest.mark.parametrize("uniform", [0.0, 2**-53, ALMOST_ONE])
def test_extreme_uniforms_never_draw_a_token_of_zero_probability(uniform: float, top_p: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(64, 1000, generator=generator) * 3
    logits[:, :100] = -torch.inf  # a run of impossible tokens at either end, and some between
    logits[:, -100:] = -1e5  # exp underflows to zero
    logits[:, 100:900][torch.rand(64, 800, generator=generator) < 0.5] = -torch.inf
    drawn = draw(logits, torch.full((64,), uniform, dtype=torch.float64), temperature=0.7, top_p=top_p)
    chosen = logits.gather(1, drawn.tokens[:, None])
    assert (chosen > -1e4).all()
    assert drawn.logprobs.isfinite().all()


def test_the_ends_of_the_uniform_range_are_the_first_and_last_possible_tokens() -> None:
    cumulative = torch.tensor([[0.0, 0.3, 0.3, 0.9, 0.9]] * 4, dtype=torch.float64)
    uniforms = torch.tensor([0.0, 0.3, 0.4, ALMOST_ONE], dtype=torch.float64)
    assert inverse_cdf(cumulative, uniforms).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("first_look", [1, 2, 256])
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.55, 0.9, 1 - 1e-12])
def test_nucleus_is_the_same_wherever_the_search_begins(
    monkeypatch: pytest.MonkeyPatch, first_look: int, top_p: float
) -> None:
    monkeypatch.setattr(sample, "FIRST_LOOK", first_look)
    rows = [some_logits(seed=seed) for seed in range(5)]
    weights = torch.tensor([softmax(row) for row in rows], dtype=torch.float64)
    kept = nucleus(weights, top_p * weights.sum(-1, keepdim=True))
    for row, expected in zip(kept, rows, strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == smallest_set(softmax(expected), top_p)
    assert torch.equal(kept[kept > 0], weights[kept > 0])


def test_nucleus_keeps_ties_with_the_last_token_kept() -> None:
    weights = torch.tensor([[1.0, 4.0, 2.0, 2.0, 1.0]])
    assert nucleus(weights, torch.tensor([[5.0]], dtype=torch.float64)).tolist() == [[0, 4, 2, 2, 0]]


def test_nucleus_may_need_every_token() -> None:
    weights = torch.tensor([[1.0, 2.0, 3.0]])
    rounded_up = torch.tensor([[6.0 + 1e-9]], dtype=torch.float64)
    assert torch.equal(nucleus(weights, rounded_up), weights)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(broken: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, broken]])
    with pytest.raises(ModelError, match="not finite"):
        draw(logits, torch.zeros(2, dtype=torch.float64), temperature=1.0, top_p=1.0)
