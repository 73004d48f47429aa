"""Reliability bins and the calibration error in plain loops, in known cases, and against a known truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from trimtab.statistics.calibration import (
    Forecasts,
    calibration,
    equal_mass_edges,
    fitted_temperature,
    from_margins,
)
from trimtab.statistics.rates import score_interval


def forecasts(n, seed, sharpness=1.0):
    """Probabilities whose true log-odds are `sharpness` times those said."""
    generator = np.random.default_rng(seed)
    said = expit(np.abs(generator.normal(0, 1.5, n)))
    return Forecasts(said, (generator.random(n) < expit(sharpness * logit(said))).astype(float))


def test_bins_are_what_a_loop_finds():
    given_ = forecasts(103, 0)
    found = calibration(given_, seed=0, rounds=100)
    raw = 0.0
    left = list(found.bins)
    in_order = sorted(given_.probabilities)
    # Each edge is the first forecast with at least a tenth, two tenths, ... of the others' gaps below it.
    edges = [0.0, *(in_order[math.ceil(102 * tenth / 10)] for tenth in range(1, 10)), 1.1]
    for index in range(10):
        inside = [(p, y) for p, y in zip(*given_, strict=True) if edges[index] <= p < edges[index + 1]]
        bin_ = left.pop(0)
        said, came = (np.mean(side) for side in zip(*inside, strict=True))
        assert bin_.count == len(inside)
        assert (bin_.mean_probability, bin_.happened.estimate) == pytest.approx((said, came))
        assert (bin_.low, bin_.high) == (min(p for p, _ in inside), max(p for p, _ in inside))
        assert bin_.happened == score_interval([y for _, y in inside])
        raw += len(inside) / 103 * abs(said - came)
    assert not left
    assert found.raw_error == pytest.approx(raw, abs=1e-12)


def test_equal_mass_bins_hold_as_many():
    found = calibration(forecasts(200, 1), seed=0, rounds=100)
    assert [bin_.count for bin_ in found.bins] == [20] * 10
    assert all(one.high < other.low for one, other in zip(found.bins, found.bins[1:], strict=False))


@given(st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.99]), min_size=1, max_size=40))
@settings(deadline=None, max_examples=40)
def test_equal_forecasts_share_a_bin(said):
    found = calibration(Forecasts(np.array(said), np.ones(len(said))), seed=0, rounds=100)
    assert sum(bin_.count for bin_ in found.bins) == len(said)
    assert all(one.high < other.low for one, other in zip(found.bins, found.bins[1:], strict=False))
    assert found.raw_error == pytest.approx(1 - np.mean(said), abs=1e-12)


def test_margins_are_read_from_the_preferred_side():
    found = from_margins([2.0, -1.0, 0.0, math.inf])
    assert found.probabilities == pytest.approx([expit(2), expit(1), 0.5, 1.0])
    assert found.outcomes.tolist() == [1, 0, 0.5, 1]


def test_a_model_that_is_right_is_not_called_wrong():
    """The raw error of a right model is pure noise: the interval holds 0 about 97 times in 100."""
    found = [calibration(forecasts(200, seed), seed=seed, rounds=200) for seed in range(100)]
    assert np.mean([one.error.low == 0 for one in found]) > 0.9
    assert np.mean([one.raw_error for one in found]) == pytest.approx(found[0].noise, rel=0.15)
    assert np.mean([one.error.estimate for one in found]) < 0.5 * found[0].noise


@pytest.mark.parametrize("sharpness", [0.4, 0.8])
def test_it_holds_the_true_error_as_often_as_it_says(sharpness):
    crowd = forecasts(50_000, 999).probabilities
    short = expit(sharpness * logit(crowd)) - crowd
    held = []
    for seed in range(120):
        sample = forecasts(200, seed, sharpness)
        edges = equal_mass_edges(sample.probabilities)
        truth = np.abs(np.bincount(np.searchsorted(edges, crowd, side="right"), weights=short)).sum() / 50_000
        held.append(calibration(sample, seed=seed, rounds=200).error.contains(truth))
    assert np.mean(held) > 0.88  # the standard error is 0.02


def test_a_gross_error_is_found_and_sized():
    generator = np.random.default_rng(0)
    said = np.full(2000, 0.9)
    found = calibration(Forecasts(said, (generator.random(2000) < 0.6) * 1.0), seed=0)
    assert found.error.contains(0.3) and found.error.low > 0.25 and found.error.high < 0.35
    assert len(found.bins) == 1 and found.bins[0].happened.contains(0.6)
    assert found.error.low <= found.error.estimate <= found.error.high


def test_flawless_forecasts_have_no_error():
    found = calibration(Forecasts(np.array([0.0, 1.0] * 30), np.array([0.0, 1.0] * 30)), seed=0)
    assert (found.raw_error, found.error.low, found.error.estimate, found.error.high) == (0, 0, 0, 0)
    assert found.noise == 0


def test_the_order_of_pairs_is_nothing_to_the_bins():
    said, came = forecasts(80, 3)
    order = np.random.default_rng(0).permutation(80)
    here, there = (
        calibration(Forecasts(said, came), seed=0, rounds=100),
        calibration(Forecasts(said[order], came[order]), seed=0, rounds=100),
    )
    assert here.raw_error == pytest.approx(there.raw_error, abs=1e-12)
    assert [bin_.count for bin_ in here.bins] == [bin_.count for bin_ in there.bins]


@pytest.mark.parametrize(
    ("said", "came"),
    [([], []), ([0.5], [1, 0]), ([1.1], [1]), ([0.5], [2]), ([float("nan")], [1]), ([[0.5]], [[1]])],
)
def test_what_is_no_forecast_is_refused(said, came):
    with pytest.raises(ValueError):
        calibration(Forecasts(np.array(said), np.array(came)), seed=0)


def test_nonsense_is_refused():
    for margins in ([], [float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="margins"):
            from_margins(margins)
    with pytest.raises(ValueError, match="at least 1 bin"):
        equal_mass_edges(np.array([0.5]), 0)


def sure(pairs, wrong, probability=0.98):
    """Nearly equal forecasts, some of which do not come true, spread evenly."""
    said = np.linspace(probability - 0.005, probability + 0.005, pairs)
    came = np.diff(np.arange(pairs + 1) * wrong // pairs) == 0
    return calibration(Forecasts(said, came * 1.0), seed=0, rounds=200)


@pytest.mark.parametrize(
    ("pairs", "wrong", "probability", "verdict"),
    [
        (1, 0, 0.73, None),
        (99, 40, 0.9, None),
        (100, 40, 0.9, True),
        (100, 20, 0.8, False),
        (400, 0, 0.98, None),  # 8 wrong ones were forecast and none seen: that happens
        (400, 19, 0.98, None),
        (400, 40, 0.98, True),
        (400, 0, 0.9, True),  # 40 were forecast
        (200, 200, 0.98, True),  # none was right
    ],
)
def test_a_verdict_needs_pairs_and_both_outcomes(pairs, wrong, probability, verdict):
    assert sure(pairs, wrong, probability).miscalibrated is verdict


def test_alike_pairs_give_no_verdict():
    found = calibration(Forecasts(np.full(400, 0.9), np.ones(400)), seed=0, rounds=200)
    assert found.error.low == found.error.high > 0
    assert found.miscalibrated is None


@pytest.mark.parametrize(
    ("mean", "spread", "pairs"), [(0, 1.5, 100), (2, 0.01, 200), (6, 1, 200), (8, 2, 500)]
)
def test_right_models_are_seldom_called_wrong(mean, spread, pairs):
    """Two of these are nearly sure, and 46 and 32 of 100 of their intervals lie above 0."""
    generator = np.random.default_rng(pairs)
    called = []
    for seed in range(100):
        said = expit(np.abs(generator.normal(mean, spread, pairs)))
        came = (generator.random(pairs) < said) * 1.0
        called.append(calibration(Forecasts(said, came), seed=seed, rounds=100).miscalibrated)
    assert called.count(True) <= 10  # the standard error of 5 in 100 is 2


def test_the_temperature_is_found_again():
    """Choices drawn by sigma(m), margins given as 2.5 m: a grid finds the same maximum."""
    draw = np.random.default_rng(4)
    size = draw.normal(0, 1.5, 4000)
    given = 2.5 * np.where(draw.random(4000) < expit(size), size, -size)
    found = fitted_temperature(given)
    grid = np.linspace(1.5, 4, 2501)
    likelihood = [-np.logaddexp(0, -given / one).sum() for one in grid]
    assert found == pytest.approx(grid[int(np.argmax(likelihood))], abs=1e-3)
    assert found == pytest.approx(2.5, rel=0.1)
    assert fitted_temperature(given / found) == pytest.approx(1)


@pytest.mark.parametrize("margins", [[1.0, 2.0, 0.0], [1.0, -2.0], [1.0, -1.0], [0.0, 0.0], [-1.0]])
def test_where_no_temperature_fits_there_is_none(margins):
    assert fitted_temperature(margins) is None


def test_a_temperature_of_large_and_of_small_margins():
    for scale in (1e-6, 1.0, 1e6):
        assert fitted_temperature([3 * scale, 2 * scale, -scale]) == pytest.approx(
            scale * fitted_temperature([3.0, 2.0, -1.0])
        )
