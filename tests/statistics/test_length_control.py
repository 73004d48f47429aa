"""The length-controlled rate against a general minimiser, its mirror, its limits, and a known truth."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from trimtab.statistics.length_control import fit_intervals, length_controlled
from trimtab.statistics.rates import rate_interval

PAIRS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 400), st.integers(0, 400)),
    min_size=2,
    max_size=25,
)


def drawn(n, theta=0.4, phi=1.5, seed=0):
    generator = np.random.default_rng(seed)
    left, right = generator.gamma(4, 60, n), generator.gamma(4, 40, n)
    scale = np.sqrt(np.mean((left - right) ** 2))
    outcomes = (generator.random(n) < expit(theta + phi * np.tanh((left - right) / scale))).astype(float)
    outcomes[generator.random(n) < 0.1] = 0.5
    return outcomes, left, right


def by_minimiser(outcomes, differences):
    """(theta, phi) by a general minimiser on the likelihood written out, prior judgments and all."""
    scale = np.sqrt(np.mean(differences**2))
    contrasts = np.tanh(differences / scale)

    def cost(parameters):
        theta, phi = parameters
        odds = theta + phi * contrasts
        data = -(outcomes * np.log(expit(odds)) + (1 - outcomes) * np.log(expit(-odds))).sum()
        return data - sum(0.5 * np.log(expit(x)) + 0.5 * np.log(expit(-x)) for x in (theta, phi))

    return minimize(cost, [0.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fit_is_the_penalised_maximum(seed):
    outcomes, left, right = drawn(80, seed=seed)
    theta, phi = by_minimiser(outcomes, left - right)
    found = length_controlled(outcomes, left, right, seed=0, rounds=100)
    assert found.controlled.estimate == pytest.approx(expit(theta), abs=1e-6)
    assert found.length_effect.estimate == pytest.approx(phi, abs=1e-5)
    assert (found.mean_left, found.mean_right) == pytest.approx((left.mean(), right.mean()))
    assert found.raw == rate_interval(outcomes, seed=0).quoted


def test_the_interval_is_that_of_a_bootstrap_written_out():
    outcomes, left, right = drawn(60)
    generator = np.random.default_rng(9)
    rounds = np.array([
        by_minimiser(outcomes[rows], (left - right)[rows])  # its own scale in every round
        for rows in generator.integers(0, 60, (100, 60))
    ])  # fmt: skip
    theta, phi = by_minimiser(outcomes, left - right)
    found = length_controlled(outcomes, left, right, seed=9, rounds=100)
    for interval, estimate, spread in (
        (found.controlled, theta, rounds[:, 0].std()),
        (found.length_effect, phi, rounds[:, 1].std()),
    ):
        ends = np.array([interval.low, interval.high])
        in_nats = logit(ends) if interval is found.controlled else ends
        assert in_nats == pytest.approx(
            [estimate - 1.959964 * spread, estimate + 1.959964 * spread], abs=1e-4
        )
    assert (found.controlled.n, found.controlled.level) == (60, 0.95)


@given(PAIRS)
@settings(deadline=None, max_examples=30)
def test_exchanging_the_policies_mirrors_everything(pairs):
    outcomes, left, right = map(list, zip(*pairs, strict=True))
    here = length_controlled(outcomes, left, right, seed=4, rounds=100)
    there = length_controlled([1 - outcome for outcome in outcomes], right, left, seed=4, rounds=100)
    for one, other in ((here.raw, there.raw), (here.controlled, there.controlled)):
        assert (one.low, one.estimate, one.high) == pytest.approx(
            (1 - other.high, 1 - other.estimate, 1 - other.low), abs=1e-9
        )
    # What length is worth does not depend on who is called left.
    assert here.length_effect.estimate == pytest.approx(there.length_effect.estimate, abs=1e-9)
    assert here.length_effect.low == pytest.approx(there.length_effect.low, abs=1e-9)
    assert (here.mean_left, here.mean_right) == (there.mean_right, there.mean_left)


def test_the_unit_of_length_is_nothing_to_it():
    outcomes, left, right = drawn(70)
    characters = length_controlled(outcomes, left, right, seed=0, rounds=100)
    tokens = length_controlled(outcomes, left / 4.2, right / 4.2, seed=0, rounds=100)
    assert characters.controlled.estimate == pytest.approx(tokens.controlled.estimate, abs=1e-12)
    assert characters.controlled.low == pytest.approx(tokens.controlled.low, abs=1e-12)


def test_a_judge_of_length_is_found_out():
    """Left is longer on three prompts of four; the longer answer wins nine times in ten: 70 % raw, 50 % at
    equal length."""
    differences = np.array([200.0, 200.0, 200.0, -200.0] * 100)
    wins = np.where(np.arange(400) % 40 < 4, differences < 0, differences > 0) * 1.0
    found = length_controlled(wins, 500 + differences, np.full(400, 500.0), seed=0)
    assert found.raw.estimate == 0.7 and found.raw.low > 0.6
    assert found.controlled.estimate == pytest.approx(0.5, abs=0.01) and found.controlled.contains(0.5)
    assert found.length_effect.estimate == pytest.approx(logit(0.9) / np.tanh(1), rel=0.03)
    assert found.length_effect.low > 1 and found.caution == ""


def test_where_length_tells_all_the_policies_cannot_be_told():
    """Separated: any theta between the differences -200 and 100 fits. Bootstrap rounds are all alike."""
    differences = np.array([300.0, 200.0, 100.0, -200.0] * 50)
    found = length_controlled((differences > 0) * 1.0, 500 + differences, np.full(200, 500.0), seed=0)
    assert found.raw.low > 0.65
    assert found.controlled.low < 0.4 and found.controlled.high > 0.9
    assert found.length_effect.low > 1 and np.isfinite(found.length_effect.high)
    assert found.caution.startswith("Length alone tells nearly every outcome")


def test_equal_lengths_leave_the_raw_rate():
    found = length_controlled([1.0] * 130 + [0.0] * 70, [9] * 200, [9] * 200, seed=0)
    assert found.controlled.estimate == pytest.approx(130.5 / 201)  # Jeffreys' half win and half loss
    assert (found.length_effect.low, found.length_effect.estimate, found.length_effect.high) == (0, 0, 0)
    assert found.caution == "All pairs are of equal length, so there was nothing to control for."
    assert found.controlled.low == pytest.approx(found.raw.low, abs=0.01)


def test_a_policy_that_always_wins_is_not_certain():
    lengths = np.arange(200.0)
    found = length_controlled(np.ones(200), lengths, lengths[::-1], seed=0)
    assert 0.9 < found.controlled.low < found.raw.low < found.controlled.estimate < found.controlled.high < 1
    assert found.caution == "Only 0 losses in 200 prompts: the interval is rough."
    assert length_controlled([1.0] * 9, range(9), range(9, 0, -1), seed=0, rounds=100).caution == (
        "Only 9 wins and 0 losses in 9 prompts: the interval is rough."
    )


@pytest.mark.parametrize("wins", [0, 3, 5])
def test_ties_are_neither_wins_nor_losses(wins):
    """The fit's bootstrap has no width for ties alone, and leaves 50 % out for 5 wins in 195."""
    outcomes = np.array([1.0] * wins + [0.5] * (200 - wins))
    lengths = np.random.default_rng(0).integers(50, 500, (2, 200))
    found = length_controlled(outcomes, *lengths, seed=0)
    assert found.controlled.low < 0.5 < found.controlled.high
    # As sure as the raw rate, which lengths that tell nothing cannot change.
    assert (found.controlled.low, found.controlled.high) == pytest.approx(
        (found.raw.low, found.raw.high), abs=0.003
    )
    assert found.length_effect.low < 0 < found.length_effect.high
    assert found.caution == f"Only {wins} wins and 0 losses in 200 prompts: the interval is rough."


@pytest.mark.parametrize(("longer", "said"), [(96, True), (95, False)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_extrapolation_is_said(longer, said, side):
    left, right = np.array([2.0] * longer + [1.0] * (100 - longer)), np.full(100, 1.5)
    if side == "right":
        left, right = right, left
    caution = length_controlled([1.0, 0.0] * 50, left, right, seed=0, rounds=100).caution
    assert (f"The {side} answer is the longer one on 96" in caution) == said
    assert bool(caution) == said


def test_few_prompts_are_said():
    assert "Only 20 prompts" in length_controlled([1.0, 0.0] * 10, [1, 2] * 10, [2, 1] * 10, seed=0).caution


@pytest.mark.parametrize(("theta", "phi"), [(0.0, 1.0), (logit(0.8), -1.5)])
def test_it_holds_the_truth_as_often_as_it_says(theta, phi):
    """The standard error of a share near 0.95 in 300 is 0.013."""
    generator = np.random.default_rng(31)
    held = raw = 0
    for simulation in range(300):
        differences = generator.normal(60, 100, 200)
        chances = expit(theta + phi * np.tanh(differences / np.hypot(60, 100)))
        outcomes = (generator.random(200) < chances).astype(float)
        controlled, _ = fit_intervals(outcomes, differences, seed=simulation, rounds=100)
        held += controlled.contains(expit(theta))
        raw += abs(outcomes.mean() - expit(theta)) < 0.07
    assert 0.91 < held / 300 < 0.985
    assert raw < held  # or the test would not need the model


def test_it_is_fast():
    outcomes, left, right = drawn(1000)
    began = time.process_time()
    length_controlled(outcomes, left, right, seed=0, rounds=2000)
    assert time.process_time() - began < 6  # 1.5 s on a quiet core


@pytest.mark.parametrize(
    ("outcomes", "left", "right"),
    [
        ([1.0], [1], [2]),
        ([1.0, 0.0], [1, 2], [1]),
        ([1.0, 0.0], [1, -2], [1, 2]),
        ([1.0, 0.0], [1, float("nan")], [1, 2]),
        ([1.0, 1.5], [1, 2], [1, 2]),
    ],
)
def test_nonsense_is_refused(outcomes, left, right):
    with pytest.raises(ValueError):
        length_controlled(outcomes, left, right, seed=0)
