"""The clipped losses: values by hand, and the corners where the gradient must be zero."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.losses.kl import AdaptiveKL, k1
from trimtab.losses.ppo import approximate_kl, policy_loss, value_loss


def at_ratio(ratio: float, advantage: float) -> tuple[float, float, bool]:
    """Loss, gradient by the log-probability, clipped?"""
    logprob = torch.tensor([math.log(0.3 * ratio)], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([math.log(0.3)], dtype=torch.float64)
    found = policy_loss(logprob, old, torch.tensor([advantage], dtype=torch.float64), clip=0.2)
    found.loss.sum().backward()
    assert logprob.grad is not None
    return found.loss.item(), logprob.grad.item(), bool(found.clipped)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, False),
        (1.1, 2.0, -2.2, -2.2, False),
        (1.5, 2.0, -2.4, 0.0, True),  # already likelier than allowed: no gain
        (0.5, 2.0, -1.0, -1.0, False),  # wrongly made less likely: pull back
        (1.5, -2.0, 3.0, 3.0, False),  # wrongly made likelier: push back
        (0.5, -2.0, 1.6, 0.0, True),
    ],
)
def test_policy_loss_in_every_corner(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    found = at_ratio(ratio, advantage)
    assert found[0] == pytest.approx(loss, rel=1e-12)
    assert found[1] == pytest.approx(gradient, rel=1e-12, abs=1e-12)
    assert found[2] is clipped


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),
        (1.1, 1.0, 3.0, 0.5 * 1.9**2, -1.9),
        (1.5, 1.0, 3.0, 0.5 * 1.8**2, 0.0),  # moved further than allowed towards the target
        (0.5, 1.0, 3.0, 0.5 * 2.5**2, -2.5),  # moved away: the plain error is the larger
    ],
)
def test_value_loss(value: float, old: float, target: float, loss: float, gradient: float) -> None:
    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    found = value_loss(values, torch.tensor([old]), torch.tensor([target]), clip=0.2)
    found.loss.sum().backward()
    assert found.loss.item() == pytest.approx(loss, rel=1e-6)
    assert values.grad is not None and values.grad.item() == pytest.approx(gradient, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_clips_are_positive(clip: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="clip"):
        policy_loss(one, one, one, clip=clip)
    with pytest.raises(ValueError, match="clip"):
        value_loss(one, one, one, clip=clip)


def test_k1_and_approximate_kl() -> None:
    new, old = torch.tensor([0.4]).log(), torch.tensor([0.2]).log()
    assert k1(new, old).item() == pytest.approx(math.log(2))
    assert approximate_kl(new, old).item() == pytest.approx(0.5 * math.log(2) ** 2)


def test_the_adaptive_weight_rests_on_target_and_moves_by_a_fifth_at_most() -> None:
    controller = AdaptiveKL(target=6.0, horizon=100)
    assert controller.updated(0.1, kl=6.0, episodes=50) == pytest.approx(0.1)
    assert controller.updated(0.1, kl=6.6, episodes=50) == pytest.approx(0.1 * (1 + 0.1 * 0.5))
    assert controller.updated(0.1, kl=600, episodes=50) == pytest.approx(0.1 * 1.1)
    assert controller.updated(0.1, kl=0, episodes=50) == pytest.approx(0.1 * 0.9)
