"""DPO, and the losses that judge the same margin by another measure.

Shapes: P = pairs in the batch. z = beta * (log-ratio of chosen - log-ratio of rejected) throughout:
the difference of the rewards that the policy implies.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.losses.exponent import bounded_exp, bounded_expm1
from trimtab.losses.pairs import (
    PairLogprobs,
    PairLoss,
    implied_rewards,
    log_ratios,
    require_finite,
    require_label_noise,
    require_positive,
    with_rewards,
)


def dpo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """Negative log-likelihood that the chosen response beats the rejected one: -log sigma(z).

    A policy implies the reward r(y) = beta * log(policy(y) / reference(y)), up to a term of the
    prompt alone that cancels in a pair. Bradley-Terry then gives
    P(chosen wins) = sigma(r_chosen - r_rejected); the loss is -log P.

    Args:
        policy, reference: gradient flows through policy; the reference is frozen.
        beta: > 0, reward per nat. Larger holds the policy closer to the reference.
    Raises:
        ValueError: beta is not above 0.
    Source: equation 7 of the method; Rafailov et al. 2023, arXiv:2305.18290. Derived in
        docs/math.md#dpo.
    """
    rewards = implied_rewards(policy, reference, beta)
    return with_rewards(-F.logsigmoid(rewards.chosen - rewards.rejected), rewards)


def cdpo_loss(
    policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1, label_noise: float = 0.1
) -> PairLoss:
    """Conservative DPO: the cross-entropy against labels that are wrong with a known probability.

    (1 - e) * -log sigma(z) + e * -log sigma(-z). Smallest at z = log((1 - e) / e), where the policy
    is as sure as the labels are; there the loss is the entropy of e.

    Args:
        label_noise: e in [0, 0.5), the share of labels that are wrong. 0 is DPO.
    Raises:
        ValueError: beta or label_noise outside its range.
    Source: Mitchell 2023, "A note on DPO with noisy preferences", equation 3. Derived in
        docs/math.md#cdpo.
    """
    require_label_noise(label_noise)
    rewards = implied_rewards(policy, reference, beta)
    right, wrong = _both_labels(rewards.chosen - rewards.rejected)
    return with_rewards((1 - label_noise) * right + label_noise * wrong, rewards)


def robust_loss(
    policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1, label_noise: float = 0.1
) -> PairLoss:
    """Robust DPO: an unbiased estimate of the loss that clean labels would have given.

    [(1 - e) * -log sigma(z) - e * -log sigma(-z)] / (1 - 2e): averaged over flips with probability e
    it is the DPO loss exactly. A single pair's loss falls without bound as z grows.

    Args:
        label_noise: e in [0, 0.5), the share of labels that are wrong. 0 is DPO.
    Raises:
        ValueError: beta or label_noise outside its range.
    Source: Chowdhury et al. 2024, arXiv:2403.00409. Derived in docs/math.md#robust.
    """
    require_label_noise(label_noise)
    rewards = implied_rewards(policy, reference, beta)
    right, wrong = _both_labels(rewards.chosen - rewards.rejected)
    return with_rewards(((1 - label_noise) * right - label_noise * wrong) / (1 - 2 * label_noise), rewards)


def hinge_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """max(0, 1 - z): pairs whose margin has reached 1 no longer count.

    Source: Liu et al. 2023 (RSO), arXiv:2309.06657, hinge on normalised likelihood. Derived in
        docs/math.md#hinge.
    """
    rewards = implied_rewards(policy, reference, beta)
    return with_rewards(F.relu(1 - (rewards.chosen - rewards.rejected)), rewards)


def ipo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """Identity preference optimization on summed log-probabilities: (log-ratio margin - 1/(2 beta))^2.

    The margin has a finite goal even where every label agrees, which DPO's has not. Labels that
    agree with probability p lead to a margin of (p - 1/2) / beta.

    Args:
        beta: > 0, the paper's tau. Not comparable with `ipo_mean`, which averages over tokens.
    Source: Azar et al. 2023, arXiv:2310.12036, equation 17. Derived in docs/math.md#ipo.
    """
    rewards = implied_rewards(policy, reference, beta)
    ratios = log_ratios(policy, reference)
    return with_rewards((ratios.chosen - ratios.rejected - 1 / (2 * beta)).square(), rewards)


def exo_loss(
    policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1, label_noise: float = 1e-3
) -> PairLoss:
    """Efficient exact optimization: the reverse divergence KL(model's preference || softened label).

    q log(q / (1 - e)) + (1 - q) log((1 - q) / e) with q = sigma(z): 0 where q = 1 - e.

    Args:
        label_noise: e in (0, 0.5), how far the label is softened; at 0 the divergence is infinite.
    Raises:
        ValueError: beta or label_noise outside its range.
    Source: Ji et al. 2024, arXiv:2402.00856, equation 16. Derived in docs/math.md#exo.
    """
    require_label_noise(label_noise)
    require_positive("label_noise", label_noise)
    rewards = implied_rewards(policy, reference, beta)
    margin = rewards.chosen - rewards.rejected
    wins = torch.sigmoid(margin) * (F.logsigmoid(margin) - math.log1p(-label_noise))
    loses = torch.sigmoid(-margin) * (F.logsigmoid(-margin) - math.log(label_noise))
    return with_rewards(wins + loses, rewards)


def discopop_loss(
    policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.05, temperature: float = 0.05
) -> PairLoss:
    """The log-ratio modulated loss that a search over losses found: (1 - m)(-log sigma(z)) + m e^-z.

    m = sigma(z / temperature) blends the logistic loss (below z = 0) into the exponential one. At the
    published temperature the loss has a local minimum at z = -0.119, just below where training starts.

    Args:
        temperature: in (0, 1], the paper's tau: the width of the blend. Above 1 the product m e^-z
            would grow without bound on the wrong side.
    Raises:
        ValueError: beta or temperature outside its range.
    Source: Lu et al. 2024, arXiv:2406.08414, equation 5. See docs/math.md#discopop.
    """
    if not 0 < temperature <= 1:
        raise ValueError(f"temperature must be in (0, 1], got {temperature}")
    rewards = implied_rewards(policy, reference, beta)
    margin = rewards.chosen - rewards.rejected
    logistic = torch.sigmoid(-margin / temperature) * -F.logsigmoid(margin)
    # One exponent: sigma underflows to 0 just where e^-z overflows to infinity.
    exponential = torch.exp(F.logsigmoid(margin / temperature) - margin)
    return with_rewards(logistic + exponential, rewards)


def forward_kl_dpo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """DPO for policies held by the forward divergence KL(reference || policy).

    -log sigma(beta f'(u_chosen) - beta f'(u_rejected)) with u = policy / reference and f'(u) = -1/u.

    Source: Wang et al. 2023, arXiv:2309.16240, table 1. Derived in docs/math.md#f-dpo.
    """
    ratios = log_ratios(policy, reference)
    return _f_dpo(PairLogprobs(-bounded_exp(-ratios.chosen), -bounded_exp(-ratios.rejected)), beta)


def js_dpo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """DPO for policies held by the Jensen-Shannon divergence: f'(u) = log(2u / (1 + u)).

    Near the reference it is half as stiff as DPO at the same beta.

    Source: Wang et al. 2023, arXiv:2309.16240, table 1. Derived in docs/math.md#f-dpo.
    """
    ratios = log_ratios(policy, reference)
    slopes = (math.log(2) + F.logsigmoid(ratio) for ratio in ratios)
    return _f_dpo(PairLogprobs(*slopes), beta)


def alpha_dpo_loss(
    policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1, alpha: float = 0.5
) -> PairLoss:
    """DPO for policies held by an alpha divergence: f'(u) = (u^(alpha - 1) - 1) / (alpha - 1).

    Args:
        alpha: < 1. Towards 1 f' tends to log u and the loss to DPO; 0 is the forward divergence up to
            a constant that cancels. Above 1 f'(0) is finite, and the optimum may rule responses out.
    Raises:
        ValueError: beta is not above 0, or alpha is not below 1.
    Source: Wang et al. 2023, arXiv:2309.16240, table 1. Derived in docs/math.md#f-dpo.
    """
    if not alpha < 1:
        raise ValueError(f"alpha must be < 1, got {alpha}: the limit at 1 is the loss dpo")
    require_finite("alpha", alpha)
    power = alpha - 1
    slopes = (bounded_expm1(power * ratio) / power for ratio in log_ratios(policy, reference))
    return _f_dpo(PairLogprobs(*slopes), beta)


def wpo_loss(
    policy: PairLogprobs,
    reference: PairLogprobs,
    likeness: PairLogprobs,
    *,
    beta: float = 0.1,
) -> PairLoss:
    """DPO with pairs weighted by how likely the policy itself would have written them.

    The weight min(1, exp(likeness_chosen + likeness_rejected)) is a constant for the gradient.

    Args:
        likeness: [P] nats per token: for each response the mean over its tokens of
            log policy(token) - log sum_v policy(v)^2, near 0 for what the policy itself writes.
    Source: Zhou et al. 2024, arXiv:2406.11827, equation 2. Derived in docs/math.md#wpo.
    """
    found = dpo_loss(policy, reference, beta=beta)
    weight = torch.exp((likeness.chosen + likeness.rejected).clamp(max=0)).detach()
    return PairLoss(weight * found.loss, found.chosen_reward, found.rejected_reward)


def _both_labels(margin: Tensor) -> tuple[Tensor, Tensor]:
    """What the margin costs if the label is right, and if it is flipped."""
    return -F.logsigmoid(margin), -F.logsigmoid(-margin)


def _f_dpo(slopes: PairLogprobs, beta: float) -> PairLoss:
    require_positive("beta", beta)
    rewards = PairLogprobs(beta * slopes.chosen, beta * slopes.rejected)
    return with_rewards(-F.logsigmoid(rewards.chosen - rewards.rejected), rewards)
