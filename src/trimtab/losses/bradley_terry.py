"""The Bradley-Terry model of preferences and the reward model's loss.

Shapes: P = pairs in the batch. Rewards are in logits: a difference of 1 is odds of e to 1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Negative log-likelihood that the chosen response beats the rejected one.

    Args:
        chosen, rejected: [P] rewards of the two responses to each prompt.

    Returns:
        [P] nats; ln 2 where the rewards are equal.
    Source: equations 1 and 2 of the method; Bradley & Terry 1952. Derived in
        docs/math.md#bradley-terry.
    """
    return -F.logsigmoid(chosen - rejected)


def ranked_right(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Whether each pair is ranked as people did: [P] bool.

    A tie is wrong: a reward model that has collapsed to a constant must score 0, not 1.
    """
    return chosen > rejected
