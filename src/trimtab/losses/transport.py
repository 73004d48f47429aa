"""Alignment by optimal transport: whole distributions of log-ratios are ordered, not single pairs.

Shapes: P = pairs in the batch. The result depends on the batch as a whole, so that a step must give
all its pairs at once; entry i of a loss belongs to the i-th smallest values, not to pair i.
"""

from __future__ import annotations

import torch.nn.functional as F

from trimtab.losses.pairs import (
    PairLogprobs,
    PairLoss,
    implied_rewards,
    log_ratios,
    with_rewards,
)


def aot_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """The policy's margins shall dominate the reference's, quantile by quantile.

    -log sigma(beta * (sorted(log p_w - log p_l) - sorted(same under the reference))).

    Source: Melnyk et al. 2024, arXiv:2406.05882, paired form. Derived in docs/math.md#aot.
    """
    rewards = implied_rewards(policy, reference, beta)
    margins = (policy.chosen - policy.rejected).sort().values
    reference_margins = (reference.chosen - reference.rejected).detach().sort().values
    return with_rewards(-F.logsigmoid(beta * (margins - reference_margins)), rewards)


def aot_unpaired_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> PairLoss:
    """Chosen log-ratios shall dominate rejected ones, quantile by quantile, whoever belongs together.

    Source: Melnyk et al. 2024, arXiv:2406.05882, unpaired form. Derived in docs/math.md#aot.
    """
    rewards = implied_rewards(policy, reference, beta)
    ratios = log_ratios(policy, reference)
    lead = ratios.chosen.sort().values - ratios.rejected.sort().values
    return with_rewards(-F.logsigmoid(beta * lead), rewards)
