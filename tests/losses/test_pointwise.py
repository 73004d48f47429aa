"""Losses that judge each response by itself, against odds of one response and against what is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worked import (
    MISMATCH,
    NEGATIVE,
    NOT_POSITIVE,
    ROWS,
    Case,
    Row,
    Sides,
    allowed,
    check_gradient_by_differences,
    check_gradient_in_closed_form,
    check_value,
    each,
    exactly,
    grads_of,
    leaf,
    log_ratio_rewards,
    odds,
    pair,
    refused,
    share,
    tensors,
)

from trimtab.losses.dpo import dpo_loss
from trimtab.losses.pointwise import (
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    kto_loss,
    kto_point,
    nca_loss,
    sppo_loss,
    unpaired_kto_loss,
)

NONE = pair(0.0, 0.0)  # a reference that turns log-probabilities into log-ratios


def good(odd: float) -> float:
    """The probability that odds of one response to nothing stand for: sigma(r)."""
    return share(odd, 1.0)


def bad(odd: float) -> float:
    return share(1.0, odd)


def bell(odd: float) -> float:
    """The slope of sigma at the reward of these odds."""
    return good(odd) * bad(odd)


def nca(row: Row, *, beta: float) -> float:
    chosen, rejected = odds(row, beta)
    return -math.log(good(chosen) * math.sqrt(bad(chosen) * bad(rejected)))


def nca_slopes(row: Row, *, beta: float) -> Sides:
    chosen, rejected = odds(row, beta)
    return Sides(beta * (good(chosen) / 2 - bad(chosen)), beta * good(rejected) / 2)


def bco(row: Row, *, beta: float, shift: float) -> float:
    chosen, rejected = (odd / math.exp(shift) for odd in odds(row, beta))
    return -math.log(good(chosen) * bad(rejected))


def bco_slopes(row: Row, *, beta: float, shift: float) -> Sides:
    chosen, rejected = (odd / math.exp(shift) for odd in odds(row, beta))
    return Sides(-beta * bad(chosen), beta * good(rejected))


def sppo(row: Row, *, beta: float) -> float:
    return (math.log(row.ratio.chosen) - 0.5 / beta) ** 2 + (math.log(row.ratio.rejected) + 0.5 / beta) ** 2


def sppo_slopes(row: Row, *, beta: float) -> Sides:
    chosen, rejected = (math.log(ratio) for ratio in row.ratio)
    return Sides(2 * chosen - 1 / beta, 2 * rejected + 1 / beta)


def apo_zero(row: Row, *, beta: float) -> float:
    chosen, rejected = odds(row, beta)
    return 1 - good(chosen) + good(rejected)


def apo_zero_slopes(row: Row, *, beta: float) -> Sides:
    chosen, rejected = odds(row, beta)
    return Sides(-beta * bell(chosen), beta * bell(rejected))


def apo_down(row: Row, *, beta: float) -> float:
    chosen, rejected = odds(row, beta)
    return good(chosen) + 1 - share(chosen, rejected)


def apo_down_slopes(row: Row, *, beta: float) -> Sides:
    chosen, rejected = odds(row, beta)
    lead = bell(chosen / rejected)
    return Sides(beta * (bell(chosen) - lead), beta * lead)


def kto_odds(row: Row, beta: float) -> Sides:
    """Odds against the reference point, which is above 0 for MISMATCH."""
    point = math.exp(beta * sum(MISMATCH) / len(MISMATCH))
    chosen, rejected = odds(row, beta)
    return Sides(chosen / point, rejected / point)


def kto(row: Row, *, beta: float, chosen_weight: float, rejected_weight: float) -> float:
    chosen, rejected = kto_odds(row, beta)
    return (chosen_weight * (1 - good(chosen)) + rejected_weight * (1 - bad(rejected))) / 2


def kto_slopes(row: Row, *, beta: float, chosen_weight: float, rejected_weight: float) -> Sides:
    chosen, rejected = kto_odds(row, beta)
    return Sides(-beta * chosen_weight * bell(chosen) / 2, beta * rejected_weight * bell(rejected) / 2)


BOTH = "policy reference"
REWARDS = each(log_ratio_rewards)
BETA, OTHER = {"beta": 0.1}, {"beta": 0.7}
CASES = [
    Case(nca_loss, BOTH, each(nca), each(nca_slopes), REWARDS, BETA, OTHER),
    Case(
        bco_loss,
        BOTH,
        each(bco),
        each(bco_slopes),
        REWARDS,
        {"beta": 0.1, "shift": 0.0},
        {"beta": 0.7, "shift": -0.4},
    ),
    Case(sppo_loss, BOTH, each(sppo), each(sppo_slopes), REWARDS, BETA, OTHER),
    Case(apo_zero_loss, BOTH, each(apo_zero), each(apo_zero_slopes), REWARDS, BETA, OTHER),
    Case(apo_down_loss, BOTH, each(apo_down), each(apo_down_slopes), REWARDS, BETA, OTHER),
    Case(
        kto_loss,
        f"{BOTH} mismatch",
        each(kto),
        each(kto_slopes),
        REWARDS,
        {"beta": 0.1, "chosen_weight": 1.0, "rejected_weight": 1.0},
        {"beta": 0.7, "chosen_weight": 0.6, "rejected_weight": 1.7},
    ),
]
KTO = CASES[-1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case) -> None:
    check_value(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_by_differences(case: Case) -> None:
    check_gradient_by_differences(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_in_closed_form(case: Case) -> None:
    check_gradient_in_closed_form(case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("beta", NOT_POSITIVE)
def test_beta_is_positive(case: Case, beta: float) -> None:
    refused(case, "beta must be > 0", beta=beta)
    allowed(case, beta=1e-9)


@pytest.mark.parametrize("shift", [math.nan, math.inf, -math.inf])
def test_the_shift_of_bco_is_finite(shift: float) -> None:
    refused(CASES[1], "shift must be a finite number", shift=shift)
    for other in (-100.0, 100.0):
        allowed(CASES[1], shift=other)


@pytest.mark.parametrize("option", ["chosen_weight", "rejected_weight"])
@pytest.mark.parametrize("weight", NEGATIVE)
def test_weights_of_kto_are_not_negative(option: str, weight: float) -> None:
    refused(KTO, f"{option} must be >= 0", **{option: weight})
    allowed(KTO, **{option: 0.0})


UNTRAINED = {
    "nca": 2 * math.log(2),
    "bco": 2 * math.log(2),
    "sppo": 1 / (2 * 0.1**2),
    "apo_zero": 1.0,
    "apo_down": 1.0,
}


@pytest.mark.parametrize("case", CASES[:-1], ids=str)
def test_an_untrained_policy(case: Case) -> None:
    found = case.loss(pair(-4.0, -9.0), pair(-4.0, -9.0))
    assert found.loss.item() == pytest.approx(UNTRAINED[case.loss.__name__.removesuffix("_loss")], rel=1e-14)
    assert (found.chosen_reward.item(), found.rejected_reward.item()) == (0, 0)


# NCA


def test_nca_holds_the_chosen_reward_at_ln_2() -> None:
    """-(1 - s) + s / 2 = 0 at s = 2/3; the rejected reward has no floor."""
    policy = pair(math.log(2), -700.0)
    found = nca_loss(policy, NONE, beta=1.0)
    assert grads_of(found, policy) == pytest.approx((0, 0), abs=1e-15)
    assert found.loss.item() == pytest.approx(math.log(3 / 2) + math.log(3) / 2, rel=1e-14)
    for aside in (math.log(2) - 0.01, math.log(2) + 0.01):
        assert nca_loss(pair(aside, -700.0), NONE, beta=1.0).loss.item() > found.loss.item()


# BCO


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(-100, 100))
def test_bco_is_an_upper_bound_of_dpo_for_every_shift(chosen: float, rejected: float, shift: float) -> None:
    policy = pair(chosen, rejected)
    bound = bco_loss(policy, NONE, beta=1.0, shift=shift).loss.item()
    assert bound >= dpo_loss(policy, NONE, beta=1.0).loss.item() * (1 - 1e-14)


def test_bco_with_a_shift_between_certain_rewards_is_0() -> None:
    assert bco_loss(pair(50.0, 10.0), NONE, beta=1.0, shift=30.0).loss.item() < 1e-8
    assert bco_loss(pair(50.0, 10.0), NONE, beta=1.0, shift=0.0).loss.item() == pytest.approx(10, rel=1e-4)


# SPPO


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_sppo_ends_at_plus_and_minus_half_of_1_over_beta(beta: float) -> None:
    policy = pair(0.5 / beta, -0.5 / beta)
    found = sppo_loss(policy, NONE, beta=beta)
    assert found.loss.item() == 0
    assert grads_of(found, policy) == (0, 0)
    assert (found.chosen_reward.item(), found.rejected_reward.item()) == (0.5, -0.5)


# APO


def test_apo_zero_ends_at_chosen_up_and_rejected_down() -> None:
    assert apo_zero_loss(pair(700.0, -700.0), NONE, beta=1.0).loss.item() == pytest.approx(0, abs=1e-300)
    assert apo_zero_loss(pair(-700.0, 700.0), NONE, beta=1.0).loss.item() == 2


def test_apo_down_ends_at_both_down_and_rejected_further() -> None:
    assert apo_down_loss(pair(-700.0, -1400.0), NONE, beta=1.0).loss.item() == pytest.approx(0, abs=1e-300)
    assert apo_down_loss(pair(700.0, 1400.0), NONE, beta=1.0).loss.item() == 2


def test_apo_down_lowers_the_chosen_reward_once_the_lead_is_larger() -> None:
    policy = pair(1.0, -1.0)
    slopes = grads_of(apo_down_loss(policy, NONE, beta=1.0), policy)
    assert slopes.chosen > 0 and slopes.rejected > 0
    policy = pair(-1.0, -1.5)
    slopes = grads_of(apo_down_loss(policy, NONE, beta=1.0), policy)
    assert slopes.chosen < 0 < slopes.rejected


def test_apo_down_starts_by_pushing_the_rejected_response_alone() -> None:
    policy = pair(-3.0, -5.0)
    assert grads_of(apo_down_loss(policy, pair(-3.0, -5.0), beta=0.4), policy) == pytest.approx((0, 0.1))


# KTO


def test_kto_at_the_reference_is_a_half_of_each_weight() -> None:
    found = kto_loss(pair(-4.0, -9.0), pair(-4.0, -9.0), leaf([0.0, 0.0]))
    assert found.loss.item() == 0.5
    weighed = kto_loss(NONE, NONE, leaf([0.0]), chosen_weight=3.0, rejected_weight=0.5)
    assert weighed.loss.item() == pytest.approx((3.0 + 0.5) / 4, rel=1e-15)


def test_kto_ends_at_chosen_up_and_rejected_down() -> None:
    best, worst = pair(700.0, -700.0), pair(-700.0, 700.0)
    assert kto_loss(best, NONE, leaf([1.0]), beta=1.0).loss.item() == pytest.approx(0, abs=1e-300)
    assert kto_loss(worst, NONE, leaf([1.0]), beta=1.0).loss.item() == 1


@pytest.mark.parametrize(
    ("mismatch", "expected"),
    [([3.0, -1.0, 0.5], 0.7 * 2.5 / 3), ([-3.0, 1.0], 0.0), ([0.0], 0.0), ([8.0], 5.6)],
)
def test_the_reference_point_is_the_mean_of_mismatched_rewards_and_at_least_0(
    mismatch: list[float], expected: float
) -> None:
    log_ratios = leaf(mismatch)
    point = kto_point(log_ratios, beta=0.7)
    assert point.shape == ()
    assert point.item() == pytest.approx(expected, rel=1e-15)
    assert not point.requires_grad


@pytest.mark.parametrize("beta", NOT_POSITIVE)
def test_beta_of_the_reference_point_is_positive(beta: float) -> None:
    with pytest.raises(ValueError, match=f"^beta must be > 0, got {beta}$"):
        kto_point(leaf([1.0]), beta=beta)


def test_the_reference_point_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the reference point needs at least one mismatched response$"):
        kto_point(leaf([]), beta=0.1)


def test_the_reference_point_takes_no_gradient_and_below_0_it_is_0() -> None:
    mismatch = leaf(MISMATCH)
    kto_loss(pair(0.3, -0.2), NONE, mismatch).loss.sum().backward()
    assert mismatch.grad is None
    below = kto_loss(pair(0.3, -0.2), NONE, leaf([-7.0, 1.0])).loss.item()
    assert below == kto_loss(pair(0.3, -0.2), NONE, leaf([0.0])).loss.item()


def test_the_paired_form_is_the_mean_of_the_unpaired() -> None:
    inputs = tensors(KTO.reads, ROWS)
    paired = kto_loss(**inputs, beta=0.7).loss
    chosen, rejected = (
        unpaired_kto_loss(
            ours - theirs,
            torch.full((len(ROWS),), side),
            kto_point(inputs["mismatch"], beta=0.7),
            beta=0.7,
        )
        for ours, theirs, side in zip(inputs["policy"], inputs["reference"], (True, False), strict=True)
    )
    assert ((chosen + rejected) / 2).tolist() == exactly(paired.tolist())


@pytest.mark.parametrize(("options", "beta"), [({}, 0.1), ({"beta": 0.7}, 0.7)])
def test_rated_responses_against_odds(options: dict[str, float], beta: float) -> None:
    ratios, labels, point = [0.4, -1.5, 3.0, -0.2, 0.0], [True, False, False, True, True], 0.3
    log_ratios = leaf(ratios)
    found = unpaired_kto_loss(log_ratios, torch.tensor(labels), leaf([point]).detach()[0], **options)
    against = [math.exp(ratio) ** beta / math.exp(point) for ratio in ratios]
    rated = list(zip(labels, against, strict=True))
    assert found.tolist() == exactly([bad(odd) if label else good(odd) for label, odd in rated])
    (slopes,) = torch.autograd.grad(found.sum(), log_ratios)
    assert slopes.tolist() == exactly([(-beta if label else beta) * bell(odd) for label, odd in rated])


@pytest.mark.parametrize("beta", NOT_POSITIVE)
def test_beta_of_rated_responses_is_positive(beta: float) -> None:
    with pytest.raises(ValueError, match=f"^beta must be > 0, got {beta}$"):
        unpaired_kto_loss(leaf([1.0]), torch.tensor([True]), torch.tensor(0.0), beta=beta)
