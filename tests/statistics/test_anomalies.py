"""Exact tests against enumeration and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trimtab.statistics.anomalies import at_least_p, fewer_p, longest_run_p, robust_z


@pytest.mark.parametrize("flips", range(1, 11))
def test_the_longest_run_is_that_of_all_sequences(flips):
    longest = [
        max(len(list(same)) for _, same in itertools.groupby(sequence))
        for sequence in itertools.product((0, 1), repeat=flips)
    ]
    for run in range(1, flips + 2):
        share = sum(one >= run for one in longest) / len(longest)
        assert longest_run_p(flips, run) == pytest.approx(share, abs=1e-12)


def test_a_very_long_run_keeps_its_small_chance():
    assert longest_run_p(60, 60) == pytest.approx(2.0**-59, rel=1e-12)
    assert longest_run_p(61, 60) == pytest.approx(3 * 2.0**-60, rel=1e-9)


@pytest.mark.parametrize(("flips", "run"), [(-1, 1), (3, 0)])
def test_runs_that_cannot_be_are_refused(flips, run):
    with pytest.raises(ValueError, match="a run of at least 1"):
        longest_run_p(flips, run)


@given(st.lists(st.floats(0, 1), max_size=7))
@settings(max_examples=50)
def test_at_least_is_the_sum_over_all_outcomes(probabilities):
    for hits in range(len(probabilities) + 2):
        total = 0.0
        for outcome in itertools.product((0, 1), repeat=len(probabilities)):
            if sum(outcome) >= hits:
                total += np.prod([p if so else 1 - p for p, so in zip(probabilities, outcome, strict=True)])
        assert at_least_p(probabilities, hits) == pytest.approx(total, abs=1e-12)


def test_equal_chances_are_binomial():
    assert at_least_p([0.3] * 400, 160) == pytest.approx(stats.binom.sf(159, 400, 0.3), rel=1e-9)


def test_a_chance_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="lie in"):
        at_least_p([1.1], 1)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_fewer_is_fishers_exact_test(a, b, c, d):
    """A table of hits a and misses b of one group, c and d of the rest."""
    expected = stats.fisher_exact([[a, b], [c, d]], alternative="less").pvalue
    assert fewer_p(a, a + b, a + c, a + b + c + d) == pytest.approx(expected, rel=1e-8)


def test_a_table_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no table"):
        fewer_p(3, 2, 5, 10)


def test_robust_z_in_plain_numbers():
    # Median 3, distances 2 1 0 1 97, of which the median is 1.
    assert robust_z([1, 2, 3, 4, 100]) == pytest.approx([-1.349, -0.6745, 0, 0.6745, 97 * 0.6745])
    assert robust_z([2, 2, 2, 9]) is None and robust_z([]) is None
    normal = np.random.default_rng(0).normal(5, 2, 20_000)
    assert robust_z(normal) == pytest.approx((normal - 5) / 2, abs=0.1)
