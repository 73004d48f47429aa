"""Preference losses that account for how long the responses are.

A summed log-probability falls with every token, so DPO's margin mixes quality with length; each of
these takes the length out in another way. Shapes: P = pairs in the batch.
"""

from __future__ import annotations

import torch.nn.functional as F

from trimtab.losses.pairs import (
    PairLengths,
    PairLogprobs,
    PairLoss,
    implied_rewards,
    log_ratios,
    per_token,
    require_finite,
    require_positive,
    with_rewards,
)


def ipo_mean_loss(
    policy: PairLogprobs, reference: PairLogprobs, lengths: PairLengths, *, beta: float = 0.1
) -> PairLoss:
    """IPO on log-ratios per token: (mean log-ratio margin - 1/(2 beta))^2.

    The form that TRL implements under the name ipo. Its beta is in other units than that of `ipo`.

    Source: Azar et al. 2023, arXiv:2310.12036, equation 17, per token. Derived in docs/math.md#ipo.
    """
    require_positive("beta", beta)
    means = per_token(log_ratios(policy, reference), lengths)
    rewards = PairLogprobs(beta * means.chosen, beta * means.rejected)
    return with_rewards((means.chosen - means.rejected - 1 / (2 * beta)).square(), rewards)


def dpo_norm_loss(
    policy: PairLogprobs, reference: PairLogprobs, lengths: PairLengths, *, beta: float = 5.0
) -> PairLoss:
    """Length-normalised DPO: -log sigma(beta * (mean log-ratio_w - mean log-ratio_l)).

    Args:
        beta: > 0, reward per nat per token: tens of times the beta of `dpo` for equal strength.
    Source: Lambert et al. 2024 (Tulu 3), arXiv:2411.15124, equation 6. Derived in
        docs/math.md#dpo-norm.
    """
    require_positive("beta", beta)
    means = per_token(log_ratios(policy, reference), lengths)
    rewards = PairLogprobs(beta * means.chosen, beta * means.rejected)
    return with_rewards(-F.logsigmoid(rewards.chosen - rewards.rejected), rewards)


def r_dpo_loss(
    policy: PairLogprobs,
    reference: PairLogprobs,
    lengths: PairLengths,
    *,
    beta: float = 0.1,
    length_penalty: float = 0.01,
) -> PairLoss:
    """Length-regularised DPO: -log sigma(z + a * (length_w - length_l)).

    From the objective E[r] - a E[length] - beta KL: a chosen response that is longer has its length
    as a part of the explanation, so that the policy need not learn it.

    Args:
        length_penalty: a, reward per token; negative asks for longer ones.
    Raises:
        ValueError: beta or length_penalty outside its range.
    Source: Park et al. 2024, arXiv:2403.19159, equation 9. Derived in docs/math.md#r-dpo.
    """
    require_finite("length_penalty", length_penalty)
    rewards = implied_rewards(policy, reference, beta)
    longer = (lengths.chosen - lengths.rejected).to(rewards.chosen.dtype)
    margin = rewards.chosen - rewards.rejected + length_penalty * longer
    return with_rewards(-F.logsigmoid(margin), rewards)


def ld_dpo_loss(
    policy: PairLogprobs,
    reference: PairLogprobs,
    policy_tail: PairLogprobs,
    reference_tail: PairLogprobs,
    *,
    beta: float = 0.1,
    tail_weight: float = 0.5,
) -> PairLoss:
    """Length-desensitised DPO: tokens beyond the shorter response's length count less.

    Args:
        policy_tail, reference_tail: [P] the part of each sum that lies beyond the first
            min(length_w, length_l) tokens; 0 for the shorter response.
        tail_weight: in [0, 1], the paper's alpha: 1 is DPO, 0 cuts both to the same length.
    Raises:
        ValueError: beta or tail_weight outside its range.
    Source: Liu et al. 2024, arXiv:2409.06411, equation 11. Derived in docs/math.md#ld-dpo.
    """
    if not 0 <= tail_weight <= 1:
        raise ValueError(f"tail_weight must be in [0, 1], got {tail_weight}")
    whole = implied_rewards(policy, reference, beta)
    tail = implied_rewards(policy_tail, reference_tail, beta)
    lost = 1 - tail_weight
    rewards = PairLogprobs(whole.chosen - lost * tail.chosen, whole.rejected - lost * tail.rejected)
    return with_rewards(-F.logsigmoid(rewards.chosen - rewards.rejected), rewards)
