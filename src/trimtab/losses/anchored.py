"""DPO with something that keeps the chosen response likely.

DPO trains the margin alone, and the chosen response may lose probability while the rejected one
loses more. Shapes: P = pairs in the batch.
"""

from __future__ import annotations

import torch.nn.functional as F

from trimtab.losses.dpo import dpo_loss
from trimtab.losses.pairs import (
    PairLengths,
    PairLogprobs,
    PairLoss,
    implied_rewards,
    log_ratios,
    require_non_negative,
    with_rewards,
)


def rpo_loss(
    policy: PairLogprobs,
    reference: PairLogprobs,
    lengths: PairLengths,
    *,
    beta: float = 0.1,
    likelihood: float = 1.0,
) -> PairLoss:
    """DPO plus the chosen response's negative log-likelihood per token.

    Args:
        likelihood: >= 0, weight of the second term; 0 is DPO.
    Raises:
        ValueError: beta or likelihood outside its range.
    Source: Pang et al. 2024, arXiv:2404.19733, equation 1. Derived in docs/math.md#rpo.
    """
    require_non_negative("likelihood", likelihood)
    found = dpo_loss(policy, reference, beta=beta)
    loss = found.loss - likelihood * policy.chosen / lengths.chosen
    return PairLoss(loss, found.chosen_reward, found.rejected_reward)


def dpop_loss(
    policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1, shortfall: float = 50.0
) -> PairLoss:
    """DPO-positive: the margin is lowered by what the chosen response has lost against the reference.

    -log sigma(beta * (log-ratio_w - log-ratio_l - shortfall * max(0, -log-ratio_w))).

    Args:
        shortfall: >= 0, the paper's lambda, per nat lost; 0 is DPO.
    Raises:
        ValueError: beta or shortfall outside its range.
    Source: Pal et al. 2024 (Smaug), arXiv:2402.13228, equation 3. Derived in docs/math.md#dpop.
    """
    require_non_negative("shortfall", shortfall)
    rewards = implied_rewards(policy, reference, beta)
    lost = beta * F.relu(-log_ratios(policy, reference).chosen)
    return with_rewards(-F.logsigmoid(rewards.chosen - rewards.rejected - shortfall * lost), rewards)
