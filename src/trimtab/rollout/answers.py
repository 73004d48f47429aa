"""A policy answers prompts: many with a bar, or one that people read while it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from trimtab.data.tokens import Example
from trimtab.model.policy import Policy
from trimtab.records import Prompt
from trimtab.rollout.engine import Sampler
from trimtab.rollout.text import Decode, pieces, trimmed
from trimtab.rollout.types import Rollout, Sampling
from trimtab.runs import progress


def answer(
    policy: Policy, prompts: Sequence[Example], sampling: Sampling, seeds: Sequence[int], *, name: str
) -> list[Rollout]:
    """One answer to each example's prompt, in order; what it draws depends on its own seed alone."""
    with progress.bar(name, len(prompts), unit="answers") as bar:
        sampler = Sampler(
            policy.model,
            autocast=policy.numerics.autocast_dtype,
            progress=bar.advance,
            decode=_decode(policy),
        )
        return sampler.sample([example.prompt for example in prompts], sampling, seeds)


def told(
    policy: Policy, prompt: Prompt, ids: tuple[int, ...], sampling: Sampling, seed: int
) -> Iterator[str]:
    """One answer's text in pieces as it is drawn, never half a character; the same as `answer` would give.

    Together the pieces are what `Codec.decode_response` makes of it: a chat's answer is trimmed.

    Args:
        prompt: as it was encoded.
        ids: of the prompt.
    Raises:
        ModelError: as `Sampler.stream`.
    """
    decode = _decode(policy)
    sampler = Sampler(policy.model, autocast=policy.numerics.autocast_dtype, decode=decode)
    text = pieces(sampler.stream(ids, sampling, seed), decode)
    return text if isinstance(prompt, str) else trimmed(text)


def _decode(policy: Policy) -> Decode:
    """As what continues plain text, which is not trimmed."""
    return partial(policy.codec.decode_response, "")
