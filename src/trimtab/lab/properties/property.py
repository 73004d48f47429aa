"""A property that must hold, and the lab that it is measured in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trimtab.lab.world import World
from trimtab.lab.worlds import random_world
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy
from trimtab.model.scalar import Scorer
from trimtab.model.tiny import tiny_policy, tiny_scorer

VOCABULARY = 3
EXACT = 1e-10
"""Allowed where both sides are the same number in float64: rounding of sums of a few hundred terms."""


@dataclass(frozen=True)
class Lab:
    """A world of 15 responses to each of two prompts, with two policies that differ, in float64."""

    numerics: Numerics

    @cached_property
    def world(self) -> World:
        """Random rewards; beta 0.7."""
        return random_world(vocabulary=VOCABULARY, limit=3, prompts=2, beta=0.7, seed=11)

    @cached_property
    def policy(self) -> Policy:
        """The policy in training; no property may move it."""
        return self.policy_from(1)

    @cached_property
    def reference(self) -> Policy:
        """The reference, from other weights than the policy."""
        return self.policy_from(2)

    @cached_property
    def scorer(self) -> Scorer:
        """A reward or value model with random weights."""
        return tiny_scorer(VOCABULARY, seed=3, numerics=self.numerics, dtype=torch.float64)

    def policy_from(self, seed: int) -> Policy:
        """A fresh policy, which the caller may move."""
        return tiny_policy(VOCABULARY, seed=seed, numerics=self.numerics, dtype=torch.float64)

    @cached_property
    def log_policy(self) -> Tensor:
        """log policy(y|x) by the packed path: [X, Y]."""
        return self.world.logprobs(self.policy)

    @cached_property
    def log_reference(self) -> Tensor:
        """log reference(y|x) by the packed path: [X, Y]."""
        return self.world.logprobs(self.reference)


@dataclass(frozen=True)
class Property:
    """Something that must hold in every lab."""

    number: int
    """Its place in the list, 1 to 52."""
    name: str
    formula: str
    allowed: float
    """The largest error that rounding, or the step of a finite difference, explains."""
    measure: Callable[[Lab], float]
    """The largest error found: of an equation its two sides' distance, of an inequality its violation."""
