"""Proximal policy optimization: the clipped losses of policy and value.

Shapes: N = response tokens. Every function returns one value a token; the caller sums and divides
by the tokens of the whole minibatch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.losses.exponent import bounded_exp


class PolicyLoss(NamedTuple):
    """The loss of each token, and whether the clip decided it."""

    loss: Tensor  # [N]
    ratio: Tensor  # [N] detached, new over old probability
    clipped: Tensor  # [N] bool, a clip took the gradient away


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
    Raises:
        ValueError: clip outside its range.
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7. Derived in docs/math.md#ppo.
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip must be in (0, 1), got {clip}")
    ratio = bounded_exp(logprobs - old_logprobs)
    plain = -advantages * ratio
    limited = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return PolicyLoss(torch.maximum(plain, limited), ratio.detach(), limited > plain)


def dual_clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float, dual_clip: float
) -> PolicyLoss:
    """The clipped loss, and for A < 0 at most -A * dual_clip.

    The plain clip leaves one corner open: a bad token that has become much likelier is pushed back
    with a force that grows with its ratio. Here the force ends at `dual_clip`.

    Args:
        logprobs, old_logprobs, advantages, clip: as in `policy_loss`.
        dual_clip: > 1 + clip, the ratio beyond which a bad token has no gradient.
    Raises:
        ValueError: clip or dual_clip outside its range.
    Source: Ye et al. 2020, arXiv:1912.09729, dual-clip PPO. Derived in docs/math.md#dual-clip.
    """
    single = policy_loss(logprobs, old_logprobs, advantages, clip=clip)
    if not dual_clip > 1 + clip:
        raise ValueError(f"dual_clip must be > 1 + clip = {1 + clip}, got {dual_clip}")
    ceiling = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
    loss = torch.minimum(single.loss, ceiling)
    return PolicyLoss(loss, single.ratio, single.clipped | (single.loss > ceiling))


def with_entropy_bonus(policy_loss: Tensor, entropy: Tensor, *, weight: float) -> Tensor:
    """The policy loss of each token less the policy's entropy there, times a weight: variety is worth it.

    Args:
        policy_loss: [N], of `policy_loss` or another.
        entropy: [N] nats, of the policy being trained at each token.
        weight: >= 0, units of advantage a nat; 0 is PPO.
    Raises:
        ValueError: weight below 0.
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 9; Mnih et al. 2016, arXiv:1602.01783.
        Derived in docs/math.md#entropy.
    """
    if not weight >= 0:
        raise ValueError(f"weight must be >= 0, got {weight}")
    return policy_loss - weight * entropy


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> ValueLoss:
    """Half the squared error, where a step beyond +-clip from the old value gains nothing.

    Args:
        values: [N] of the value model being trained.
        old_values: [N] at the time of sampling.
        returns: [N] what was then observed.
        clip: > 0, in units of reward.
    Raises:
        ValueError: clip is not above 0.
    Source: Ziegler et al. 2019, arXiv:1909.08593, code. Derived in docs/math.md#value-loss.
    """
    if not clip > 0:
        raise ValueError(f"clip must be > 0, got {clip}")
    plain = (values - returns).square()
    near = values.clamp(old_values - clip, old_values + clip)
    limited = (near - returns).square()
    return ValueLoss(0.5 * torch.maximum(plain, limited), limited > plain)


def approximate_kl(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio of each token: how far one update has moved, nats; [N].

    Source: Ziegler et al. 2019, arXiv:1909.08593, code. See docs/math.md#ppo.
    """
    return 0.5 * (logprobs - old_logprobs).square()


def importance_weights(old_logprobs: Tensor, sampled_logprobs: Tensor, *, cap: float) -> Tensor:
    """min(old / sampler's probability, cap) of each token: what it counts in the policy loss.

    A sampler with other arithmetic draws from a slightly other distribution than the one that learns. The
    ratio corrects for it, token by token; the cap bounds the variance, at the price of a bias downwards.

    Args:
        old_logprobs: [N] nats, of the sampled tokens, by the computation that learns.
        sampled_logprobs: [N] nats, as the sampler gave them.
        cap: >= 1.
    Raises:
        ValueError: cap below 1, which would shrink tokens on which both agree.
    Source: truncated importance sampling, Ionides 2008, doi:10.1198/106186008X320456. Derived in
        docs/math.md#importance.
    """
    if not cap >= 1:
        raise ValueError(f"cap must be >= 1, got {cap}")
    return bounded_exp(old_logprobs - sampled_logprobs).clamp(max=cap)


def with_pretraining(policy_loss: Tensor, pretraining_loss: Tensor, *, weight: float) -> Tensor:
    """PPO-ptx: the policy loss plus the language-modelling loss on pretraining text, times a weight.

    Args:
        policy_loss: scalar, mean over the tokens of the minibatch.
        pretraining_loss: scalar, mean nats a token of pretraining text (`sft_loss`).
        weight: >= 0, the paper's gamma; 0 is PPO. InstructGPT takes 27.8 on sums over eight times as
            many pretraining examples as episodes; a weight on means is another number.
    Raises:
        ValueError: weight below 0.
    Source: Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, equation 2. Derived in
        docs/math.md#ptx.
    """
    if not weight >= 0:
        raise ValueError(f"weight must be >= 0, got {weight}")
    return policy_loss + weight * pretraining_loss
