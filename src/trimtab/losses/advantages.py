"""Rewards per token, advantages and returns of sampled responses.

Dimensions: R = responses, L = longest response, right-padded here only, because the recursion runs
backwards over steps; `mask` [R, L] is True for real tokens. gamma is 1: a response is one episode.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """What each token was worth beyond what was expected, and what the value model should have said."""

    advantages: Tensor  # [R, L], 0 where masked
    returns: Tensor  # [R, L], 0 where masked


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_weight: float) -> Tensor:
    """The reward of each token: the KL penalty everywhere, the score on the last token.

    Args:
        scores: [R] reward of each whole response.
        kl: [R, L] log-ratio of policy to reference of each sampled token, nats.
        mask: [R, L]; each response has at least one token.
        kl_weight: reward taken per nat.

    Returns:
        [R, L] whose rows sum to score - kl_weight * (log-ratio of the response).
    Source: equation 3 of the method, one token at a time. Derived in docs/math.md#token-rewards.
    """
    rewards = torch.where(mask, -kl_weight * kl, 0.0)
    last = mask.sum(1) - 1
    return rewards.scatter_add(1, last.unsqueeze(1), scores.unsqueeze(1).to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, lam: float) -> Advantages:
    """Generalised advantage estimation with discount 1.

    delta_t = r_t + V_{t+1} - V_t, A_t = delta_t + lam * A_{t+1}, returns = A + V; the value after
    the last token is 0, because the episode has ended.

    Args:
        rewards, values: [R, L]; values[:, t] is expected before token t is chosen.
        mask: [R, L].
        lam: in [0, 1]. 1 is unbiased whatever the values say; smaller trusts them more.
    Source: Schulman et al. 2015, arXiv:1506.02438, equation 16. Derived in docs/math.md#gae.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lam must be in [0, 1], got {lam}")
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    following_value = torch.zeros_like(rewards[:, 0])
    following_advantage = torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.shape[1])):
        # Padding comes after the last token, so both are still 0 when the last token is reached.
        delta = rewards[:, step] + following_value - values[:, step]
        advantages[:, step] = torch.where(mask[:, step], delta + lam * following_advantage, 0.0)
        following_value, following_advantage = values[:, step], advantages[:, step]
    return Advantages(advantages, advantages + values)


def standardize(advantages: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over all real tokens of the batch; 0 where masked.

    The variance is the biased one, with 1e-8 under the root, as in Ziegler et al. 2019.
    Source: docs/math.md#standardize.
    """
    real = advantages[mask]
    scale = torch.rsqrt(real.var(correction=0) + 1e-8)
    return torch.where(mask, (advantages - real.mean()) * scale, 0.0)
