"""What preference losses read and give back.

Shapes: P = pairs in the batch. Unit: nats, summed over the response tokens of one sequence, the
stop token included; where a loss divides by a length it says so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class PairLogprobs(NamedTuple):
    """log p(response | prompt) of both responses to each prompt, under one model."""

    chosen: Tensor  # [P] nats per sequence
    rejected: Tensor  # [P] nats per sequence


class PairLengths(NamedTuple):
    """Tokens of both responses, the stop token included."""

    chosen: Tensor  # [P]
    rejected: Tensor  # [P]


class PairLoss(NamedTuple):
    """A loss for each pair, and the rewards that the policy implies."""

    loss: Tensor  # [P]
    chosen_reward: Tensor  # [P] detached
    rejected_reward: Tensor  # [P] detached


def log_ratios(policy: PairLogprobs, reference: PairLogprobs) -> PairLogprobs:
    """log policy(y) / reference(y) of both responses: nats per sequence; no gradient to the reference."""
    return PairLogprobs(
        policy.chosen - reference.chosen.detach(), policy.rejected - reference.rejected.detach()
    )


def per_token(logprobs: PairLogprobs, lengths: PairLengths) -> PairLogprobs:
    """The mean over each response's tokens instead of the sum: nats per token."""
    return PairLogprobs(logprobs.chosen / lengths.chosen, logprobs.rejected / lengths.rejected)


def with_rewards(loss: Tensor, rewards: PairLogprobs) -> PairLoss:
    """The loss, with the implied rewards detached."""
    return PairLoss(loss, rewards.chosen.detach(), rewards.rejected.detach())


def implied_rewards(policy: PairLogprobs, reference: PairLogprobs, beta: float) -> PairLogprobs:
    """beta * log-ratio of both responses: equation 5, up to a term of the prompt alone.

    Raises:
        ValueError: beta is not above 0.
    """
    require_positive("beta", beta)
    ratios = log_ratios(policy, reference)
    return PairLogprobs(beta * ratios.chosen, beta * ratios.rejected)


def require_positive(name: str, value: float) -> None:
    """Refuse what is not above 0, and infinity.

    Raises:
        ValueError: naming the option and what was given.
    """
    if not value > 0:  # written so that NaN is refused too
        raise ValueError(f"{name} must be > 0, got {value}")
    require_finite(name, value)


def require_non_negative(name: str, value: float) -> None:
    """Refuse what is below 0, and infinity.

    Raises:
        ValueError: naming the option and what was given.
    """
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    require_finite(name, value)


def require_finite(name: str, value: float) -> None:
    """Refuse infinity and what is not a number.

    Raises:
        ValueError: naming the option and what was given.
    """
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")


def require_label_noise(value: float) -> None:
    """Refuse a share of flipped labels at which the labels say nothing, or the opposite.

    Raises:
        ValueError: not in [0, 0.5).
    """
    if not 0 <= value < 0.5:
        raise ValueError(f"label_noise must be in [0, 0.5), got {value}: at 0.5 labels say nothing")
