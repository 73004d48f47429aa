"""Rewards per token, advantages and returns of sampled responses.

Dimensions: R = responses, L = longest response, right-padded here only, because the recursion runs
backwards over steps; `mask` [R, L] is True for real tokens. gamma is 1: a response is one episode.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-8
"""Under the root of a variance."""


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
    Raises:
        ValueError: a response has no token, so nothing can carry its score.
    Source: equation 3 of the method, one token at a time. Derived in docs/math.md#token-rewards.
    """
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"responses without a token cannot carry a score: {empty}")
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


def standardize(advantages: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over all real tokens of the batch; 0 where masked.

    The variance is the biased one, with 1e-8 under the root, as in Ziegler et al. 2019.

    Args:
        advantages: [R, L].
        mask: [R, L].
        weights: [R] what each response counts; none: all the same.
    Source: docs/math.md#standardize.
    """
    share = _shares(advantages, mask, weights)
    centred = centre(advantages, mask, weights)
    return centred * torch.rsqrt((share * centred.square()).sum() + EPSILON)


def centre(advantages: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Shift to mean 0 over all real tokens of the batch; 0 where masked.

    A constant baseline: the mean of the policy gradient stays as it is, in size too. Near the optimum,
    where all advantages vanish, `standardize` would blow their rest up to 1.

    Args:
        advantages, mask, weights: as in `standardize`.
    Source: docs/math.md#standardize.
    """
    # From a token's own value, so that equal advantages give 0 however their mean is rounded.
    shifted = torch.where(mask, advantages - advantages[mask][:1].sum(), 0.0)
    mean = (_shares(advantages, mask, weights) * shifted).sum()
    return torch.where(mask, shifted - mean, 0.0)


def unchanged(advantages: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """As they were estimated; 0 where masked. Source: docs/math.md#standardize."""
    return torch.where(mask, advantages, 0.0)


ADVANTAGES = {"standardized": standardize, "centred": centre, "plain": unchanged}
"""What may be done to advantages before the policy learns from them, by name."""


def scale_to_unit_variance(rewards: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """(r - mean) / std + mean over all real tokens: the reward whitening of Ziegler et al. 2019.

    The mean is kept, which gives every token a constant of mean * (1 - 1/std) beside the scaled
    reward: an incentive of its own to write more, or less. Off in all later work.

    Args:
        rewards: [R, L].
        mask: [R, L].
        weights: [R] what each response counts; none: all the same.
    Source: Ziegler et al. 2019, arXiv:1909.08593, code. Derived in docs/math.md#reward-scale.
    """
    mean = (_shares(rewards, mask, weights) * torch.where(mask, rewards, 0.0)).sum()
    return torch.where(mask, standardize(rewards, mask, weights) + mean, 0.0)


REWARDS = {"whitened": scale_to_unit_variance, "plain": unchanged}
"""What may be done to the rewards of tokens before advantages are estimated from them, by name."""


def _shares(values: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """What each token counts: [R, L], summing to 1 (to 0 where there is no token)."""
    counts = mask.to(values.dtype)
    if weights is not None:
        counts = counts * weights.to(values.dtype).unsqueeze(1)
    total = counts.sum()
    return counts / torch.where(total > 0, total, 1.0)
