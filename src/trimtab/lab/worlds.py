"""Worlds from a seed."""

from __future__ import annotations

import torch

from trimtab.lab.world import World, every_response
from trimtab.model.tiny import STOP_ID


def random_world(*, vocabulary: int = 3, limit: int = 3, prompts: int = 1, beta: float, seed: int) -> World:
    """Rewards drawn from a normal distribution of mean 0 and variance 1; each prompt is one token.

    Args:
        vocabulary: tokens, the stop token included; at least as many others as prompts.
        limit: tokens of a response at most.
    """
    if not 0 < prompts < vocabulary:
        raise ValueError(f"between 1 and {vocabulary - 1} prompts of one token each, got {prompts}")
    responses = every_response(vocabulary, limit, STOP_ID)
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(prompts, len(responses), generator=generator, dtype=torch.float64)
    return World(tuple((first,) for first in range(1, prompts + 1)), responses, rewards, beta)
