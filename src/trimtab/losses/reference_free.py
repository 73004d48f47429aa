"""Preference losses that need no reference model.

Nothing but the learning rate holds the policy near where it began. Shapes: P = pairs in the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.losses.pairs import (
    PairLengths,
    PairLogprobs,
    PairLoss,
    per_token,
    require_non_negative,
    require_positive,
    with_rewards,
)


def orpo_loss(policy: PairLogprobs, lengths: PairLengths, *, odds_weight: float = 0.1) -> PairLoss:
    """Odds-ratio preference optimization: likelihood of the chosen response plus an odds ratio.

    NLL_w per token - odds_weight * log sigma(log odds_w - log odds_l), odds = p / (1 - p) with p the
    geometric mean of a response's token probabilities. A mean of 1 counts as 1 - machine epsilon:
    its odds would be infinite.

    Args:
        odds_weight: >= 0, the paper's lambda.
    Source: Hong et al. 2024, arXiv:2403.07691, equations 6 and 7. Derived in docs/math.md#orpo.
    """
    require_non_negative("odds_weight", odds_weight)
    means = per_token(policy, lengths)
    odds = PairLogprobs(_log_odds(means.chosen), _log_odds(means.rejected))
    ratio = F.logsigmoid(odds.chosen - odds.rejected)
    rewards = PairLogprobs(odds_weight * means.chosen, odds_weight * means.rejected)
    return with_rewards(-means.chosen - odds_weight * ratio, rewards)


def simpo_loss(
    policy: PairLogprobs, lengths: PairLengths, *, beta: float = 2.0, margin: float = 1.0
) -> PairLoss:
    """Simple preference optimization: mean log-probabilities, apart by a margin.

    -log sigma(beta * mean log p_w - beta * mean log p_l - margin).

    Args:
        beta: > 0, reward per nat per token.
        margin: >= 0, the paper's gamma: the lead in reward at which the loss is ln 2.
    Source: Meng et al. 2024, arXiv:2405.14734, equation 6. Derived in docs/math.md#simpo.
    """
    require_positive("beta", beta)
    require_non_negative("margin", margin)
    means = per_token(policy, lengths)
    rewards = PairLogprobs(beta * means.chosen, beta * means.rejected)
    return with_rewards(-F.logsigmoid(rewards.chosen - rewards.rejected - margin), rewards)


def cpo_loss(
    policy: PairLogprobs, lengths: PairLengths, *, beta: float = 0.1, likelihood: float = 1.0
) -> PairLoss:
    """Contrastive preference optimization: DPO under a uniform reference, plus likelihood per token.

    -log sigma(beta * (log p_w - log p_l)) + likelihood * NLL_w per token. The paper writes the
    likelihood as a sum; its code takes the mean over tokens, and so does this.

    Args:
        likelihood: >= 0, weight of the second term.
    Source: Xu et al. 2024, arXiv:2401.08417, equation 5. Derived in docs/math.md#cpo.
    """
    require_positive("beta", beta)
    require_non_negative("likelihood", likelihood)
    rewards = PairLogprobs(beta * policy.chosen, beta * policy.rejected)
    loss = -F.logsigmoid(rewards.chosen - rewards.rejected)
    return with_rewards(loss - likelihood * policy.chosen / lengths.chosen, rewards)


def _log_odds(logprob: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = e^logprob, for logprob <= 0."""
    below_1 = logprob.clamp(max=-torch.finfo(logprob.dtype).eps)
    return below_1 - torch.log(-torch.expm1(below_1))
