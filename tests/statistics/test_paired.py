"""Paired tests against scipy, against every sign pattern written out, and under the null."""

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from trimtab.statistics import paired
from trimtab.statistics.paired import comparisons_line, holm, sign_flip_test, sign_test

WHOLE = st.lists(st.integers(-4, 4), min_size=1, max_size=9)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (60, 41), (1300, 1200)])
def test_sign_test_is_scipys(wins, losses):
    theirs = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    found = sign_test(wins, losses, 7)
    assert found.p_value == pytest.approx(theirs, rel=1e-9)
    assert (found.wins, found.losses, found.ties) == (wins, losses, 7)


@given(st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None)
def test_sign_test_is_the_binomial_written_out(wins, losses):
    n = wins + losses
    tail = sum(Fraction(comb(n, k), 2**n) for k in range(min(wins, losses) + 1))
    assert sign_test(wins, losses).p_value == pytest.approx(float(min(1, 2 * tail)), rel=1e-10)
    assert sign_test(wins, losses).p_value == sign_test(losses, wins).p_value


@given(WHOLE)
@settings(deadline=None)
def test_few_differences_are_tested_exactly(differences):
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in product([1, -1], repeat=len(differences))]  # fmt: skip
    expected = sum(value >= abs(sum(differences)) for value in sums) / len(sums)
    # Tenths, so that the same sum in another order is another float.
    found = sign_flip_test([difference / 10 for difference in differences], seed=0)
    assert found.exact and found.n == len(differences)
    assert found.patterns == 2 ** np.count_nonzero(differences)
    assert found.p_value == pytest.approx(expected, abs=1e-12)
    assert found.mean == pytest.approx(sum(differences) / len(differences) / 10, abs=1e-12)


def test_it_is_scipys_permutation_test():
    values = np.random.default_rng(1).normal(0.4, 1, 12)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(values, seed=0).p_value == pytest.approx(theirs.pvalue, rel=1e-12)


def test_many_differences_are_drawn_and_agree_with_the_exact_answer(monkeypatch):
    values = np.random.default_rng(2).normal(0.35, 1, 16)
    exact = sign_flip_test(values, seed=0)
    monkeypatch.setattr(paired, "EXACT_UP_TO", 5)
    drawn = sign_flip_test(values, seed=4, rounds=40_000)
    assert exact.exact and not drawn.exact and drawn.patterns == 40_000
    spread = (exact.p_value * (1 - exact.p_value) / 40_000) ** 0.5
    assert abs(drawn.p_value - exact.p_value) < 4 * spread
    assert drawn == sign_flip_test(values, seed=4, rounds=40_000)
    assert drawn.p_value != sign_flip_test(values, seed=5, rounds=40_000).p_value


def test_a_drawn_p_value_is_never_zero(monkeypatch):
    monkeypatch.setattr(paired, "SIGNS_AT_ONCE", 1000)  # in parts
    found = sign_flip_test(np.ones(60), seed=0, rounds=999)
    assert found.p_value == pytest.approx(1 / 1000)


def test_without_a_difference_there_is_nothing_to_tell():
    assert sign_flip_test([0.0] * 30, seed=0).p_value == 1.0


def test_it_rejects_a_true_null_as_often_as_it_says():
    """Skewed sizes with symmetric signs; the standard error of 5 % in 1500 is 0.6 %."""
    generator = np.random.default_rng(7)
    sizes = generator.exponential(1, (1500, 25)) * generator.choice([-1, 1], (1500, 25))
    p_values = np.array(
        [sign_flip_test(row, seed=index, rounds=199).p_value for index, row in enumerate(sizes)]
    )
    assert 0.03 < (p_values <= 0.05).mean() < 0.07


def test_holm_step_by_step():
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 = 0.06, no less than the one before, and 0.9.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx((0.06, 0.04, 0.9, 0.06))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([0.2]) == (0.2,)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
@settings(deadline=None)
def test_holm_lies_between_the_raw_and_bonferronis(values, random):
    adjusted = holm(values)
    for raw, mended in zip(values, adjusted, strict=True):
        assert raw <= mended <= min(1.0, raw * len(values)) + 1e-12
    order = random.sample(range(len(values)), len(values))
    assert holm([values[index] for index in order]) == tuple(adjusted[index] for index in order)


def test_several_comparisons_are_said():
    assert comparisons_line(1) == "" and comparisons_line(0) == ""
    assert comparisons_line(6).startswith("6 comparisons were made.") and "30 of 100" in comparisons_line(6)
    assert "100 of 100" in comparisons_line(45)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="counts"):
        sign_test(1, -1)
    for values in ([], [float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="differences"):
            sign_flip_test(values, seed=0)
    with pytest.raises(ValueError, match="rounds"):
        sign_flip_test([1.0], seed=0, rounds=0)
    for p_values in ([1.5], [float("nan")], [-0.1]):
        with pytest.raises(ValueError, match="p-values"):
            holm(p_values)
