"""Alignment by optimal transport: sorted values, against products of odds and against what is known."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from worked import (
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
    log_ratio_rewards,
    logprobs,
    pair,
    refused,
    share,
    tensors,
)

from trimtab.losses.dpo import dpo_loss
from trimtab.losses.pairs import PairLogprobs
from trimtab.losses.transport import aot_loss, aot_unpaired_loss

READS = "policy reference"
ORDERS = [random.Random(seed).sample(range(len(ROWS)), len(ROWS)) for seed in range(5)]


def places(values: Sequence[float]) -> list[int]:
    """Where the smallest value is, the next, and so on."""
    return sorted(range(len(values)), key=values.__getitem__)


def sides_of(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """What must dominate and what is dominated: quotients of probabilities."""
    policy = [row.policy.chosen / row.policy.rejected for row in rows]
    return policy, [row.reference.chosen / row.reference.rejected for row in rows]


def unpaired_sides_of(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [row.ratio.chosen for row in rows], [row.ratio.rejected for row in rows]


def cost(upper: float, lower: float, beta: float) -> float:
    return -math.log(share(upper**beta, lower**beta))


def aot(rows: Sequence[Row], *, beta: float) -> list[float]:
    return [cost(*both, beta) for both in zip(*map(sorted, sides_of(rows)), strict=True)]


def aot_unpaired(rows: Sequence[Row], *, beta: float) -> list[float]:
    return [cost(*both, beta) for both in zip(*map(sorted, unpaired_sides_of(rows)), strict=True)]


def aot_slopes(rows: Sequence[Row], *, beta: float) -> list[Sides]:
    upper, lower = sides_of(rows)
    found = [Sides(0.0, 0.0)] * len(rows)
    for mine, other in zip(places(upper), places(lower), strict=True):
        wrong = beta * share(lower[other] ** beta, upper[mine] ** beta)
        found[mine] = Sides(-wrong, wrong)
    return found


def aot_unpaired_slopes(rows: Sequence[Row], *, beta: float) -> list[Sides]:
    upper, lower = unpaired_sides_of(rows)
    chosen, rejected = [0.0] * len(rows), [0.0] * len(rows)
    for mine, other in zip(places(upper), places(lower), strict=True):
        wrong = beta * share(lower[other] ** beta, upper[mine] ** beta)
        chosen[mine], rejected[other] = -wrong, wrong
    return [Sides(*both) for both in zip(chosen, rejected, strict=True)]


REWARDS = each(log_ratio_rewards)
CASES = [
    Case(aot_loss, READS, aot, aot_slopes, REWARDS, {"beta": 0.1}, {"beta": 0.7}),
    Case(aot_unpaired_loss, READS, aot_unpaired, aot_unpaired_slopes, REWARDS, {"beta": 0.1}, {"beta": 0.7}),
]


def test_the_pairs_are_not_in_order_to_begin_with() -> None:
    for sides in (sides_of(ROWS), unpaired_sides_of(ROWS)):
        assert places(sides[0]) != places(sides[1])
        assert list(range(len(ROWS))) not in (places(sides[0]), places(sides[1]))


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


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("row", range(len(ROWS)))
def test_one_pair_is_dpo(case: Case, row: int) -> None:
    inputs = tensors(READS, [ROWS[row]])
    goal = dpo_loss(**inputs, beta=0.7)
    assert case.loss(**inputs, beta=0.7).loss.tolist() == exactly(goal.loss.tolist())


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_order_of_the_pairs_does_not_matter(case: Case, order: list[int]) -> None:
    """The losses stay, sorted as they are; the rewards stay with their pairs."""
    shuffled, plain = case([ROWS[place] for place in order]), case()
    assert shuffled.loss.tolist() == exactly(plain.loss.tolist())
    assert shuffled.chosen_reward.tolist() == exactly(plain.chosen_reward[order].tolist())


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_unpaired_it_does_not_matter_who_belongs_together(order: list[int]) -> None:
    policy, reference = (logprobs([getattr(row, name) for row in ROWS]) for name in READS.split())
    apart = [PairLogprobs(both.chosen, both.rejected[order]) for both in (policy, reference)]
    together = aot_unpaired_loss(policy, reference).loss.tolist()
    assert aot_unpaired_loss(*apart).loss.tolist() == exactly(together)


def test_paired_it_matters_who_belongs_together() -> None:
    policy, reference = (logprobs([getattr(row, name) for row in ROWS]) for name in READS.split())
    order = ORDERS[0]
    apart = [PairLogprobs(both.chosen, both.rejected[order]) for both in (policy, reference)]
    assert (aot_loss(*apart).loss - aot_loss(policy, reference).loss).abs().max() > 0.01


def test_a_pair_is_held_against_values_of_others() -> None:
    """Its own are 1 over 0; beside a pair of 5 over -4 its 1 meets the -4, and beside -4 over 5 the 5."""
    for other, meets in [((5.0, -4.0), -4.0), ((-4.0, 5.0), 5.0)]:
        policy, reference = torch.tensor([1.0, other[0]]).double(), torch.tensor([0.0, other[1]]).double()
        zeros = torch.zeros(2).double()
        paired = aot_loss(PairLogprobs(policy, zeros), PairLogprobs(reference, zeros), beta=0.7).loss
        unpaired = aot_unpaired_loss(
            PairLogprobs(policy, reference), PairLogprobs(zeros, zeros), beta=0.7
        ).loss
        expected = math.log1p(math.exp(-0.7 * (1.0 - meets)))
        place = int(policy[0] > policy[1])
        assert paired[place].item() == pytest.approx(expected, rel=1e-13)
        assert unpaired[place].item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("case", "sides"), list(zip(CASES, [sides_of, unpaired_sides_of], strict=True)))
def test_sorting_is_the_cheapest_way_to_match(
    case: Case, sides: Callable[..., tuple[list[float], list[float]]]
) -> None:
    """The cost is convex, so no assignment of the lower values to the upper ones is cheaper."""
    upper, lower = sides(ROWS)
    found = case(beta=0.7).loss.sum().item()
    totals = [
        sum(cost(*both, 0.7) for both in zip(upper, matched, strict=True))
        for matched in itertools.permutations(lower)
    ]
    assert found == pytest.approx(min(totals), rel=1e-12)
    assert max(totals) > found * 1.1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_untrained_policy_pays_ln_2_where_its_values_are_equal(case: Case) -> None:
    found = case.loss(pair(-3.0, -5.0), pair(-3.0, -5.0)).loss.item()
    assert found == pytest.approx(math.log(2), rel=1e-15)
