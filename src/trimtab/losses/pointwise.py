"""Preference losses that judge each response against the reference by itself.

Unlike DPO's margin, the two log-ratios do not trade places: one may be held while the other moves.
Shapes: P = pairs in the batch. r = beta * log-ratio, the reward that the policy implies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.losses.pairs import (
    PairLogprobs,
    PairLoss,
    implied_rewards,
    log_ratios,
    require_finite,
    require_non_negative,
    require_positive,
    with_rewards,
)


def nca_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """Noise-contrastive alignment: raise the chosen reward, hold both near 0.

    -log sigma(r_w) - 1/2 log sigma(-r_w) - 1/2 log sigma(-r_l).

    Source: Chen et al. 2024, arXiv:2402.05369, for pairs. Derived in docs/math.md#nca.
    """
    rewards = implied_rewards(policy, reference, beta)
    noise = 0.5 * F.logsigmoid(-rewards.chosen) + 0.5 * F.logsigmoid(-rewards.rejected)
    return with_rewards(-F.logsigmoid(rewards.chosen) - noise, rewards)


def bco_loss(
    policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1, shift: float = 0.0
) -> PairLoss:
    """Binary classifier optimization: chosen is good, rejected is bad, each on its own.

    -log sigma(r_w - shift) - log sigma(shift - r_l), an upper bound of DPO's loss for every shift.

    Args:
        shift: reward that separates good from bad. The paper tracks the mean implied reward.
    Raises:
        ValueError: beta or shift outside its range.
    Source: Jung et al. 2024, arXiv:2404.04656. Derived in docs/math.md#bco.
    """
    require_finite("shift", shift)
    rewards = implied_rewards(policy, reference, beta)
    loss = -F.logsigmoid(rewards.chosen - shift) - F.logsigmoid(shift - rewards.rejected)
    return with_rewards(loss, rewards)


def sppo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """Self-play preference optimization with certain labels: pull both log-ratios to +-1/(2 beta).

    (log-ratio_w - 1/(2 beta))^2 + (log-ratio_l + 1/(2 beta))^2.

    Source: Wu et al. 2024, arXiv:2405.00675, with win rates of 1 and 0. Derived in
        docs/math.md#sppo.
    """
    rewards = implied_rewards(policy, reference, beta)
    ratios, goal = log_ratios(policy, reference), 1 / (2 * beta)
    return with_rewards((ratios.chosen - goal).square() + (ratios.rejected + goal).square(), rewards)


def apo_zero_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """Anchored preference optimization: chosen up and rejected down, for data better than the policy.

    1 - sigma(r_w) + sigma(r_l).

    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, equation 7. Derived in docs/math.md#apo.
    """
    rewards = implied_rewards(policy, reference, beta)
    return with_rewards(torch.sigmoid(-rewards.chosen) + torch.sigmoid(rewards.rejected), rewards)


def apo_down_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """Anchored preference optimization: the pair apart and both held down, for data worse than the policy.

    At the reference only the rejected response is pushed; the chosen one's gradient is 0 there.

    sigma(r_w) + 1 - sigma(r_w - r_l).

    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, equation 8. Derived in docs/math.md#apo.
    """
    rewards = implied_rewards(policy, reference, beta)
    margin = rewards.chosen - rewards.rejected
    return with_rewards(torch.sigmoid(rewards.chosen) + torch.sigmoid(-margin), rewards)


def kto_loss(
    policy: PairLogprobs,
    reference: PairLogprobs,
    mismatch: Tensor,
    *,
    beta: float = 0.1,
    chosen_weight: float = 1.0,
    rejected_weight: float = 1.0,
) -> PairLoss:
    """Kahneman-Tversky optimization: gains and losses against a reference point, mean of both sides.

    Half of  a_w (1 - sigma(r_w - z)) + a_l (1 - sigma(z - r_l)),  where z = max(0, beta * mean
    log-ratio of mismatched responses) is a constant for the gradient: what the policy gives to any
    response at all.

    Args:
        mismatch: [M] log-ratios, nats per sequence, of responses that belong to other prompts.
        chosen_weight, rejected_weight: >= 0; the paper balances unequal counts with them.
    Raises:
        ValueError: an option outside its range.
    Source: Ethayarajh et al. 2024, arXiv:2402.01306, equation 8. Derived in docs/math.md#kto.
    """
    require_non_negative("chosen_weight", chosen_weight)
    require_non_negative("rejected_weight", rejected_weight)
    rewards = implied_rewards(policy, reference, beta)
    point = kto_point(mismatch, beta=beta)
    chosen, rejected = _shortfall(rewards.chosen - point), _shortfall(point - rewards.rejected)
    return with_rewards(0.5 * (chosen_weight * chosen + rejected_weight * rejected), rewards)


def kto_point(mismatch: Tensor, *, beta: float) -> Tensor:
    """KTO's reference point: beta * mean log-ratio of mismatched responses, at least 0; scalar, detached.

    Args:
        mismatch: [M] nats per sequence, of responses to other prompts than their own.
    Raises:
        ValueError: beta is not above 0, or there is no mismatched response.
    Source: Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1. Derived in docs/math.md#kto.
    """
    require_positive("beta", beta)
    if not len(mismatch):
        raise ValueError("the reference point needs at least one mismatched response")
    return (beta * mismatch.mean()).clamp(min=0).detach()


def unpaired_kto_loss(log_ratios: Tensor, good: Tensor, point: Tensor, *, beta: float = 0.1) -> Tensor:
    """KTO of responses that were rated one by one.

    Args:
        log_ratios: [E] nats per sequence.
        good: [E] bool, people's label.
        point: the scalar of `kto_point`.

    Returns:
        [E], 1 - sigma of the gain for good and of the loss for bad responses.
    Source: Ethayarajh et al. 2024, arXiv:2402.01306, equation 8. Derived in docs/math.md#kto.
    """
    require_positive("beta", beta)
    gain = beta * log_ratios - point
    return _shortfall(torch.where(good, gain, -gain))


def _shortfall(value: Tensor) -> Tensor:
    """1 - sigma(value)."""
    return torch.sigmoid(-value)
