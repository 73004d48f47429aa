"""bootstrap_mean against scipy's BCa on the same draws, and its coverage of a known mean."""

import numpy as np
import pytest
import scipy.stats

from trimtab.statistics import resampling
from trimtab.statistics.bootstrap import bootstrap_mean


def skewed(n, seed=0):
    return np.random.default_rng(seed).gamma(1.5, 2.0, n)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(
    "values", [skewed(40), np.array([1.0] * 30 + [0.5] * 5 + [0.0] * 12), np.array([0.0, 3.0])]
)
def test_it_is_scipys_bca(values, level):
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=2000,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    ours = bootstrap_mean(values, seed=5, level=level, rounds=2000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert ours.estimate == pytest.approx(values.mean(), rel=1e-12)
    assert (ours.level, ours.n, ours.method) == (level, values.size, "BCa bootstrap over prompts")


def test_drawing_in_parts_changes_nothing(monkeypatch):
    whole = bootstrap_mean(skewed(50), seed=1, rounds=500)
    monkeypatch.setattr(resampling, "VALUES_AT_ONCE", 50 * 7)
    assert bootstrap_mean(skewed(50), seed=1, rounds=500) == whole


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda generator: generator.choice([0.0, 0.5, 1.0], 200, p=[0.35, 0.1, 0.55]), 0.6),
        (lambda generator: generator.gamma(2.0, 1.5, 200), 3.0),
    ],
    ids=["wins, ties and losses", "a skewed quantity"],
)
def test_it_holds_the_true_mean_as_often_as_it_says(draw, mean):
    generator = np.random.default_rng(20)
    intervals = [bootstrap_mean(draw(generator), seed=seed, rounds=400) for seed in range(1000)]
    # The standard error of a share near 0.95 in 1000 trials is 0.007.
    assert 0.93 < np.mean([interval.contains(mean) for interval in intervals]) < 0.97


def test_the_seed_decides():
    values = skewed(30)
    assert bootstrap_mean(values, seed=3, rounds=200) == bootstrap_mean(values.tolist(), seed=3, rounds=200)
    assert bootstrap_mean(values, seed=3, rounds=200).low != bootstrap_mean(values, seed=4, rounds=200).low


def test_equal_values_have_no_width():
    interval = bootstrap_mean([0.1] * 3, seed=0)
    assert (interval.low, interval.high) == (interval.estimate, interval.estimate)
    assert interval.estimate == pytest.approx(0.1, rel=1e-15)


@pytest.mark.parametrize(
    "values", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")], [[1.0, 2.0], [3.0, 4.0]]]
)
def test_what_has_no_mean_over_prompts_is_refused(values):
    with pytest.raises(ValueError):
        bootstrap_mean(values, seed=0)


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds"):
        bootstrap_mean([1.0, 2.0], seed=0, rounds=99)
