"""wilson against scipy's, and its coverage of a known rate."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from trimtab.statistics.intervals import Interval, number, wilson


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 20), (7, 20), (20, 20), (148, 250), (1, 10_000)])
def test_wilson_is_scipys(successes, n, level):
    theirs = binomtest(successes, n).proportion_ci(level, method="wilson")
    ours = wilson(successes, n, level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert (ours.estimate, ours.level, ours.n, ours.method) == (successes / n, level, n, "Wilson score")


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.58, 0.9])
def test_wilson_holds_the_true_rate_as_often_as_it_says(rate):
    n = 250
    held = [wilson(successes, n).contains(rate) for successes in range(n + 1)]
    coverage = float(binom.pmf(np.arange(n + 1), n, rate)[held].sum())  # exact: every outcome, weighted
    assert 0.935 < coverage < 0.965


def test_certainty_is_never_claimed():
    none, all_of_them = wilson(0, 20), wilson(20, 20)
    assert none.low == 0.0 and none.high > 0.1
    assert all_of_them.high == 1.0 and all_of_them.low < 0.9


@pytest.mark.parametrize(
    ("successes", "n", "level"), [(1, 0, 0.95), (-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 95)]
)
def test_nonsense_is_refused(successes, n, level):
    with pytest.raises(ValueError):
        wilson(successes, n, level)


@pytest.mark.parametrize("ends", [(0.5, 0.6, 0.4), (float("nan"), 0.0, 1.0), (0.5, 0.0, float("inf"))])
def test_an_interval_that_is_none_cannot_be_built(ends):
    with pytest.raises(ValueError):
        Interval(*ends, level=0.95, n=10)


def test_an_interval_needs_a_unit():
    with pytest.raises(ValueError, match="n = 0"):
        Interval(0.5, 0.4, 0.6, 0.95, 0)


def test_both_ends_belong_to_the_interval():
    interval = Interval(0.6, 0.5, 0.7, 0.95, 10)
    assert interval.contains(0.5) and interval.contains(0.7)
    assert not interval.contains(0.4999) and not interval.contains(0.7001)


def test_words():
    interval = Interval(-0.123, -0.2, -0.001, 0.9, 12)
    assert interval.text() == "−0.12 [−0.20, 0.00]"
    assert Interval(0.58, 0.518, 0.6402, 0.95, 250).percent() == "58.0\u00a0% [51.8, 64.0]"
    said = Interval(0.58, 0.518, 0.6402, 0.9, 250).percent_of("pairs")
    assert said == "58.0\u00a0% of 250 pairs (90\u00a0% interval 51.8 to 64.0\u00a0%)"
    assert number(-0.0, 1) == "0.0"
