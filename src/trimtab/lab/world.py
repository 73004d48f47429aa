"""A world: prompts, every response to them, and the reward of each.

Dimensions: X = prompts, Y = responses. A response ends with the stop token or at the limit; all
responses together have probability 1 under any policy over the vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trimtab.data.tokens import Example, Response
from trimtab.lab import exact
from trimtab.model import scalar
from trimtab.model.passes import over_rows, response_count, response_tokens
from trimtab.model.policy import Policy, response_logprobs
from trimtab.model.scalar import Scorer
from trimtab.rollout.types import Rollout, Sampling

ROW_TOKENS = 1 << 16
"""All responses of a world go through the model in one row."""


def every_response(vocabulary: int, limit: int, stop_id: int) -> tuple[Response, ...]:
    """All responses of at most `limit` tokens, shortest first.

    V tokens and limit T give 1 + (V-1) + ... + (V-1)^(T-1) that stop, and (V-1)^T that are cut.
    """

    def generate() -> Iterator[Response]:
        words = [token for token in range(vocabulary) if token != stop_id]
        for length in range(limit):
            for written in itertools.product(words, repeat=length):
                yield Response((*written, stop_id), stopped=True)
        for written in itertools.product(words, repeat=limit):
            yield Response(written, stopped=False)

    return tuple(generate())


@dataclass(frozen=True)
class World:
    """Prompts, all responses, and what each is worth."""

    prompts: tuple[tuple[int, ...], ...]
    responses: tuple[Response, ...]
    rewards: Tensor  # [X, Y] float64
    beta: float
    """Reward per nat of divergence from the reference."""

    @property
    def limit(self) -> int:
        """Tokens of a response at most."""
        return max(len(response.ids) for response in self.responses)

    @cached_property
    def _places(self) -> dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, int]]:
        return {
            (prompt, response.ids): (x, y)
            for x, prompt in enumerate(self.prompts)
            for y, response in enumerate(self.responses)
        }

    def prompt_examples(self) -> list[Example]:
        """Each prompt without a response."""
        return [Example(prompt, ()) for prompt in self.prompts]

    def score(self, examples: Sequence[Example]) -> Tensor:
        """The reward of each example's one response: [R]; stands in for a reward model."""
        places = [self._places[example.prompt, example.responses[0].ids] for example in examples]
        return torch.stack([self.rewards[place] for place in places])

    def token_logprobs(self, policy: Policy) -> list[list[Tensor]]:
        """log p of every token of every response by the packed path that trains: [X][Y][tokens], nats."""
        examples = [Example(prompt, self.responses) for prompt in self.prompts]
        values = over_rows(
            examples,
            lambda row: response_logprobs(policy.model, row),
            response_tokens,
            row_tokens=ROW_TOKENS,
            numerics=policy.numerics,
            name="every response",
        )
        lengths = [len(response.ids) for response in self.responses]
        return [list(torch.split(one, lengths)) for one in values]

    def logprobs(self, policy: Policy) -> Tensor:
        """log p of every response: [X, Y] float64, nats."""
        return torch.stack(
            [torch.stack([one.double().sum() for one in row]) for row in self.token_logprobs(policy)]
        )

    def scores(self, scorer: Scorer) -> Tensor:
        """The scorer's reward of every response: [X, Y] float64."""
        values = over_rows(
            [Example(prompt, self.responses) for prompt in self.prompts],
            lambda row: scalar.rewards(scorer.model, row),
            response_count,
            row_tokens=ROW_TOKENS,
            numerics=scorer.numerics,
            name="every response",
        )
        return torch.stack(values).double()

    def optimum(self, reference: Tensor) -> Tensor:
        """log pi* of equation 4, from the reference's [X, Y]: [X, Y]."""
        return exact.optimum(reference, self.rewards, beta=self.beta)

    def gap(self, policy: Tensor, reference: Tensor) -> float:
        """J* - J in reward, mean over prompts, from [X, Y] of both."""
        return float(exact.gap(policy, reference, self.rewards, beta=self.beta).mean())

    def range(self, reference: Tensor) -> float:
        """J* - J of the reference: what there is to win, in reward, mean over prompts."""
        return self.gap(reference, reference)

    def pairs(self, reference: Tensor, weights: Tensor | None = None) -> list[Example]:
        """Every ordered pair of different responses, as if y_1 had been preferred to y_2.

        Args:
            reference: [X, Y] nats of the policy that the pairs are drawn from.
            weights: [X, Y, Y] what each pair counts; none: its probability, for two independent
                draws and a Bradley-Terry judge. Pairs that count 0 are left out.
        """
        counts = self.pair_probabilities(reference) if weights is None else weights
        return [
            Example(prompt, (self.responses[first], self.responses[second]), float(counts[x, first, second]))
            for x, prompt in enumerate(self.prompts)
            for first, second in itertools.permutations(range(len(self.responses)), 2)
            if counts[x, first, second] > 0
        ]

    def pair_probabilities(self, reference: Tensor) -> Tensor:
        """How likely each ordered pair is to be drawn and judged so: [X, Y, Y], summing to 1.

        Two responses are drawn from the reference, again where they are the same.
        """
        drawn = reference.exp()
        likely = drawn.unsqueeze(-1) * drawn.unsqueeze(-2) * exact.win_probabilities(self.rewards)
        likely = likely * ~torch.eye(len(self.responses), dtype=torch.bool)
        return likely / likely.sum((1, 2), keepdim=True) / len(self.prompts)

    def sampled_pairs(self, reference: Tensor, count: int, generator: torch.Generator) -> list[Example]:
        """`count` judged pairs; equal ones become one example with their count as weight.

        A prompt is drawn, and both responses from the reference, again where they are the same; a
        Bradley-Terry judge with these rewards decides.
        """
        likely = self.pair_probabilities(reference)
        chosen = torch.multinomial(likely.flatten(), count, replacement=True, generator=generator)
        counts = torch.bincount(chosen, minlength=likely.numel()).view_as(likely)
        return self.pairs(reference, counts.double())

    def demonstrations(self, source: Tensor) -> list[Example]:
        """Every response to every prompt, weighted by its probability under `source` [X, Y]."""
        return [
            Example(prompt, (response,), float(source[x, y].exp()))
            for x, prompt in enumerate(self.prompts)
            for y, response in enumerate(self.responses)
        ]


@dataclass(frozen=True)
class Enumeration:
    """Answers prompts with every response, each weighted by its probability under the policy.

    Means over its rollouts are expectations without sampling error.
    """

    world: World
    policy: Policy

    def __call__(
        self, prompts: Sequence[Example], sampling: Sampling, seeds: Sequence[int], *, name: str
    ) -> list[Rollout]:
        """All responses to each prompt, in the world's order; the seeds are not needed."""
        assert sampling.temperature == 1.0 and sampling.max_new == self.world.limit
        listed = self.world.token_logprobs(self.policy)
        places = {prompt: x for x, prompt in enumerate(self.world.prompts)}
        return [
            Rollout(
                example.prompt,
                response,
                tuple(values.tolist()),
                weight=float(values.double().sum().exp()),
            )
            for example in prompts
            for response, values in zip(self.world.responses, listed[places[example.prompt]], strict=True)
        ]
