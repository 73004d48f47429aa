"""Supervised fine-tuning: the negative log-likelihood of the demonstrated response."""

from __future__ import annotations

from torch import Tensor


def sft_loss(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of each response token.

    Args:
        logprobs: [N] nats, log p(token | what came before) of response tokens only, the stop
            token included; prompt tokens are not part of it.

    Returns:
        [N] nats; the caller sums and divides by the response tokens of the whole batch.
    Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5. Derived in docs/math.md#sft.
    """
    return -logprobs
