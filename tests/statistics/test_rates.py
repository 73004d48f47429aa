"""Intervals of a rate: Wilson itself, a root finder, exact coverage, and which one is quoted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import gammaln, ndtri, xlogy

from trimtab.statistics.intervals import wilson
from trimtab.statistics.rates import rate_interval, score_interval

FRACTIONS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60)


def outcomes(wins, ties, losses):
    return np.array([1.0] * wins + [0.5] * ties + [0.0] * losses)


@pytest.mark.parametrize(("wins", "losses"), [(0, 20), (20, 0), (148, 102), (1, 0), (3, 1)])
def test_without_ties_it_is_wilson(wins, losses):
    assert score_interval(outcomes(wins, 0, losses), 0.9) == wilson(wins, wins + losses, 0.9)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(("wins", "ties", "losses"), [(30, 12, 18), (0, 9, 3), (1, 40, 2), (0, 25, 0)])
def test_its_ends_are_where_the_score_is_z(wins, ties, losses, level):
    n, z = wins + ties + losses, float(ndtri((1 + level) / 2))
    rate = (wins + ties / 2) / n
    # Plain floats: variance of the outcomes with z^2 / 2 wins and losses added, over that of plain ones.
    added = n + z * z
    mean = (wins + ties / 2 + z * z / 2) / added
    variance = ((wins + z * z / 2) * (1 - mean) ** 2 + ties * (0.5 - mean) ** 2) / added
    variance += (losses + z * z / 2) * mean**2 / added
    effect = variance / (mean * (1 - mean))

    def score(p):
        return (p - rate) ** 2 * n - z * z * effect * p * (1 - p)

    found = score_interval(outcomes(wins, ties, losses), level)
    assert found.low == pytest.approx(brentq(score, 1e-12, rate, xtol=1e-14), abs=1e-10)
    assert found.high == pytest.approx(brentq(score, rate, 1 - 1e-12, xtol=1e-14), abs=1e-10)


@pytest.mark.parametrize("n", [30, 50])
@pytest.mark.parametrize(("rate", "ties"), [(0.1, 0.0), (0.2, 0.1), (0.5, 0.3), (0.7, 0.0), (0.7, 0.3)])
def test_exact_coverage_with_ties(n, rate, ties):
    """Every count there can be, weighted by its probability."""
    wins, tied = (counts.ravel() for counts in np.indices((n + 1, n + 1)))
    wins, tied = wins[wins + tied <= n], tied[wins + tied <= n]
    losses = n - wins - tied
    log = gammaln(n + 1) - gammaln(wins + 1) - gammaln(tied + 1) - gammaln(losses + 1)
    log += xlogy(wins, rate - ties / 2) + xlogy(tied, ties) + xlogy(losses, 1 - rate - ties / 2)
    likely = np.flatnonzero(log > -12)
    weights = np.exp(log[likely])
    held = [
        score_interval(outcomes(wins[index], tied[index], losses[index])).contains(rate) for index in likely
    ]
    assert weights.sum() > 0.99
    coverage = weights @ held / weights.sum()
    assert 0.92 < coverage < 0.98  # the worst of Wilson's own, without ties, is 0.9298 here


def test_nothing_but_ties_is_not_certain():
    found = score_interval([0.5] * 40)
    assert found.high - 0.5 == pytest.approx(ndtri(0.975) ** 2 / 80, rel=0.05)
    assert found.low == pytest.approx(1 - found.high, abs=1e-15)


@given(FRACTIONS)
@settings(deadline=None, max_examples=50)
def test_exchanging_sides_mirrors_both_intervals(values):
    here = rate_interval(values, seed=3, rounds=100)
    there = rate_interval([1 - value for value in values], seed=3, rounds=100)
    pairs = [(here.score, there.score)]
    if here.bootstrap is not None and there.bootstrap is not None:
        pairs.append((here.bootstrap, there.bootstrap))
    for one, other in pairs:
        assert (one.low, one.estimate, one.high) == pytest.approx(
            (1 - other.high, 1 - other.estimate, 1 - other.low), abs=1e-12
        )


@given(FRACTIONS, st.randoms())
@settings(deadline=None, max_examples=50)
def test_the_order_of_prompts_is_nothing_to_the_score(values, random):
    shuffled = random.sample(values, len(values))
    here, there = score_interval(values), score_interval(shuffled)
    assert (here.low, here.high) == pytest.approx((there.low, there.high), abs=1e-12)


@given(FRACTIONS)
@settings(deadline=None, max_examples=50)
def test_more_prompts_of_the_same_kind_narrow_it(values):
    once, four_times = score_interval(values), score_interval(values * 4)
    assert once.low <= four_times.low <= four_times.high <= once.high
    assert math.isclose(once.estimate, four_times.estimate, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("wins", "ties", "losses", "why"),
    [
        (50, 0, 50, ""),
        (50, 0, 49, "Only 99 prompts: the rate is known to ±10 points"),
        (190, 0, 10, ""),
        (90, 0, 10, ""),
        (10, 0, 90, ""),
        (190, 1, 9, "Only 9 losses in 200 prompts"),
        (3, 0, 297, "Only 3 wins in 300 prompts"),
        (200, 0, 0, "Only 0 losses in 200 prompts"),
        (3, 197, 0, "Only 3 wins and 0 losses in 200 prompts"),
        (1, 189, 10, "Only 1 win in 200 prompts"),
        (10, 200, 1, "Only 1 loss in 211 prompts"),
        (10, 180, 10, ""),
        (0, 150, 0, "Only 0 wins and 0 losses in 150 prompts"),
    ],
)
def test_which_one_is_quoted(wins, ties, losses, why):
    found = rate_interval(outcomes(wins, ties, losses), seed=0, rounds=200)
    assert found.caution.startswith(why) and bool(found.caution) == bool(why)
    assert found.quoted == (found.score if why else found.bootstrap)
    assert found.bootstrap != found.score


@pytest.mark.parametrize(("wins", "ties"), [(3, 197), (4, 196), (5, 195), (4, 496), (0, 150)])
def test_a_judge_that_ties_names_no_winner(wins, ties):
    """A coin gives so few wins without a loss one time in 16 or more: BCa left 50 % out all the same."""
    found = rate_interval(outcomes(wins, ties, 0), seed=0, rounds=1000)
    assert found.quoted.low < 0.5 < found.quoted.high
    assert not (found.bootstrap.low < 0.5 < found.bootstrap.high)


def test_outcomes_between_count_by_the_side_they_are_on():
    assert rate_interval([0.6] * 60 + [0.4] * 60, seed=0, rounds=200).caution == ""


def test_one_prompt_has_a_score_interval_only():
    found = rate_interval([1.0], seed=0)
    assert found.bootstrap is None
    assert found.quoted == wilson(1, 1)
    assert found.caution.startswith("Only 1 prompt:")


def test_what_is_quoted_holds_the_rate_as_often_as_it_says():
    generator = np.random.default_rng(11)
    held = [
        rate_interval(
            generator.choice([1, 0.5, 0], 200, p=[0.2, 0.2, 0.6]), seed=seed, rounds=200
        ).quoted.contains(0.3)
        for seed in range(400)
    ]
    assert 0.92 < np.mean(held) < 0.98  # the standard error of a share near 0.95 in 400 is 0.011


@pytest.mark.parametrize("ties", [0.9, 0.95])
def test_a_coin_wins_no_more_often_where_judges_tie(ties):
    """Below 5 in 100; the bootstrap alone calls 7 of 100 coins a winner here."""
    generator = np.random.default_rng(5)
    shares = [(1 - ties) / 2, ties, (1 - ties) / 2]
    named = [
        not rate_interval(
            generator.choice([1, 0.5, 0], 200, p=shares), seed=seed, rounds=200
        ).quoted.contains(0.5)
        for seed in range(400)
    ]
    assert np.mean(named) < 0.045


@pytest.mark.parametrize("values", [[], [1.1], [-0.1], [float("nan")], [[0.0, 1.0]]])
def test_what_is_no_outcome_is_refused(values):
    with pytest.raises(ValueError, match="outcomes"):
        rate_interval(values, seed=0)
    with pytest.raises(ValueError, match="outcomes"):
        score_interval(values)
