"""Divergence from the reference: the estimator, and the controller of its weight. Unit: nats."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


def k1(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Log-ratio of sampled tokens, log policy - log reference: unbiased for the KL, of either sign.

    In the reward it gives the exact gradient of KL(policy || reference); as a loss its gradient
    has mean 0, so it belongs into the reward only.

    Args:
        policy_logprobs, reference_logprobs: [N] nats, tokens sampled from the policy.
    Source: docs/math.md#kl.
    """
    return policy_logprobs - reference_logprobs


@dataclass(frozen=True)
class AdaptiveKL:
    """A KL weight that moves by at most 20 % of n/horizon an update, towards a target divergence.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2. See docs/math.md#adaptive-kl.
    """

    target: float
    """Nats per response that the KL is steered to, > 0."""
    horizon: int = 10_000
    """Episodes over which the weight may change by about 20 %."""

    def updated(self, weight: float, *, kl: float, episodes: int) -> float:
        """The next weight, after `episodes` responses whose mean divergence was `kl` nats."""
        error = max(-0.2, min(0.2, kl / self.target - 1))
        return weight * (1 + error * episodes / self.horizon)
