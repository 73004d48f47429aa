"""The Bradley-Terry model of preferences and the reward model's losses.

Shapes: P = pairs in the batch, K = responses in a ranking. Rewards are in logits: a difference of 1
is odds of e to 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0) -> Tensor:
    """Negative log-likelihood that the chosen response beats the rejected one.

    Args:
        chosen, rejected: [P] rewards of the two responses to each prompt.
        margin: [P] or one number, the lead in reward at which the loss is ln 2; with 0 the loss is a
            likelihood, above 0 it asks for more the surer people were.

    Returns:
        [P] nats.
    Source: equations 1 and 2 of the method; Bradley & Terry 1952; the margin is that of Touvron et al.
        2023 (Llama 2), arXiv:2307.09288, equation 2. Derived in docs/math.md#bradley-terry.
    """
    return -F.logsigmoid(chosen - rejected - margin)


def ranking_loss(rewards: Tensor) -> Tensor:
    """The loss of one person's ranking of K responses: the mean over all its pairs.

    So a ranking counts once, not K(K - 1)/2 times: its pairs are not independent.

    Args:
        rewards: [..., K] in the order of preference, best first; K >= 2.

    Returns:
        [...] nats; the pairwise loss for K = 2.
    Raises:
        ValueError: fewer than two responses.
    Source: Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, equation 1. Derived in
        docs/math.md#ranking.
    """
    count = rewards.shape[-1]
    if count < 2:
        raise ValueError(f"a ranking has at least 2 responses, got {count}")
    better, worse = torch.triu_indices(count, count, offset=1, device=rewards.device)
    return bradley_terry_loss(rewards[..., better], rewards[..., worse]).mean(-1)


def plackett_luce_loss(rewards: Tensor) -> Tensor:
    """Negative log-likelihood of a whole ranking: the best is chosen, then the best of the rest, and so on.

    The K - 1 choices are independent in this model, so they are summed; a pair is one choice.

    Args:
        rewards: [..., K] in the order of preference, best first; K >= 2.

    Returns:
        [...] nats; the pairwise loss for K = 2.
    Raises:
        ValueError: fewer than two responses.
    Source: Plackett 1975, Applied Statistics 24, 193-202; Luce 1959. Derived in docs/math.md#plackett-luce.
    """
    count = rewards.shape[-1]
    if count < 2:
        raise ValueError(f"a ranking has at least 2 responses, got {count}")
    of_those_left = rewards.flip(-1).logcumsumexp(-1).flip(-1)
    return (of_those_left - rewards)[..., :-1].sum(-1)


def centring_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The squared sum of both rewards: added with a small weight it fixes the level that (2) leaves free.

    Args:
        chosen, rejected: [P].

    Returns:
        [P] reward squared; 0 where the two rewards are opposite.
    Source: Eisenstein et al. 2023, arXiv:2312.09244, appendix. Derived in docs/math.md#centring.
    """
    return (chosen + rejected).square()


def ranked_right(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Whether each pair is ranked as people did: [P] bool.

    A tie is wrong: a reward model that has collapsed to a constant must score 0, not 1.
    """
    return chosen > rejected
