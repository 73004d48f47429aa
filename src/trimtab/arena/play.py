"""Policies answer prompts: what each said, and how far it has gone from the reference.

Dimensions: R = responses in a row, N = their tokens. Unit of KL: nats per response.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.model.passes import over_rows, response_count
from trimtab.model.policy import Policy, response_kl
from trimtab.rollout.types import Rollout


@dataclass(frozen=True)
class Played:
    """One policy's answers, one a prompt, in the order of the prompts."""

    policy: str
    rollouts: list[Rollout]
    texts: list[str]
    kl: list[float]
    """KL(policy || reference) along each answer, nats."""
    source: str = ""
    """The run or model that answered."""
    method: str = "model"
    """sft, ppo, dpo; `best of n`; model for one that no run made."""


def seeds(seed: int, count: int, *, purpose: str = "play") -> list[int]:
    """A seed for each prompt, the same for every policy."""
    digests = (hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest() for index in range(count))
    return [int.from_bytes(digest[:7], "big") for digest in digests]


def divergence(
    policy: Policy, reference: Policy, rollouts: Sequence[Rollout], *, row_tokens: int, name: str
) -> list[float]:
    """KL(policy || reference) of each answer: at every token over the whole vocabulary, summed.

    On answers that the policy sampled at temperature 1 the mean estimates the sequence KL without
    bias, and never comes out negative (docs/math.md#kl-exact).
    """
    values = over_rows(
        [rollout.example for rollout in rollouts],
        lambda row: row.sum_by_response(response_kl(policy.model, reference.model, row)),
        response_count,
        row_tokens=row_tokens,
        numerics=policy.numerics,
        name=f"{name} KL",
    )
    return [float(value) for value in values]
