"""What is known of DPO and its kin: their optima, their limits, and how they are related."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worked import ROWS, Sides, exactly, grads_of, leaf, logprobs, pair, share, tensors

from trimtab.losses.dpo import (
    alpha_dpo_loss,
    cdpo_loss,
    discopop_loss,
    dpo_loss,
    exo_loss,
    forward_kl_dpo_loss,
    hinge_loss,
    ipo_loss,
    js_dpo_loss,
    robust_loss,
    wpo_loss,
)
from trimtab.losses.pairs import PairLogprobs
from trimtab.losses.preference import PREFERENCE_LOSSES

OF_THE_MARGIN = ["dpo", "cdpo", "robust", "hinge", "ipo", "exo", "discopop"]
F_DPO = ["forward_kl_dpo", "js_dpo", "alpha_dpo"]
MARGINS = st.floats(-100, 100)
NOISES = st.floats(0, 0.45)
AT_REFERENCE = pair(0.0, 0.0)
NONE = pair(0.0, 0.0)  # a reference that turns log-probabilities into log-ratios


# DPO


@pytest.mark.parametrize("name", ["dpo", *F_DPO])
def test_an_untrained_policy_pays_ln_2_and_has_no_margin(name: str) -> None:
    reference = logprobs([row.reference for row in ROWS])
    found = PREFERENCE_LOSSES[name](reference, reference)
    assert found.loss.tolist() == pytest.approx([math.log(2)] * len(ROWS), rel=1e-15)
    assert found.chosen_reward.tolist() == found.rejected_reward.tolist()


def test_the_first_gradient_is_half_of_beta() -> None:
    policy = pair(-3.0, -5.0)
    found = dpo_loss(policy, pair(-3.0, -5.0), beta=0.3)
    assert grads_of(found, policy) == Sides(pytest.approx(-0.15, rel=1e-15), pytest.approx(0.15, rel=1e-15))


@given(MARGINS)
def test_flipping_the_label_of_dpo_adds_the_margin(z: float) -> None:
    right, flipped = dpo_loss(pair(z, 0), NONE, beta=1.0).loss, dpo_loss(pair(0, z), NONE, beta=1.0).loss
    assert (flipped - right).item() == pytest.approx(z, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("name", [*OF_THE_MARGIN, *F_DPO])
def test_two_of_the_same_response_pull_nowhere(name: str) -> None:
    """With equal log-probabilities the gradients of both sides cancel."""
    policy = pair(-2.0, -2.0)
    chosen, rejected = grads_of(PREFERENCE_LOSSES[name](policy, pair(-1.0, -1.0)), policy)
    assert chosen == -rejected != 0


def preferences(rewards: list[float]) -> dict[tuple[int, int], float]:
    """Bradley-Terry's probability that i beats j, for every ordered pair."""
    weights = [math.exp(reward) for reward in rewards]
    places = itertools.permutations(range(len(rewards)), 2)
    return {(i, j): share(weights[i], weights[j]) for i, j in places}


def population_loss(logits: torch.Tensor, reference: list[float], wins: dict, beta: float) -> torch.Tensor:
    """DPO's expected loss where every pair is seen as often as every other."""
    policy, frozen = torch.log_softmax(logits, 0), torch.tensor(reference, dtype=torch.float64).log()
    i, j = (list(side) for side in zip(*wins, strict=True))
    found = dpo_loss(PairLogprobs(policy[i], policy[j]), PairLogprobs(frozen[i], frozen[j]), beta=beta)
    return found.loss @ torch.tensor(list(wins.values()), dtype=torch.float64)


def test_the_optimum_of_rlhf_is_the_optimum_of_dpo() -> None:
    """Property 14: at pi* the expected gradient is 0, and the loss is the entropy of the preferences."""
    reference, rewards, beta = [0.5, 0.3, 0.15, 0.05], [1.0, -0.5, 2.0, 0.3], 0.7
    wins = preferences(rewards)
    optimum = leaf([math.log(r) + reward / beta for r, reward in zip(reference, rewards, strict=True)])
    loss = population_loss(optimum, reference, wins, beta)
    (slope,) = torch.autograd.grad(loss, optimum)
    assert slope.tolist() == pytest.approx([0.0] * 4, abs=1e-14)
    assert loss.item() == pytest.approx(-sum(p * math.log(p) for p in wins.values()), rel=1e-12)
    elsewhere = leaf([math.log(r) for r in reference])
    (slope,) = torch.autograd.grad(population_loss(elsewhere, reference, wins, beta), elsewhere)
    assert slope.abs().max() > 0.1


def test_dpo_does_not_care_where_the_mass_of_the_rejected_response_goes() -> None:
    """Property 17: log(1 + (b / a)^beta) is as good as 0 for (0.1, 0, 0.9) with a third, unseen response."""
    beta, half = 0.5, math.log(0.5)
    for a, b in [(0.1, 0.2), (0.9, 1e-3), (0.1, 1e-40)]:
        loss = dpo_loss(pair(math.log(a), math.log(b)), pair(half, half), beta=beta).loss
        assert loss.item() == pytest.approx(math.log1p((b / a) ** beta), rel=1e-12)


def test_certain_labels_push_dpo_forever_and_ipo_to_its_goal() -> None:
    """Property 18."""
    for far in (1.0, 10.0, 100.0, 500.0):
        policy = pair(far, 0.0)
        assert grads_of(dpo_loss(policy, NONE, beta=0.5), policy).chosen < 0
    policy = pair(1 / (2 * 0.5), 0.0)
    goal = ipo_loss(policy, NONE, beta=0.5)
    assert goal.loss.item() == 0 and grads_of(goal, policy) == (0, 0)


# cDPO and robust DPO


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3, 0.45])
def test_cdpo_is_smallest_where_the_policy_is_as_sure_as_the_labels(noise: float) -> None:
    goal = math.log((1 - noise) / noise)
    policy = pair(goal, 0.0)
    found = cdpo_loss(policy, NONE, beta=1.0, label_noise=noise)
    entropy = -(1 - noise) * math.log(1 - noise) - noise * math.log(noise)
    assert found.loss.item() == pytest.approx(entropy, rel=1e-13)
    assert grads_of(found, policy) == pytest.approx((0, 0), abs=1e-14)
    for aside in (goal - 0.1, goal + 0.1):
        assert cdpo_loss(pair(aside, 0.0), NONE, beta=1.0, label_noise=noise).loss.item() > entropy


@given(MARGINS, NOISES)
def test_robust_dpo_averaged_over_flips_is_dpo(z: float, noise: float) -> None:
    kept = robust_loss(pair(z, 0), NONE, beta=1.0, label_noise=noise).loss.item()
    flipped = robust_loss(pair(0, z), NONE, beta=1.0, label_noise=noise).loss.item()
    clean = dpo_loss(pair(z, 0), NONE, beta=1.0).loss.item()
    assert (1 - noise) * kept + noise * flipped == pytest.approx(clean, rel=1e-11, abs=1e-11)


def test_robust_dpo_of_one_pair_falls_without_bound() -> None:
    for z in (9e2, 9e3):
        found = robust_loss(pair(z, 0.0), NONE, beta=1.0, label_noise=0.2).loss.item()
        assert found == pytest.approx(-0.2 * z / 0.6, rel=1e-14)


# Hinge


def test_hinge_stops_at_a_margin_of_1() -> None:
    for far in (2.0, 2.0 + 1e-9, 50.0):  # beta of a half: z = 1 exactly, and beyond
        policy = pair(far, 0.0)
        found = hinge_loss(policy, NONE, beta=0.5)
        assert found.loss.item() == 0 and grads_of(found, policy) == (0, 0)
    policy = pair(2.0 - 1e-9, 0.0)
    found = hinge_loss(policy, NONE, beta=0.5)
    assert found.loss.item() == pytest.approx(0.5e-9, rel=1e-6)
    assert grads_of(found, policy) == (-0.5, 0.5)


def test_hinge_of_an_untrained_policy_is_1() -> None:
    assert hinge_loss(AT_REFERENCE, NONE).loss.item() == 1


# IPO


@pytest.mark.parametrize("agreement", [0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_ipo_goes_to_the_share_of_labels_that_agree(agreement: float, beta: float) -> None:
    """Property 21: labels that agree with probability p lead to a margin of (p - 1/2) / beta."""

    def expected(goal: float) -> tuple[float, float]:
        policy, flipped = pair(goal, 0.0), pair(0.0, goal)
        kept, turned = ipo_loss(policy, NONE, beta=beta), ipo_loss(flipped, NONE, beta=beta)
        slope = agreement * grads_of(kept, policy).chosen
        slope += (1 - agreement) * grads_of(turned, flipped).rejected
        return agreement * kept.loss.item() + (1 - agreement) * turned.loss.item(), slope

    goal = (agreement - 0.5) / beta
    smallest, slope = expected(goal)
    assert slope == pytest.approx(0, abs=1e-13)
    assert min(expected(goal - 0.01)[0], expected(goal + 0.01)[0]) > smallest


# EXO


@pytest.mark.parametrize("noise", [1e-3, 0.1, 0.4])
def test_exo_is_0_where_the_policy_is_as_sure_as_the_label_and_above_0_elsewhere(noise: float) -> None:
    goal = math.log((1 - noise) / noise)
    policy = pair(goal, 0.0)
    found = exo_loss(policy, NONE, beta=1.0, label_noise=noise)
    assert found.loss.item() == pytest.approx(0, abs=1e-14)
    assert grads_of(found, policy) == pytest.approx((0, 0), abs=1e-14)
    for aside in (goal - 0.1, goal + 0.1, -20.0, 20.0):
        assert exo_loss(pair(aside, 0.0), NONE, beta=1.0, label_noise=noise).loss.item() > 1e-7


def test_exo_of_a_wrong_policy_stays_at_the_log_of_the_noise() -> None:
    """The reverse divergence ends at log(1 / e), where cDPO's forward one grows with the margin."""
    found = exo_loss(pair(-1000.0, 0.0), NONE, beta=1.0, label_noise=0.01)
    assert found.loss.item() == pytest.approx(math.log(100), rel=1e-14)


# DiscoPOP


def test_discopop_is_logistic_below_0_and_exponential_above() -> None:
    for z in (-3.0, -50.0):
        logistic = math.log1p(math.exp(-z))
        assert discopop_loss(pair(z, 0), NONE, beta=1.0).loss.item() == pytest.approx(logistic, rel=1e-12)
    for z in (3.0, 50.0):
        assert discopop_loss(pair(z, 0), NONE, beta=1.0).loss.item() == pytest.approx(math.exp(-z), rel=1e-12)


def test_discopop_of_an_untrained_policy_is_half_of_both() -> None:
    found = discopop_loss(AT_REFERENCE, NONE).loss.item()
    assert found == pytest.approx((math.log(2) + 1) / 2, rel=1e-15)


def test_discopop_has_a_local_minimum_just_below_its_start() -> None:
    slopes, values = [], []
    for z in (-0.121, -0.119, -0.117):
        policy = pair(z, 0.0)
        found = discopop_loss(policy, NONE, beta=1.0)
        slopes.append(grads_of(found, policy).chosen)
        values.append(found.loss.item())
    assert slopes[0] < 0 < slopes[2]
    assert values[1] < min(values[0], values[2], discopop_loss(AT_REFERENCE, NONE, beta=1.0).loss.item())


def test_discopop_at_temperature_1_stays_bounded_on_the_wrong_side() -> None:
    """m e^-z = sigma(-z) there, so the loss is (1 - m) softplus(-z) + (1 - m)."""
    found = discopop_loss(pair(-1000.0, 0.0), NONE, beta=1.0, temperature=1.0).loss.item()
    assert found == pytest.approx(1001.0, rel=1e-14)


# f-DPO


def test_alpha_towards_1_is_dpo() -> None:
    """The distance to DPO is of the order of 1 - alpha: at half the step, half of it."""
    inputs = tensors("policy reference", ROWS)
    goal = dpo_loss(**inputs, beta=0.7)

    def off(step: float) -> torch.Tensor:
        found = alpha_dpo_loss(**inputs, beta=0.7, alpha=1 - step)
        return torch.stack([part - whole for part, whole in zip(found, goal, strict=True)])

    for step in (1e-2, 1e-3):
        assert off(step).abs().max() > step
        assert (2 * off(step / 2) - off(step)).abs().max() < 50 * step**2
    assert off(1e-6).abs().max() < 2e-5


def test_alpha_without_end_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^alpha must be a finite number, got -inf$"):
        alpha_dpo_loss(**tensors("policy reference", ROWS), beta=0.7, alpha=-math.inf)


@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9])
def test_alpha_next_to_1_is_dpo_in_float32_too(step: float) -> None:
    """u^(alpha - 1) is 1 but for the last digits there; they must not be all that is left."""
    policy, reference = (PairLogprobs(*torch.tensor(sides)) for sides in ([[-3.0], [-5.0]], [[-4.0], [-3.0]]))
    found = alpha_dpo_loss(policy, reference, beta=1.0, alpha=1 - step).loss.item()
    assert found == pytest.approx(dpo_loss(policy, reference, beta=1.0).loss.item(), abs=step + 1e-6)


def test_alpha_0_is_the_forward_divergence_up_to_a_constant_in_the_rewards() -> None:
    inputs = tensors("policy reference", ROWS)
    found, same = alpha_dpo_loss(**inputs, beta=0.7, alpha=0.0), forward_kl_dpo_loss(**inputs, beta=0.7)
    assert found.loss.tolist() == exactly(same.loss.tolist())
    assert (found.chosen_reward - same.chosen_reward).tolist() == pytest.approx([0.7] * len(ROWS), abs=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 2.0, -7.0])
def test_jensen_shannon_halves_a_margin_that_is_shared_equally(ratio: float) -> None:
    """f'(u) - f'(1/u) = log u: opposite log-ratios give half of DPO's margin."""
    found = js_dpo_loss(pair(ratio, -ratio), NONE, beta=0.7).loss.item()
    assert found == pytest.approx(dpo_loss(pair(ratio, 0), NONE, beta=0.7).loss.item(), rel=1e-13)


def test_jensen_shannon_starts_half_as_stiff_as_dpo() -> None:
    policy = pair(-3.0, -5.0)
    slopes = grads_of(js_dpo_loss(policy, pair(-3.0, -5.0), beta=0.3), policy)
    assert slopes == pytest.approx((-0.075, 0.075), rel=1e-14)


def test_jensen_shannon_rewards_end_at_ln_2() -> None:
    found = js_dpo_loss(pair(1e4, -1e4), NONE, beta=0.7)
    assert found.chosen_reward.item() == pytest.approx(0.7 * math.log(2), rel=1e-15)
    assert found.rejected_reward.item() == pytest.approx(0.7 * (math.log(2) - 1e4), rel=1e-15)


@pytest.mark.parametrize("name", ["forward_kl_dpo", "alpha_dpo"])
def test_a_ruled_out_response_keeps_a_finite_loss_and_a_push_of_the_right_sign(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        policy = PairLogprobs(*(torch.tensor([x], dtype=dtype, requires_grad=True) for x in (-1e4, 0.0)))
        found = PREFERENCE_LOSSES[name](policy, PairLogprobs(torch.zeros(1), torch.zeros(1)))
        chosen, rejected = grads_of(found, policy)
        assert math.isfinite(found.loss.item()) and math.isfinite(chosen) and chosen < 0 < rejected


# WPO


def test_the_weight_of_a_pair_is_never_above_1() -> None:
    policy, plain = pair(0.4, 0.1), dpo_loss(pair(0.4, 0.1), NONE).loss.item()
    for together, expected in [(5.0, 1.0), (1e-9, 1.0), (0.0, 1.0), (-0.5, math.exp(-0.5)), (-2e4, 0.0)]:
        likeness = pair(together + 3, -3.0)
        found = wpo_loss(policy, NONE, likeness)
        assert found.loss.item() == pytest.approx(expected * plain, rel=1e-12)


def test_the_weight_of_a_pair_is_a_constant_for_the_gradient() -> None:
    likeness = pair(-0.5, -0.2)
    wpo_loss(pair(0.4, 0.1), NONE, likeness).loss.sum().backward()
    assert likeness.chosen.grad is None and likeness.rejected.grad is None


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0.01, 2))
@settings(max_examples=50)
def test_a_loss_of_the_margin_is_the_same_for_any_split_of_it(mine: float, other: float, beta: float) -> None:
    """Property 15: a term of the prompt alone, in both log-probabilities, cancels."""
    for name in OF_THE_MARGIN:
        loss = PREFERENCE_LOSSES[name]
        whole = loss(pair(mine - other, 0.0), NONE, beta=beta)
        split = loss(pair(mine, other), NONE, beta=beta)
        assert split.loss.item() == pytest.approx(whole.loss.item(), rel=1e-9, abs=1e-9), name
