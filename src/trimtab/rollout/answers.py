"""A policy answers prompts, with a bar."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.data.tokens import Example
from trimtab.model.policy import Policy
from trimtab.rollout.engine import Sampler
from trimtab.rollout.types import Rollout, Sampling
from trimtab.runs import progress


def answer(
    policy: Policy, prompts: Sequence[Example], sampling: Sampling, seeds: Sequence[int], *, name: str
) -> list[Rollout]:
    """One answer to each example's prompt, in order; what it draws depends on its own seed alone."""
    with progress.bar(name, len(prompts), unit="answers") as bar:
        sampler = Sampler(policy.model, autocast=policy.numerics.autocast_dtype, progress=bar.advance)
        return sampler.sample([example.prompt for example in prompts], sampling, seeds)
