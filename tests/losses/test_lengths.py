"""Losses that account for length, against products over single tokens and against what is known."""

from __future__ import annotations

import math

import pytest
import torch
from worked import (
    NOT_POSITIVE,
    ROWS,
    TOKENS,
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
    logprobs,
    odds,
    pair,
    refused,
    share,
    tensors,
)

from trimtab.losses.dpo import dpo_loss, ipo_loss
from trimtab.losses.lengths import dpo_norm_loss, ipo_mean_loss, ld_dpo_loss, r_dpo_loss

NONE = pair(0.0, 0.0)  # a reference that turns log-probabilities into log-ratios
WITH_LENGTHS = "policy reference lengths"


def mean_ratio(row: Row) -> Sides:
    """The geometric mean over tokens of policy / reference."""
    return Sides(
        row.ratio.chosen ** (1 / row.lengths.chosen), row.ratio.rejected ** (1 / row.lengths.rejected)
    )


def mean_rewards(row: Row, *, beta: float) -> Sides:
    return Sides(*(beta * math.log(mean) for mean in mean_ratio(row)))


def mean_margin(row: Row) -> float:
    chosen, rejected = mean_ratio(row)
    return math.log(chosen / rejected)


def ipo_mean(row: Row, *, beta: float) -> float:
    return (mean_margin(row) - 0.5 / beta) ** 2


def ipo_mean_slopes(row: Row, *, beta: float) -> Sides:
    slope = 2 * (mean_margin(row) - 0.5 / beta)
    return Sides(slope / row.lengths.chosen, -slope / row.lengths.rejected)


def norm_shares(row: Row, beta: float) -> Sides:
    chosen, rejected = (mean**beta for mean in mean_ratio(row))
    return Sides(share(chosen, rejected), share(rejected, chosen))


def dpo_norm(row: Row, *, beta: float) -> float:
    return -math.log(norm_shares(row, beta).chosen)


def dpo_norm_slopes(row: Row, *, beta: float) -> Sides:
    wrong = norm_shares(row, beta).rejected
    return Sides(-beta * wrong / row.lengths.chosen, beta * wrong / row.lengths.rejected)


def r_dpo_shares(row: Row, beta: float, length_penalty: float) -> Sides:
    """Each token multiplies the odds of its response."""
    token = math.exp(length_penalty)
    chosen, rejected = (odd * token**n for odd, n in zip(odds(row, beta), row.lengths, strict=True))
    return Sides(share(chosen, rejected), share(rejected, chosen))


def r_dpo(row: Row, *, beta: float, length_penalty: float) -> float:
    return -math.log(r_dpo_shares(row, beta, length_penalty).chosen)


def r_dpo_slopes(row: Row, *, beta: float, length_penalty: float) -> Sides:
    wrong = r_dpo_shares(row, beta, length_penalty).rejected
    return Sides(-beta * wrong, beta * wrong)


def ld_odds(row: Row, beta: float, tail_weight: float) -> Sides:
    """The head as it is, the tail to the power of its weight, under both models."""

    def weighed(whole: float, tail: float) -> float:
        return whole / tail * tail**tail_weight

    policy = Sides(*map(weighed, row.policy, row.policy_tail))
    reference = Sides(*map(weighed, row.reference, row.reference_tail))
    return Sides((policy.chosen / reference.chosen) ** beta, (policy.rejected / reference.rejected) ** beta)


def ld_dpo(row: Row, *, beta: float, tail_weight: float) -> float:
    return -math.log(share(*ld_odds(row, beta, tail_weight)))


def ld_dpo_slopes(row: Row, *, beta: float, tail_weight: float) -> Sides:
    chosen, rejected = ld_odds(row, beta, tail_weight)
    wrong = share(rejected, chosen)
    return Sides(-beta * wrong, beta * wrong)


def ld_dpo_rewards(row: Row, *, beta: float, tail_weight: float) -> Sides:
    return Sides(*(math.log(odd) for odd in ld_odds(row, beta, tail_weight)))


IPO_MEAN = Case(
    ipo_mean_loss,
    WITH_LENGTHS,
    each(ipo_mean),
    each(ipo_mean_slopes),
    each(mean_rewards),
    {"beta": 0.1},
    {"beta": 0.7},
)
DPO_NORM = Case(
    dpo_norm_loss,
    WITH_LENGTHS,
    each(dpo_norm),
    each(dpo_norm_slopes),
    each(mean_rewards),
    {"beta": 5.0},
    {"beta": 0.7},
)
R_DPO = Case(
    r_dpo_loss,
    WITH_LENGTHS,
    each(r_dpo),
    each(r_dpo_slopes),
    each(log_ratio_rewards),
    {"beta": 0.1, "length_penalty": 0.01},
    {"beta": 0.7, "length_penalty": 0.3},
)
LD_DPO = Case(
    ld_dpo_loss,
    "policy reference policy_tail reference_tail",
    each(ld_dpo),
    each(ld_dpo_slopes),
    each(ld_dpo_rewards),
    {"beta": 0.1, "tail_weight": 0.5},
    {"beta": 0.7, "tail_weight": 0.3},
)
CASES = [IPO_MEAN, DPO_NORM, R_DPO, LD_DPO]


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


@pytest.mark.parametrize("penalty", [math.nan, math.inf, -math.inf])
def test_length_penalty_is_finite(penalty: float) -> None:
    refused(R_DPO, "length_penalty must be a finite number", length_penalty=penalty)
    for other in (-10.0, 10.0):
        allowed(R_DPO, length_penalty=other)


@pytest.mark.parametrize("weight", [-1e-9, 1 + 1e-9, 2.0, math.nan])
def test_tail_weight_is_a_share(weight: float) -> None:
    refused(LD_DPO, "tail_weight must be in [0, 1]", tail_weight=weight)
    allowed(LD_DPO, tail_weight=0.0)
    allowed(LD_DPO, tail_weight=1.0)


# Means over tokens


@pytest.mark.parametrize("length", [1, 7, 500])
def test_with_equal_lengths_a_mean_is_a_sum_with_a_smaller_beta(length: int) -> None:
    """dpo_norm at beta is dpo at beta / n; n^2 times ipo_mean at beta is ipo at beta / n."""
    inputs = tensors("policy reference", ROWS)
    equal = lengths([length] * len(ROWS), [length] * len(ROWS))
    normed, summed = dpo_norm_loss(**inputs, lengths=equal), dpo_loss(**inputs, beta=5.0 / length)
    assert normed.loss.tolist() == exactly(summed.loss.tolist())
    assert normed.chosen_reward.tolist() == exactly(summed.chosen_reward.tolist())
    mean = ipo_mean_loss(**inputs, lengths=equal, beta=0.7).loss * length**2
    assert mean.tolist() == exactly(ipo_loss(**inputs, beta=0.7 / length).loss.tolist())


def test_an_untrained_policy() -> None:
    inputs = tensors(WITH_LENGTHS, ROWS)
    inputs["policy"] = inputs["reference"]
    assert dpo_norm_loss(**inputs).loss.tolist() == pytest.approx([math.log(2)] * len(ROWS), rel=1e-15)
    assert ipo_mean_loss(**inputs).loss.tolist() == pytest.approx([25.0] * len(ROWS), rel=1e-15)


def test_ipo_mean_has_a_finite_goal() -> None:
    policy = pair(4 * (0.5 / 0.7 + 0.25), 2 * 0.25)  # 4 and 2 tokens; the means lie 1 / (2 beta) apart
    found = ipo_mean_loss(policy, NONE, lengths([4], [2]), beta=0.7)
    assert found.loss.item() == pytest.approx(0, abs=1e-30)
    assert grads_of(found, policy) == pytest.approx((0, 0), abs=1e-15)


def test_a_mean_does_not_change_when_every_token_is_repeated() -> None:
    once, twice = pair(0.3, -0.9), pair(0.6, -1.8)
    for loss in (dpo_norm_loss, ipo_mean_loss):
        short = loss(once, NONE, lengths([2], [3])).loss.item()
        assert loss(twice, NONE, lengths([4], [6])).loss.item() == pytest.approx(short, rel=1e-13)


# R-DPO


def test_r_dpo_with_equal_lengths_or_no_penalty_is_dpo() -> None:
    inputs = tensors("policy reference", ROWS)
    goal = dpo_loss(**inputs).loss.tolist()
    equal = lengths([9] * len(ROWS), [9] * len(ROWS))
    assert r_dpo_loss(**inputs, lengths=equal).loss.tolist() == goal
    assert r_dpo_loss(**tensors(WITH_LENGTHS, ROWS), length_penalty=0.0).loss.tolist() == goal


def test_length_explains_a_longer_chosen_response() -> None:
    """Its loss is the smaller, and so is what the policy is asked to change; a shorter one's is larger."""
    found = {n: r_dpo_loss(pair(0.2, 0.1), NONE, lengths([n], [20])) for n in (10, 20, 30)}
    assert found[30].loss.item() < found[20].loss.item() < found[10].loss.item()
    policy = pair(0.2, 0.1)
    longer = grads_of(r_dpo_loss(policy, NONE, lengths([30], [20])), policy)
    shorter = grads_of(r_dpo_loss(policy, NONE, lengths([10], [20])), policy)
    assert shorter.chosen < longer.chosen < 0


def test_r_dpo_at_the_reference_is_a_model_of_length_alone() -> None:
    found = r_dpo_loss(NONE, NONE, lengths([130], [30]), length_penalty=0.02)
    assert found.loss.item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-13)


# LD-DPO


def test_a_tail_that_counts_in_full_is_dpo() -> None:
    found = ld_dpo_loss(**tensors(LD_DPO.reads, ROWS), beta=0.7, tail_weight=1.0)
    goal = dpo_loss(**tensors("policy reference", ROWS), beta=0.7)
    assert found.loss.tolist() == goal.loss.tolist()
    assert found.chosen_reward.tolist() == goal.chosen_reward.tolist()


def test_a_tail_that_counts_nothing_is_dpo_on_both_cut_to_the_same_length() -> None:
    def cut(tokens: tuple) -> Sides:
        shorter = min(len(side) for side in tokens)
        return Sides(*(math.prod(side[:shorter]) for side in tokens))

    policy = logprobs([cut(policy) for policy, _, _ in TOKENS])
    reference = logprobs([cut(reference) for _, reference, _ in TOKENS])
    goal = dpo_loss(policy, reference, beta=0.7)
    found = ld_dpo_loss(**tensors(LD_DPO.reads, ROWS), beta=0.7, tail_weight=0.0)
    assert found.loss.tolist() == exactly(goal.loss.tolist())
    assert found.rejected_reward.tolist() == exactly(goal.rejected_reward.tolist())


def test_the_gradient_through_the_tails_takes_back_what_they_count_less() -> None:
    inputs = tensors(LD_DPO.reads, ROWS)
    ld_dpo_loss(**inputs, beta=0.7, tail_weight=0.3).loss.sum().backward()
    policy, tail = inputs["policy"], inputs["policy_tail"]
    assert tail.chosen.grad.tolist() == exactly((-0.7 * policy.chosen.grad).tolist())
    assert tail.rejected.grad.tolist() == exactly((-0.7 * policy.rejected.grad).tolist())
    assert torch.count_nonzero(policy.chosen.grad) == len(ROWS)
