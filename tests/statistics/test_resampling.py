"""Draws are reproducible and complete; BCa ends are those of the mean's own bootstrap and of scipy."""

import numpy as np
import pytest
import scipy.stats

from trimtab.statistics import resampling
from trimtab.statistics.resampling import bca_ends, draw_counts, draws


def test_counts_are_the_draws_counted(monkeypatch):
    monkeypatch.setattr(resampling, "VALUES_AT_ONCE", 7 * 30)  # in parts of 30 rounds
    parts = list(draws(7, 100, 5))
    assert [len(part) for part in parts] == [30, 30, 30, 10]
    counted = np.concatenate(list(draw_counts(7, 100, 5)))
    assert counted.tolist() == [
        [row.tolist().count(unit) for unit in range(7)] for row in np.concatenate(parts)
    ]


def test_parts_change_nothing_but_memory(monkeypatch):
    whole = np.concatenate(list(draws(7, 100, 5)))
    monkeypatch.setattr(resampling, "VALUES_AT_ONCE", 1)
    assert (np.concatenate(list(draws(7, 100, 5))) == whole).all()
    assert (np.concatenate(list(draws(7, 100, 6))) != whole).any()


def test_every_unit_is_drawn_as_often():
    counts = np.concatenate(list(draw_counts(20, 4000, 1)))
    assert (counts.sum(axis=1) == 20).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.08)
    assert counts.var() == pytest.approx(1 - 1 / 20, rel=0.05)


def test_bca_is_scipys_for_a_ratio():
    x, y = np.random.default_rng(3).gamma(2, 1, (2, 30))
    theirs = scipy.stats.bootstrap(
        (x, y),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=1000,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    without = np.array([np.delete(x, i).mean() / np.delete(y, i).mean() for i in range(30)])
    estimate = x.mean() / y.mean()
    found = bca_ends(estimate, theirs.bootstrap_distribution, estimate - without, np.ones(30), 0.95)
    assert found == pytest.approx(tuple(theirs.confidence_interval), rel=1e-9)


def test_weights_stand_for_units():
    replicates = np.random.default_rng(0).normal(size=500)
    influence, weights = np.array([-1.0, 0.5, 4.0]), np.array([5.0, 2.0, 1.0])
    one = bca_ends(0.1, replicates, influence, weights, 0.9)
    assert one == pytest.approx(
        bca_ends(0.1, replicates, influence.repeat([5, 2, 1]), np.ones(8), 0.9), abs=1e-12
    )
    assert one != bca_ends(0.1, replicates, influence, np.ones(3), 0.9)


def test_degenerate_rounds_have_ends():
    assert bca_ends(0.3, np.full(100, 0.3), np.zeros(4), np.ones(4), 0.95) == (0.3, 0.3)
    low, high = bca_ends(5.0, np.linspace(0, 1, 100), np.zeros(4), np.ones(4), 0.95)
    assert 0 <= low <= high <= 1


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="at least one unit"):
        next(draws(0, 100, 0))
    with pytest.raises(ValueError, match="rounds"):
        next(draw_counts(5, 99, 0))
