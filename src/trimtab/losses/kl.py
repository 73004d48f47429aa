"""Divergence from the reference: estimators, where each may be used, and the controller of its weight.

Unit: nats. N = tokens sampled from the policy, V = vocabulary. u = log policy - log reference of a
sampled token. The mean of an estimator is one question, the mean of its gradient is another:
docs/math.md#kl has the table.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.losses.exponent import bounded_expm1
from trimtab.losses.pairs import require_positive

Estimator = Callable[[Tensor, Tensor], Tensor]


class BiasedGradient(UserWarning):
    """The gradient's mean is not that of the divergence that the estimator estimates."""


def k1(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """u: unbiased for KL(policy || reference), of either sign.

    In the reward it gives the exact gradient of KL(policy || reference); as a loss its gradient
    has mean 0, so it belongs into the reward only.

    Args:
        policy_logprobs, reference_logprobs: [N] nats, tokens sampled from the policy.
    Source: Schulman 2020, "Approximating KL divergence". Derived in docs/math.md#kl.
    """
    return policy_logprobs - reference_logprobs


def k2(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """u^2 / 2: never negative, biased by the third order of u.

    As a loss on samples of the current policy its gradient's mean is that of
    KL(policy || reference), with the visited states held fixed.

    Args:
        policy_logprobs, reference_logprobs: [N] nats, tokens sampled from the policy.
    Source: Schulman 2020, "Approximating KL divergence". Derived in docs/math.md#kl.
    """
    return 0.5 * (policy_logprobs - reference_logprobs).square()


def k3(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """e^-u - 1 + u: unbiased for KL(policy || reference) and never negative.

    As a loss (GRPO) its gradient's mean is that of the other divergence, KL(reference || policy); in the
    reward it is biased.

    Args:
        policy_logprobs, reference_logprobs: [N] nats, tokens sampled from the policy.
    Source: Schulman 2020, "Approximating KL divergence". Derived in docs/math.md#kl.
    """
    u = policy_logprobs - reference_logprobs
    return bounded_expm1(-u) + u


def full_kl(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """KL(policy || reference) over the whole vocabulary at each position; nothing is sampled.

    Args:
        policy_logprobs, reference_logprobs: [N, V] nats, normalised.

    Returns:
        [N] nats, >= 0.
    Source: docs/math.md#kl-exact.
    """
    # A token that the policy never takes adds nothing, whatever the reference says: 0 log 0 = 0.
    possible = policy_logprobs > -torch.inf
    log_ratio = torch.where(possible, policy_logprobs - reference_logprobs, 0.0)
    return (policy_logprobs.exp() * log_ratio).sum(-1)


ESTIMATORS: dict[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3}
"""By name, for settings."""

_IN_THE_REWARD = {
    "k2": "its mean is not the divergence",
    "k3": "its gradient is that of KL(policy || reference) less that of KL(reference || policy)",
}


def reward_estimator(name: str) -> Estimator:
    """The estimator that is taken off the reward, token by token: k1 is the exact one.

    Warns:
        BiasedGradient: for k2 and k3, with the reason.
    Source: docs/math.md#kl.
    """
    if name in _IN_THE_REWARD:
        reason = _IN_THE_REWARD[name]
        warnings.warn(f"{name} in the reward is biased: {reason}; k1 is exact", BiasedGradient, stacklevel=2)
    return ESTIMATORS[name]


def loss_estimator(name: str) -> Estimator:
    """The estimator that is added to the loss, with gradient: k2 or k3.

    Raises:
        ValueError: k1, whose gradient as a loss has mean 0: it would hold nothing.
    Source: docs/math.md#kl.
    """
    if name == "k1":
        raise ValueError(
            "k1 as a loss does nothing: the mean of its gradient is 0; put k1 into the reward, or take k2"
        )
    return ESTIMATORS[name]


@dataclass(frozen=True)
class AdaptiveKL:
    """A KL weight that moves by at most 20 % of n/horizon an update, towards a target divergence.

    Raises:
        ValueError: target or horizon is not above 0.
    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2. See docs/math.md#adaptive-kl.
    """

    target: float
    """Nats per response that the KL is steered to, > 0."""
    horizon: int = 10_000
    """Episodes over which the weight may change by about 20 %."""

    def __post_init__(self) -> None:
        require_positive("target", self.target)
        require_positive("horizon", self.horizon)

    def updated(self, weight: float, *, kl: float, episodes: int) -> float:
        """The next weight, after `episodes` responses whose mean divergence was `kl` nats.

        An update of more episodes than the horizon moves the weight by 20 % at most, as one of the horizon.

        Raises:
            ValueError: kl is NaN, which says nothing about the direction.
        """
        if math.isnan(kl):
            raise ValueError(
                "the mean KL is NaN, so its weight cannot be steered: a log-probability is broken"
            )
        error = max(-0.2, min(0.2, kl / self.target - 1))
        return weight * (1 + error * min(1.0, episodes / self.horizon))
