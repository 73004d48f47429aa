"""Losses without a reference, against mean probabilities and odds and against what is known."""

from __future__ import annotations

import math

import pytest
import torch
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
    logprobs,
    pair,
    refused,
    share,
    tensors,
)

from trimtab.losses.dpo import dpo_loss
from trimtab.losses.pairs import PairLogprobs
from trimtab.losses.reference_free import cpo_loss, orpo_loss, simpo_loss

READS = "policy lengths"
ONE = lengths([1], [1])


def typical(row: Row) -> Sides:
    """The geometric mean of each response's token probabilities."""
    return Sides(
        row.policy.chosen ** (1 / row.lengths.chosen), row.policy.rejected ** (1 / row.lengths.rejected)
    )


def odds_of(row: Row) -> Sides:
    return Sides(*(p / (1 - p) for p in typical(row)))


def orpo(row: Row, *, odds_weight: float) -> float:
    return -math.log(typical(row).chosen * share(*odds_of(row)) ** odds_weight)


def orpo_slopes(row: Row, *, odds_weight: float) -> Sides:
    """d log odds / d log p = 1 / (1 - p)."""
    chosen, rejected = odds_of(row)
    wrong = odds_weight * share(rejected, chosen)
    steep = Sides(*(1 / (1 - p) for p in typical(row)))
    return Sides(
        -(1 + wrong * steep.chosen) / row.lengths.chosen, wrong * steep.rejected / row.lengths.rejected
    )


def orpo_rewards(row: Row, *, odds_weight: float) -> Sides:
    return Sides(*(odds_weight * math.log(p) for p in typical(row)))


def simpo_odds(row: Row, beta: float, margin: float) -> Sides:
    chosen, rejected = (p**beta for p in typical(row))
    return Sides(chosen / math.exp(margin), rejected)


def simpo(row: Row, *, beta: float, margin: float) -> float:
    return -math.log(share(*simpo_odds(row, beta, margin)))


def simpo_slopes(row: Row, *, beta: float, margin: float) -> Sides:
    chosen, rejected = simpo_odds(row, beta, margin)
    wrong = beta * share(rejected, chosen)
    return Sides(-wrong / row.lengths.chosen, wrong / row.lengths.rejected)


def simpo_rewards(row: Row, *, beta: float, **_: float) -> Sides:
    return Sides(*(beta * math.log(p) for p in typical(row)))


def cpo(row: Row, *, beta: float, likelihood: float) -> float:
    chosen, rejected = (p**beta for p in row.policy)
    return -math.log(share(chosen, rejected) * typical(row).chosen ** likelihood)


def cpo_slopes(row: Row, *, beta: float, likelihood: float) -> Sides:
    chosen, rejected = (p**beta for p in row.policy)
    wrong = beta * share(rejected, chosen)
    return Sides(-wrong - likelihood / row.lengths.chosen, wrong)


def cpo_rewards(row: Row, *, beta: float, **_: float) -> Sides:
    return Sides(*(beta * math.log(p) for p in row.policy))


ORPO = Case(
    orpo_loss,
    READS,
    each(orpo),
    each(orpo_slopes),
    each(orpo_rewards),
    {"odds_weight": 0.1},
    {"odds_weight": 0.7},
)
SIMPO = Case(
    simpo_loss,
    READS,
    each(simpo),
    each(simpo_slopes),
    each(simpo_rewards),
    {"beta": 2.0, "margin": 1.0},
    {"beta": 0.7, "margin": 0.4},
)
CPO = Case(
    cpo_loss,
    READS,
    each(cpo),
    each(cpo_slopes),
    each(cpo_rewards),
    {"beta": 0.1, "likelihood": 1.0},
    {"beta": 0.7, "likelihood": 0.4},
)
CASES = [ORPO, SIMPO, CPO]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case) -> None:
    check_value(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_by_differences(case: Case) -> None:
    check_gradient_by_differences(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_in_closed_form(case: Case) -> None:
    check_gradient_in_closed_form(case)


@pytest.mark.parametrize("case", [SIMPO, CPO], ids=str)
@pytest.mark.parametrize("beta", NOT_POSITIVE)
def test_beta_is_positive(case: Case, beta: float) -> None:
    refused(case, "beta must be > 0", beta=beta)
    allowed(case, beta=1e-9)


@pytest.mark.parametrize(
    ("case", "option"), [(ORPO, "odds_weight"), (SIMPO, "margin"), (CPO, "likelihood")], ids=str
)
@pytest.mark.parametrize("weight", NEGATIVE)
def test_weights_are_not_negative(case: Case, option: str, weight: float) -> None:
    refused(case, f"{option} must be >= 0", **{option: weight})
    allowed(case, **{option: 0.0})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_reference_is_refused(case: Case) -> None:
    with pytest.raises(TypeError, match="reference"):
        case.loss(**tensors(f"{READS} reference", ROWS))


# ORPO


def test_orpo_without_the_odds_is_fine_tuning_on_chosen() -> None:
    found = orpo_loss(pair(-6.0, -1.0), lengths([3], [5]), odds_weight=0.0)
    assert found.loss.item() == 2.0


def test_orpo_of_equal_means_adds_ln_2() -> None:
    found = orpo_loss(pair(-6.0, -10.0), lengths([3], [5]), odds_weight=0.7)
    assert found.loss.item() == pytest.approx(2.0 + 0.7 * math.log(2), rel=1e-14)


@pytest.mark.parametrize(("dtype", "machine"), [(torch.float64, 2.0**-52), (torch.float32, 2.0**-23)])
def test_a_certain_response_counts_as_certain_but_for_the_machine(dtype: torch.dtype, machine: float) -> None:
    """Its odds are (1 - epsilon) / epsilon, so the rejected one costs log(1 + odds) against even odds."""
    policy = PairLogprobs(*(torch.tensor([x], dtype=dtype) for x in (math.log(0.5), 0.0)))
    found = orpo_loss(policy, ONE, odds_weight=1.0).loss.item()
    assert found == pytest.approx(math.log(2) - math.log(machine), rel=1e-6 if machine > 1e-9 else 1e-14)
    policy = pair(0.0, math.log(0.5))
    slopes = grads_of(orpo_loss(policy, ONE), policy)
    assert slopes.chosen == -1 and math.isfinite(slopes.rejected)


def test_odds_of_unlikely_and_of_likely_tokens_are_exact() -> None:
    """log(p / (1 - p)) of both ends: about log p, and about -log(1 - p)."""
    for p in (1e-30, 1e-9, 0.3, 1 - 1e-6, 1 - 1e-12):
        against_even = orpo_loss(pair(math.log(p), math.log(0.5)), ONE, odds_weight=1.0).loss.item()
        odd = p / (1 - p)
        assert against_even == pytest.approx(-math.log(p) + math.log1p(1 / odd), rel=1e-12, abs=1e-15)


# SimPO


def test_simpo_is_ln_2_where_the_means_lie_apart_by_the_margin() -> None:
    found = simpo_loss(pair(-3.0 * 0.5, -5.0 * 1.0), lengths([3], [5]))  # beta 2 times 0.5 nats is 1
    assert found.loss.item() == pytest.approx(math.log(2), rel=1e-15)


def test_simpo_does_not_change_when_every_token_is_repeated() -> None:
    short = simpo_loss(pair(-2.0, -7.0), lengths([2], [3])).loss.item()
    assert simpo_loss(pair(-4.0, -14.0), lengths([4], [6])).loss.item() == pytest.approx(short, rel=1e-14)


# CPO


@pytest.mark.parametrize("vocabulary", [2, 50_000])
def test_cpo_without_likelihood_is_dpo_under_a_uniform_reference_for_equal_lengths(vocabulary: int) -> None:
    """Property 16."""
    policy = logprobs([row.policy for row in ROWS])
    uniform = torch.full((len(ROWS),), -7 * math.log(vocabulary), dtype=torch.float64)
    goal = dpo_loss(policy, PairLogprobs(uniform, uniform), beta=0.7).loss.tolist()
    equal = lengths([7] * len(ROWS), [7] * len(ROWS))
    assert cpo_loss(policy, equal, beta=0.7, likelihood=0.0).loss.tolist() == exactly(goal)


def test_cpo_adds_the_negative_log_likelihood_per_token_of_chosen_alone() -> None:
    found = cpo_loss(pair(-6.0, -6.0), lengths([3], [5])).loss.item()
    assert found == pytest.approx(math.log(2) + 2.0, rel=1e-15)
