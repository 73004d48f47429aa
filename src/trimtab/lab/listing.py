"""All responses of a world in one packed row, so that what PPO takes as a mean over samples is a sum.

Dimensions: X = prompts, Y = responses to each, R = X * Y, L = longest response, right-padded; N = tokens
of all responses, end to end. Unit of log-probabilities: nats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.data.batches import PackedRow, pack
from trimtab.data.tokens import Example
from trimtab.lab.world import World
from trimtab.model.policy import response_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = tuple[int, tuple[int, ...]]
"""A prompt's index and the tokens written so far."""


@dataclass(frozen=True)
class Listing:
    """Every response to every prompt, each once; their probabilities are the caller's."""

    world: World

    @cached_property
    def row(self) -> PackedRow:
        """Each prompt once, its responses as branches, in the world's order."""
        return pack([Example(prompt, self.world.responses) for prompt in self.world.prompts])

    @cached_property
    def mask(self) -> Tensor:
        """[R, L], True for tokens."""
        lengths = torch.bincount(self.row.owners)
        return torch.arange(int(lengths.max())) < lengths.unsqueeze(1)

    @property
    def scores(self) -> Tensor:
        """The reward of each response: [R]."""
        return self.world.rewards.flatten()

    def padded(self, values: Tensor) -> Tensor:
        """[N] -> [R, L], 0 where masked."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)

    def token_logprobs(self, model: PreTrainedModel, *, temperature: float = 1.0) -> Tensor:
        """log p of each token by the packed path that trains, with gradient: [N]."""
        row = self.row.to(model.device)
        return response_logprobs(model, row, temperature=temperature).cpu()

    def logprobs(self, model: PreTrainedModel) -> Tensor:
        """log p of each response by the packed path that trains, with gradient: [X, Y]."""
        return self.row.sum_by_response(self.token_logprobs(model)).view_as(self.world.rewards)

    def shares(self, logprobs: Tensor) -> Tensor:
        """What each response counts in a mean over prompts and the policy's samples: [X, Y] -> [R], sum 1."""
        return logprobs.detach().exp().flatten() / len(self.world.prompts)

    def mean_by_state(self, shares: Tensor, values: Tensor) -> Tensor:
        """What is expected before each token is chosen: values [R, L] -> [R, L], 0 where masked.

        A plain loop: the mean over all responses that begin with what has been written so far.
        """
        totals: dict[State, float] = defaultdict(float)
        weights: dict[State, float] = defaultdict(float)
        for response, step, state in self._visits():
            weights[state] += float(shares[response])
            totals[state] += float(shares[response] * values[response, step])
        means = torch.zeros_like(values)
        for response, step, state in self._visits():
            means[response, step] = totals[state] / weights[state]
        return means

    def _visits(self) -> Iterator[tuple[int, int, State]]:
        for prompt in range(len(self.world.prompts)):
            for place, response in enumerate(self.world.responses):
                for step in range(len(response.ids)):
                    index = prompt * len(self.world.responses) + place
                    yield index, step, (prompt, response.ids[:step])
