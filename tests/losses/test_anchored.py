"""DPO with an anchor, against probabilities and odds and against what is known."""

from __future__ import annotations

import math

import pytest
from worked import (
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
    lengths,
    log_ratio_rewards,
    odds,
    pair,
    refused,
    share,
    tensors,
)

from trimtab.losses.anchored import dpop_loss, rpo_loss
from trimtab.losses.dpo import dpo_loss

NONE = pair(0.0, 0.0)  # a reference that turns log-probabilities into log-ratios


def rpo(row: Row, *, beta: float, likelihood: float) -> float:
    chosen, rejected = odds(row, beta)
    typical_token = row.policy.chosen ** (1 / row.lengths.chosen)
    return -math.log(share(chosen, rejected) * typical_token**likelihood)


def rpo_slopes(row: Row, *, beta: float, likelihood: float) -> Sides:
    chosen, rejected = odds(row, beta)
    wrong = share(rejected, chosen)
    return Sides(-beta * wrong - likelihood / row.lengths.chosen, beta * wrong)


def dpop_odds(row: Row, beta: float, shortfall: float) -> Sides:
    """What the chosen response lost, as a factor below 1, counts `shortfall` times more."""
    kept = min(1.0, row.ratio.chosen)
    chosen, rejected = odds(row, beta)
    return Sides(chosen * kept ** (beta * shortfall), rejected)


def dpop(row: Row, *, beta: float, shortfall: float) -> float:
    return -math.log(share(*dpop_odds(row, beta, shortfall)))


def dpop_slopes(row: Row, *, beta: float, shortfall: float) -> Sides:
    chosen, rejected = dpop_odds(row, beta, shortfall)
    wrong = share(rejected, chosen)
    steeper = 1 + shortfall if row.ratio.chosen < 1 else 1.0
    return Sides(-beta * wrong * steeper, beta * wrong)


RPO = Case(
    rpo_loss,
    "policy reference lengths",
    each(rpo),
    each(rpo_slopes),
    each(log_ratio_rewards),
    {"beta": 0.1, "likelihood": 1.0},
    {"beta": 0.7, "likelihood": 0.4},
)
DPOP = Case(
    dpop_loss,
    "policy reference",
    each(dpop),
    each(dpop_slopes),
    each(log_ratio_rewards),
    {"beta": 0.1, "shortfall": 50.0},
    {"beta": 0.7, "shortfall": 3.0},
)
CASES = [RPO, DPOP]


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


@pytest.mark.parametrize(("case", "option"), [(RPO, "likelihood"), (DPOP, "shortfall")], ids=str)
@pytest.mark.parametrize("weight", NEGATIVE)
def test_weights_are_not_negative(case: Case, option: str, weight: float) -> None:
    refused(case, f"{option} must be >= 0", **{option: weight})
    allowed(case, **{option: 0.0})


@pytest.mark.parametrize(("case", "option"), [(RPO, "likelihood"), (DPOP, "shortfall")], ids=str)
def test_a_weight_of_0_is_dpo(case: Case, option: str) -> None:
    goal = dpo_loss(**tensors("policy reference", ROWS), beta=0.7).loss.tolist()
    assert case(beta=0.7, **{option: 0.0}).loss.tolist() == goal


def test_rpo_adds_the_negative_log_likelihood_per_token_of_chosen_alone() -> None:
    policy, reference, counts = pair(-6.0, -8.0), pair(-6.0, -8.0), lengths([3], [5])
    found = rpo_loss(policy, reference, counts, likelihood=1.0).loss.item()
    assert found == pytest.approx(math.log(2) + 2.0, rel=1e-15)
    added = [
        rpo_loss(policy, reference, counts, likelihood=weight).loss.item() - math.log(2)
        for weight in (1.0, 2.0)
    ]
    assert added[1] == pytest.approx(2 * added[0], rel=1e-14)


def test_dpop_is_dpo_where_the_chosen_response_has_lost_nothing() -> None:
    for chosen in (0.0, 1e-9, 2.0):
        found = dpop_loss(pair(chosen, 1.0), NONE, beta=0.7).loss.item()
        assert found == dpo_loss(pair(chosen, 1.0), NONE, beta=0.7).loss.item()


def test_dpop_charges_each_nat_that_the_chosen_response_has_lost() -> None:
    """Both lost one nat: DPO sees no change, DPOP a margin of -beta * shortfall."""
    found = dpop_loss(pair(-1.0, -1.0), NONE, beta=0.5, shortfall=4.0).loss.item()
    assert found == pytest.approx(math.log1p(math.exp(2.0)), rel=1e-14)


def test_dpop_is_continuous_and_its_slope_jumps_where_loss_begins() -> None:
    slopes = []
    for chosen in (-1e-9, 1e-9):
        policy = pair(chosen, 0.0)
        found = dpop_loss(policy, NONE, beta=0.5, shortfall=4.0)
        assert found.loss.item() == pytest.approx(math.log(2), abs=1e-8)
        slopes.append(grads_of(found, policy).chosen)
    assert slopes == pytest.approx([5 * -0.25, -0.25], rel=1e-7)


def test_the_rewards_are_those_of_dpo() -> None:
    goal = dpo_loss(**tensors("policy reference", ROWS), beta=0.7)
    for case in CASES:
        found = case(beta=0.7)
        assert found.chosen_reward.tolist() == exactly(goal.chosen_reward.tolist())
        assert found.rejected_reward.tolist() == exactly(goal.rejected_reward.tolist())
