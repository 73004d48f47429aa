"""dpo_loss against the paper's own path: probabilities -> odds -> -log, with no logsigmoid."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.losses.preference import PairLogprobs, dpo_loss

BETA = 0.3
Sides = tuple[list[float], list[float]]
POLICY: Sides = ([0.9, 0.5], [0.2, 0.4, 0.8])  # per-token probabilities: chosen, rejected
REFERENCE: Sides = ([0.6, 0.5], [0.3, 0.4, 0.5])


def pair(sides: Sides) -> PairLogprobs:
    return PairLogprobs(
        *(
            torch.tensor([math.log(math.prod(side))], dtype=torch.float64, requires_grad=True)
            for side in sides
        )
    )


def win_probability() -> float:
    odds = [(math.prod(p) / math.prod(r)) ** BETA for p, r in zip(POLICY, REFERENCE, strict=True)]
    return odds[0] / sum(odds)


def test_value() -> None:
    found = dpo_loss(pair(POLICY), pair(REFERENCE), beta=BETA)
    assert found.loss.item() == pytest.approx(-math.log(win_probability()), rel=1e-12)


def test_gradient_is_beta_times_the_probability_of_being_wrong() -> None:
    policy = pair(POLICY)
    dpo_loss(policy, pair(REFERENCE), beta=BETA).loss.sum().backward()
    expected = BETA * (1 - win_probability())
    assert policy.chosen.grad is not None and policy.rejected.grad is not None
    assert policy.chosen.grad.item() == pytest.approx(-expected, rel=1e-12)
    assert policy.rejected.grad.item() == pytest.approx(+expected, rel=1e-12)


def test_an_untrained_policy_pays_ln_2() -> None:
    found = dpo_loss(pair(REFERENCE), pair(REFERENCE), beta=BETA)
    assert found.loss.item() == pytest.approx(math.log(2), rel=1e-15)


def test_implied_rewards_are_beta_times_the_log_ratio_and_carry_no_gradient() -> None:
    found = dpo_loss(pair(POLICY), pair(REFERENCE), beta=BETA)
    assert found.chosen_reward.item() == pytest.approx(BETA * math.log(0.45 / 0.30), rel=1e-12)
    assert found.rejected_reward.item() == pytest.approx(BETA * math.log(0.064 / 0.06), rel=1e-12)
    assert not found.chosen_reward.requires_grad and not found.rejected_reward.requires_grad


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_extreme_log_ratios_stay_finite(gap: float) -> None:
    policy = PairLogprobs(torch.tensor([gap], requires_grad=True), torch.tensor([0.0]))
    loss = dpo_loss(policy, PairLogprobs(torch.zeros(1), torch.zeros(1)), beta=1.0).loss
    loss.sum().backward()
    assert loss.item() == pytest.approx(max(0.0, -gap))
    assert policy.chosen.grad is not None and torch.isfinite(policy.chosen.grad).all()


@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan")])
def test_beta_is_positive(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        dpo_loss(pair(POLICY), pair(REFERENCE), beta=beta)
