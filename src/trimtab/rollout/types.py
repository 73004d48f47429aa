"""What sampling asks for and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.data.tokens import Example, Response
from trimtab.errors import ConfigError
from trimtab.rollout.text import UNFINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    max_new: int = 64
    """Tokens of a response at most, the stop token included."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 0
    """Draw from so many of the likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability; 1 keeps all."""
    min_p: float = 0.0
    """Draw from tokens with at least this share of the likeliest one's probability; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Makes tokens of the prompt and of the response so far less likely; 1 leaves them alone. Not for
    responses that are learned from: they would come from another distribution than the one that learns."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end a response; the one drawn is kept as its last token."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a response as soon as what it decodes to, control tokens left out, holds one of them.
    Kept is all up to the token that completes it, with what else that token writes; `stopped` is true. Needs
    an engine that was given a `decode`."""

    def __post_init__(self) -> None:
        if self.max_new < 1:
            raise ConfigError("a response has at least one token", where="max_new", found=str(self.max_new))
        if not self.temperature >= 0:
            raise ConfigError("temperature must be >= 0", where="temperature", found=str(self.temperature))
        if self.top_k < 0:
            raise ConfigError("top_k must be >= 0", where="top_k", found=str(self.top_k))
        if not 0 < self.top_p <= 1:
            raise ConfigError("top_p must be in (0, 1]", where="top_p", found=str(self.top_p))
        if not 0 <= self.min_p <= 1:
            raise ConfigError("min_p must be in [0, 1]", where="min_p", found=str(self.min_p))
        if not 1 <= self.repetition_penalty < float("inf"):
            raise ConfigError(
                "repetition_penalty must be >= 1",
                where="repetition_penalty",
                found=str(self.repetition_penalty),
            )
        for string in self.stop_strings:
            if not string or UNFINISHED in string:
                raise ConfigError(
                    "a stop string has at least one character, and none that stands for broken bytes",
                    where="stop_strings",
                    found=repr(string),
                    fix="leave it out",
                )


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response to one prompt."""

    prompt: tuple[int, ...]
    response: Response
    """The sampled ids; `stopped` tells whether a stop token or a stop string ended it, or the limit did."""
    logprobs: tuple[float, ...]
    """Nats of each sampled token under softmax(logits / temperature), before anything is cut or penalised."""
    weight: float = 1.0
    """What it counts in a mean over rollouts: 1 for a sample, its probability where all are listed."""
    drawn_from: str | None = None
    """The digest (`rollout.weights`) of the weights that the engine's copies were made from; None where
    nobody says."""

    @property
    def example(self) -> Example:
        """The rollout as ids for the packed path."""
        return Example(self.prompt, (self.response,), self.weight)


class Answers(Protocol):
    """Something that answers prompts: a policy with its engine, or a world that lists every response."""

    def __call__(
        self, prompts: Sequence[Example], sampling: Sampling, seeds: Sequence[int], *, name: str
    ) -> list[Rollout]:
        """Rollouts of these prompts; `name` is that of the bar."""
        ...


class Engine(Protocol):
    """Something that samples responses from a policy."""

    def sample(
        self, prompts: Sequence[tuple[int, ...]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Rollout]:
        """One rollout a prompt, in order.

        Each request has its own seed: what it draws does not depend on the requests beside it.
        """
        ...
