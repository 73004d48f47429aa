"""Drawing tokens, against softmax and sorting in plain floats."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from trimtab.errors import ConfigError, ModelError
from trimtab.rollout import sample
from trimtab.rollout.sample import draw, inverse_cdf, nucleus, penalised
from trimtab.rollout.types import Sampling

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
    drawn = draw(*many(logits), Sampling(temperature=temperature, top_p=1.0))
    expected = [p * DRAWS for p in softmax(logits, temperature)]
    assert chisquare(drawn.tokens.bincount(minlength=12).tolist(), expected).pvalue > 0.01


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.9])
def test_top_p_draws_from_exactly_the_nucleus(top_p: float) -> None:
    logits = some_logits()
    probabilities = softmax(logits, 0.7)
    kept = sorted(smallest_set(probabilities, top_p))
    counts = draw(*many(logits), Sampling(temperature=0.7, top_p=top_p)).tokens.bincount(minlength=12)
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
    drawn = draw(*many(logits), Sampling(temperature=temperature, top_p=top_p))
    expected = torch.tensor(probabilities, dtype=torch.float64).log()[drawn.tokens]
    torch.testing.assert_close(drawn.logprobs, expected, atol=1e-6, rtol=0)


def test_temperature_zero_takes_the_likeliest_whatever_the_uniform() -> None:
    logits = some_logits()
    assert set(draw(*many(logits), Sampling(temperature=0, top_p=0.9)).tokens.tolist()) == {
        logits.index(max(logits))
    }


def test_a_tiny_temperature_is_almost_zero_and_does_not_overflow() -> None:
    logits = [1e4, 2e4, -1e4]
    drawn = draw(*many(logits), Sampling(temperature=1e-35))
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
    drawn = draw(
        logits, torch.full((64,), uniform, dtype=torch.float64), Sampling(temperature=0.7, top_p=top_p)
    )
    chosen = logits.gather(1, drawn.tokens[:, None])
    assert (chosen > -1e4).all()
    assert drawn.logprobs.isfinite().all()


def test_the_ends_of_the_uniform_range_are_the_first_and_last_possible_tokens() -> None:
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.0]] * 4, dtype=torch.float64)
    uniforms = torch.tensor([0.0, 0.33, 0.34, ALMOST_ONE], dtype=torch.float64)
    assert inverse_cdf(weights, uniforms).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("vocabulary", [1, 127, 128, 129, 1000])
def test_the_token_is_where_running_sums_pass_the_share(vocabulary: int) -> None:
    """Beside exact fractions; all but nothing of the uniforms lies within rounding of a boundary."""
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.rand(40, vocabulary, generator=generator) ** 8
    weights[:, ::3] = 0.0
    weights[:, -1] = 1e-6
    uniforms = torch.rand(40, generator=generator, dtype=torch.float64)
    found = inverse_cdf(weights, uniforms).tolist()
    for row, uniform, token in zip(weights.tolist(), uniforms.tolist(), found, strict=True):
        share = Fraction(uniform) * sum(map(Fraction, row))
        running = list(itertools.accumulate(map(Fraction, row)))
        assert row[token] > 0
        assert running[token] > share * (1 - Fraction(1, 10**6))
        assert token == 0 or running[token - 1] <= share * (1 + Fraction(1, 10**6))


@pytest.mark.parametrize("uniform", [0.0, 0.5, ALMOST_ONE])
def test_rounded_block_sums_lead_to_no_impossible_token(uniform: float) -> None:
    """Blocks whose float32 sum is above, or below, the sum of their float64 parts."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(500, 4 * sample.BLOCK, generator=generator) ** 20
    weights[torch.rand(weights.shape, generator=generator) < 0.9] = 0.0
    blocks = weights.unflatten(-1, (-1, sample.BLOCK)).sum(-1).double()
    boundaries = blocks.cumsum(-1)[:, 1] / blocks.sum(-1)  # exactly where two blocks meet
    for uniforms in (boundaries, torch.full((500,), uniform, dtype=torch.float64)):
        tokens = inverse_cdf(weights, uniforms.clamp(max=ALMOST_ONE))
        assert (weights.gather(1, tokens[:, None]) > 0).all()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_k=3), {0, 1, 2, 3}),  # the third and the fourth tie
        (Sampling(min_p=0.5), {0, 1}),
        (Sampling(min_p=0.3), {0, 1, 2, 3}),
        (Sampling(top_k=2, top_p=0.6), {0}),  # 0.4 of the 0.65 that top_k has left
        (Sampling(top_p=0.6), {0, 1}),
        (Sampling(top_p=0.9, min_p=0.5), {0, 1}),
        (Sampling(top_k=100), {0, 1, 2, 3, 4}),
    ],
)
def test_cuts(sampling: Sampling, expected: set[int]) -> None:
    logits = torch.tensor([0.4, 0.25, 0.125, 0.125, 0.1]).log().tolist()
    drawn = draw(*many(logits), sampling)
    assert set(drawn.tokens.tolist()) == expected
    plain = torch.tensor(softmax(logits), dtype=torch.float64).log()[drawn.tokens]
    torch.testing.assert_close(drawn.logprobs, plain, atol=1e-6, rtol=0)


def test_a_penalty_changes_what_is_drawn_and_not_its_log_probability() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0], [2.0, 1.5, -1.0]])
    seen = torch.tensor([[True, False, False], [False, False, True]])
    greedy = Sampling(temperature=0, repetition_penalty=2.0)
    drawn = draw(logits, torch.zeros(2, dtype=torch.float64), greedy, seen)
    assert drawn.tokens.tolist() == [1, 0]
    plain = logits.double().log_softmax(-1)
    torch.testing.assert_close(drawn.logprobs, plain[[0, 1], [1, 0]], atol=1e-6, rtol=0)
    assert penalised(logits, seen, greedy).tolist() == [[1.0, 1.5, -1.0], [2.0, 1.5, -2.0]]


@pytest.mark.parametrize(
    "setting", [{"top_k": -1}, {"min_p": 1.5}, {"min_p": math.nan}, {"repetition_penalty": 0.9}]
)
def test_settings_that_mean_nothing_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Sampling(**setting)


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
        draw(logits, torch.zeros(2, dtype=torch.float64), Sampling())
