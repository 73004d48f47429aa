"""Losses on preference pairs that need no reward model, one pure function each.

Shapes: P = pairs in the batch. Unit: nats, summed over the response tokens of one sequence, the
stop token included, never averaged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PairLogprobs(NamedTuple):
    """log p(response | prompt) of both responses to each prompt, under one model."""

    chosen: Tensor  # [P] nats per sequence
    rejected: Tensor  # [P] nats per sequence


class PairLoss(NamedTuple):
    """A loss for each pair, and the rewards that the policy implies."""

    loss: Tensor  # [P]
    chosen_reward: Tensor  # [P] detached, beta * log-ratio
    rejected_reward: Tensor  # [P] detached


def dpo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> PairLoss:
    """Negative log-likelihood that the chosen response beats the rejected one.

    A policy implies the reward r(y) = beta * log(policy(y) / reference(y)), up to a term of the
    prompt alone that cancels in a pair. Bradley-Terry then gives
    P(chosen wins) = sigmoid(r_chosen - r_rejected); the loss is -log P.

    Args:
        policy, reference: gradient flows through policy; the reference is frozen.
        beta: > 0, reward per nat. Larger holds the policy closer to the reference.
    Raises:
        ValueError: beta is not above 0.
    Source: equation 7 of the method; Rafailov et al. 2023, arXiv:2305.18290. Derived in
        docs/math.md#dpo.
    """
    if not beta > 0:  # written so that NaN is refused too
        raise ValueError(f"beta must be > 0, got {beta}: at 0 the loss is ln 2 for every policy")
    chosen_reward = beta * (policy.chosen - reference.chosen)
    rejected_reward = beta * (policy.rejected - reference.rejected)
    loss = -F.logsigmoid(chosen_reward - rejected_reward)
    return PairLoss(loss, chosen_reward.detach(), rejected_reward.detach())
