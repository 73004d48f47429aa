"""Proximal policy optimization: the clipped losses of policy and value.

Shapes: N = response tokens. Every function returns one value a token; the caller sums and divides
by the tokens of the whole minibatch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """The loss of each token, and whether the clip decided it."""

    loss: Tensor  # [N]
    ratio: Tensor  # [N] detached, new over old probability
    clipped: Tensor  # [N] bool, the clipped branch was the larger loss


class ValueLoss(NamedTuple):
    """The loss of each token, and whether the clip decided it."""

    loss: Tensor  # [N]
    clipped: Tensor  # [N] bool


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float) -> PolicyLoss:
    """max(-A * ratio, -A * clip(ratio, 1 - clip, 1 + clip)), ratio = new / old probability.

    Args:
        logprobs: [N] nats, under the policy being trained.
        old_logprobs: [N] nats, under the policy that sampled, by the same computation.
        advantages: [N].
        clip: in (0, 1), how far the ratio may move before the gradient stops.
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7. Derived in docs/math.md#ppo.
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip must be in (0, 1), got {clip}")
    ratio = torch.exp(logprobs - old_logprobs)
    plain = -advantages * ratio
    limited = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return PolicyLoss(torch.maximum(plain, limited), ratio.detach(), limited > plain)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> ValueLoss:
    """Half the squared error, where a step beyond +-clip from the old value gains nothing.

    Args:
        values: [N] of the value model being trained.
        old_values: [N] at the time of sampling.
        returns: [N] what was then observed.
        clip: > 0, in units of reward.
    Source: Ziegler et al. 2019, arXiv:1909.08593, code. Derived in docs/math.md#value-loss.
    """
    if not clip > 0:
        raise ValueError(f"clip must be > 0, got {clip}")
    plain = (values - returns).square()
    near = old_values + (values - old_values).clamp(-clip, clip)
    limited = (near - returns).square()
    return ValueLoss(0.5 * torch.maximum(plain, limited), limited > plain)


def approximate_kl(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio of each token: how far one update has moved, nats; [N]."""
    return 0.5 * (logprobs - old_logprobs).square()
