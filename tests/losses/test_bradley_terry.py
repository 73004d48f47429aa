"""The reward model's losses against odds, counts and the bounds that no reward can pass."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.losses.bradley_terry import (
    bradley_terry_loss,
    centring_loss,
    plackett_luce_loss,
    ranked_right,
    ranking_loss,
)

CHOSEN = [1.3, -0.2, 0.7, -3.0]
REJECTED = [0.4, 2.0, 0.7, 1.5]


def numbers(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def surprise(chosen: float, rejected: float, margin: float = 0.0) -> float:
    """-log of the odds' share: e^chosen against e^(rejected + margin)."""
    mine, other = math.exp(chosen), math.exp(rejected + margin)
    return -math.log(mine / (mine + other))


def slope(function: Callable[[float], float], at: float, step: float = 1e-5) -> float:
    return (function(at + step) - function(at - step)) / (2 * step)


# --- Pairs ---

MARGINS: list[float | list[float]] = [0.0, 0.8, -0.5, [0.0, 1.0, 0.33, 2.0]]


@pytest.mark.parametrize("margin", MARGINS)
def test_value_and_gradient_from_odds(margin: float | list[float]) -> None:
    margins = margin if isinstance(margin, list) else [margin] * 4
    chosen, rejected = numbers(*CHOSEN).requires_grad_(), numbers(*REJECTED).requires_grad_()
    given_margin = numbers(*margin) if isinstance(margin, list) else margin
    found = bradley_terry_loss(chosen, rejected, margin=given_margin)
    rows = list(zip(CHOSEN, REJECTED, margins, strict=True))
    assert found.tolist() == pytest.approx([surprise(*row) for row in rows], rel=1e-12)
    up, down = torch.autograd.grad(found.sum(), (chosen, rejected))
    wrong = [1 / (1 + math.exp(c - r - m)) for c, r, m in rows]  # the probability of being wrong
    assert up.tolist() == pytest.approx([-one for one in wrong], rel=1e-12)
    assert down.tolist() == pytest.approx(wrong, rel=1e-12)
    for place, (c, r, m) in enumerate(rows):
        assert up[place].item() == pytest.approx(slope(lambda at, r=r, m=m: surprise(at, r, m), c), abs=1e-9)  # type: ignore[misc]


def test_there_is_no_margin_if_none_is_given() -> None:
    assert bradley_terry_loss(numbers(*CHOSEN), numbers(*REJECTED)).tolist() == pytest.approx(
        [surprise(c, r) for c, r in zip(CHOSEN, REJECTED, strict=True)], rel=1e-12
    )


def test_a_lead_of_the_margin_costs_ln_2() -> None:
    assert bradley_terry_loss(numbers(1.75), numbers(0.25), margin=1.5).item() == pytest.approx(
        math.log(2), rel=1e-14
    )


def test_a_constant_model_pays_ln_2_and_ranks_nothing_right() -> None:
    same = numbers(0.0, 3.0, -7.0)
    assert bradley_terry_loss(same, same).tolist() == pytest.approx([math.log(2)] * 3, rel=1e-14)
    assert ranked_right(same, same).tolist() == [False] * 3


def test_ranked_right_is_strictly_above() -> None:
    found = ranked_right(numbers(1.0, 0.0, 2.0, math.nan), numbers(0.0, 1.0, 2.0, 0.0))
    assert found.dtype == torch.bool and found.tolist() == [True, False, False, False]


def test_a_shift_of_both_rewards_changes_nothing_and_gets_no_gradient() -> None:
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    chosen, rejected = numbers(*CHOSEN), numbers(*REJECTED)
    shifted = bradley_terry_loss(chosen + bias + 7, rejected + bias + 7)
    torch.testing.assert_close(shifted, bradley_terry_loss(chosen, rejected), rtol=1e-12, atol=1e-13)
    assert torch.autograd.grad(shifted.sum(), bias)[0].item() == pytest.approx(0, abs=1e-15)


def test_a_swap_of_the_labels_costs_the_lead() -> None:
    """-log s(d) + log s(-d) = -d."""
    chosen, rejected = numbers(*CHOSEN), numbers(*REJECTED)
    difference = bradley_terry_loss(chosen, rejected) - bradley_terry_loss(rejected, chosen)
    torch.testing.assert_close(difference, rejected - chosen, rtol=1e-12, atol=1e-13)


@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=5),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=100)
def test_far_rewards_keep_finite_losses_and_gradients(
    pairs: list[tuple[float, float]], dtype: torch.dtype
) -> None:
    rewards = torch.tensor(pairs, dtype=dtype, requires_grad=True)
    for loss_of in (bradley_terry_loss, centring_loss):
        found = loss_of(rewards[:, 0], rewards[:, 1])
        (gradient,) = torch.autograd.grad(found.sum(), rewards)
        assert found.dtype == dtype and found.shape == (len(pairs),) and (found >= 0).all()
        assert torch.isfinite(found).all() and torch.isfinite(gradient).all()
    far = bradley_terry_loss(rewards[:, 0], rewards[:, 1])
    assert (far >= (rewards[:, 1] - rewards[:, 0]).clamp(min=0)).all()


@pytest.mark.parametrize("lead", [1.0, 10.0, 100.0])
def test_separable_pairs_cost_nothing_only_at_infinity(lead: float) -> None:
    found = bradley_terry_loss(numbers(lead), numbers(0.0)).item()
    assert found == pytest.approx(math.log1p(math.exp(-lead)), rel=1e-12) and found > 0


def test_two_items_rest_at_the_log_of_their_counts() -> None:
    """The gradient of n wins and m losses vanishes where the lead is log(n / m), and only there."""
    wins, losses = 7, 3
    for lead, at_rest in ((math.log(7 / 3), True), (math.log(7 / 3) + 0.01, False)):
        reward = numbers(lead).requires_grad_()
        nothing = numbers(0.0)
        total = wins * bradley_terry_loss(reward, nothing) + losses * bradley_terry_loss(nothing, reward)
        (gradient,) = torch.autograd.grad(total.sum(), reward)
        assert (abs(gradient.item()) < 1e-12) is at_rest


# --- What no reward model can beat: five responses, all pairs, preferences from true rewards ---

TRUE = [1.2, -0.4, 0.3, 2.0, -1.1]
PAIRS = list(itertools.combinations(range(5), 2))
WIN = [1 / (1 + math.exp(TRUE[b] - TRUE[a])) for a, b in PAIRS]


def population(rewards: Tensor) -> tuple[Tensor, float]:
    """Mean loss and accuracy over pairs and both labels, each with its probability."""
    first, second = rewards[[a for a, _ in PAIRS]], rewards[[b for _, b in PAIRS]]
    p = numbers(*WIN)
    loss = p * bradley_terry_loss(first, second) + (1 - p) * bradley_terry_loss(second, first)
    right = p * ranked_right(first, second) + (1 - p) * ranked_right(second, first)
    return loss.mean(), right.mean().item()


def test_the_bounds_are_met_by_the_truth_and_by_nothing_else() -> None:
    entropy = math.fsum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in WIN) / len(WIN)
    ceiling = math.fsum(max(p, 1 - p) for p in WIN) / len(WIN)
    truth = numbers(*TRUE).requires_grad_()
    loss, accuracy = population(truth)
    assert loss.item() == pytest.approx(entropy, rel=1e-12)
    assert accuracy == pytest.approx(ceiling, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, truth)
    assert gradient.tolist() == pytest.approx([0] * 5, abs=1e-15)
    assert population(truth + 3)[0].item() == pytest.approx(entropy, rel=1e-12)
    draw = random.Random(0)
    for _ in range(50):
        other = numbers(*(draw.gauss(0, 1.5) for _ in TRUE))
        loss, accuracy = population(other)
        assert loss.item() > entropy and accuracy <= ceiling + 1e-12
    collapsed, nothing = population(numbers(*[0.3] * 5))
    assert collapsed.item() == pytest.approx(math.log(2), rel=1e-14) and nothing == 0


# --- Rankings ---

RANKINGS = [[2.0, 1.0, 0.5, -0.3], [0.1, 0.4, -2.0, 3.0], [1.0, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_ranking_is_the_mean_over_its_pairs(count: int) -> None:
    found = ranking_loss(torch.tensor(RANKINGS, dtype=torch.float64)[:, :count])
    for row, ranking in enumerate(RANKINGS):
        losses = [
            surprise(ranking[better], ranking[worse])
            for better in range(count)
            for worse in range(better + 1, count)
        ]
        assert len(losses) == count * (count - 1) / 2
        assert found[row].item() == pytest.approx(math.fsum(losses) / len(losses), rel=1e-12)


def test_the_gradient_of_a_ranking() -> None:
    rewards = numbers(*RANKINGS[1]).requires_grad_()
    (gradient,) = torch.autograd.grad(ranking_loss(rewards), rewards)
    for place in range(4):

        def mean(at: float, place: int = place) -> float:
            moved = [*RANKINGS[1][:place], at, *RANKINGS[1][place + 1 :]]
            return math.fsum(surprise(a, b) for a, b in itertools.combinations(moved, 2)) / 6

        assert gradient[place].item() == pytest.approx(slope(mean, RANKINGS[1][place]), abs=1e-9)


def test_a_ranking_of_two_is_a_pair() -> None:
    rewards = torch.tensor([[1.3, 0.4], [-0.2, 2.0]], dtype=torch.float64)
    assert torch.equal(ranking_loss(rewards), bradley_terry_loss(rewards[:, 0], rewards[:, 1]))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_dimensions_but_the_last_are_batches(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rewards = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = ranking_loss(rewards)
    assert found.shape == shape[:-1] and found.dtype == dtype
    one_by_one = [ranking_loss(row).item() for row in rewards.reshape(-1, shape[-1])]
    assert found.flatten().tolist() == pytest.approx(one_by_one, rel=1e-6)


def test_the_order_matters_and_the_best_is_first() -> None:
    ordered = ranking_loss(numbers(2.0, 1.0, 0.5)).item()
    others = [ranking_loss(numbers(*order)).item() for order in itertools.permutations((2.0, 1.0, 0.5))]
    assert min(others) == ordered and others.count(ordered) == 1 and max(others) == others[-1]


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6), st.sampled_from([torch.float32, torch.float64])
)
@settings(max_examples=50)
def test_far_rankings_stay_finite(rewards: list[float], dtype: torch.dtype) -> None:
    leaf = torch.tensor(rewards, dtype=dtype, requires_grad=True)
    found = ranking_loss(leaf)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert torch.isfinite(found).all() and torch.isfinite(gradient).all() and found >= 0


@pytest.mark.parametrize("count", [0, 1])
def test_a_ranking_has_two_responses(count: int) -> None:
    with pytest.raises(ValueError, match=f"^a ranking has at least 2 responses, got {count}$"):
        ranking_loss(torch.zeros(3, count))


# --- Plackett-Luce ---


def chance(rewards: list[float]) -> float:
    """Of this order, if the best is drawn with odds e^r from all, then the next from the rest."""
    weights = [math.exp(reward) for reward in rewards]
    return math.prod(weights[place] / sum(weights[place:]) for place in range(len(weights)))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_plackett_luce_is_the_chance_of_the_order(count: int) -> None:
    draw = random.Random(count)
    rewards = [draw.uniform(-2, 2) for _ in range(count)]
    chances = 0.0
    for order in itertools.permutations(rewards):
        found = float(plackett_luce_loss(numbers(*order)))
        assert found == pytest.approx(-math.log(chance(list(order))), rel=1e-12)
        chances += math.exp(-found)
    assert chances == pytest.approx(1)


def test_plackett_luce_of_two_is_a_pair_and_dimensions_are_batches() -> None:
    chosen, rejected = numbers(*CHOSEN), numbers(*REJECTED)
    found = plackett_luce_loss(torch.stack([chosen, rejected], -1))
    torch.testing.assert_close(found, bradley_terry_loss(chosen, rejected))


def test_the_gradient_of_plackett_luce_is_chances_less_one() -> None:
    rewards = numbers(0.5, -1.0, 2.0).requires_grad_()
    (found,) = torch.autograd.grad(plackett_luce_loss(rewards), rewards)
    first = [math.exp(one) / sum(map(math.exp, rewards.tolist())) for one in rewards.tolist()]
    second = [math.exp(one) / (math.exp(-1.0) + math.exp(2.0)) for one in (-1.0, 2.0)]
    expected = [first[0] - 1, first[1] + second[0] - 1, first[2] + second[1]]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_far_plackett_luce_stays_finite() -> None:
    rewards = numbers(-300.0, 0.0, 300.0, dtype=torch.float32).requires_grad_()
    loss = plackett_luce_loss(rewards)
    (found,) = torch.autograd.grad(loss, rewards)
    assert loss.item() == pytest.approx(900) and found.tolist() == pytest.approx([-1, -1, 2], rel=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_plackett_luce_needs_two_responses(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 responses, got {count}"):
        plackett_luce_loss(torch.zeros(count))


# --- Centring ---


def test_centring_is_the_squared_sum() -> None:
    chosen, rejected = numbers(*CHOSEN).requires_grad_(), numbers(*REJECTED).requires_grad_()
    found = centring_loss(chosen, rejected)
    sums = [c + r for c, r in zip(CHOSEN, REJECTED, strict=True)]
    assert found.tolist() == pytest.approx([one**2 for one in sums], rel=1e-12)
    for gradient in torch.autograd.grad(found.sum(), (chosen, rejected)):
        assert gradient.tolist() == pytest.approx([2 * one for one in sums], rel=1e-12)


def test_opposite_rewards_are_centred() -> None:
    rewards = numbers(*CHOSEN)
    assert centring_loss(rewards, -rewards).tolist() == [0] * 4


def test_centring_fixes_the_level_that_pairs_leave_free() -> None:
    """Of all shifts of the same rewards it takes the one with mean 0, and leaves the lead alone."""
    chosen, rejected = numbers(1.0), numbers(0.5)

    def total(shift: float) -> float:
        moved = chosen + shift, rejected + shift
        return (bradley_terry_loss(*moved) + 0.01 * centring_loss(*moved)).item()

    assert min((total(shift / 100), shift / 100) for shift in range(-200, 201))[1] == -0.75
