"""Tests for two policies that answered the same prompts, and the price of making several of them.

Left out on purpose: tests for independent samples, which throw away that the prompts are the same.

Shapes: N = prompts, M = prompts whose difference is not 0, C = comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

FloatArray = NDArray[np.float64]

EXACT_UP_TO = 18
"""Differences whose 2^M sign patterns are all listed; more are drawn."""
SIGNS_AT_ONCE = 1_000_000
ROUNDING = 1e-12
"""Two sums closer than this share of the sum of sizes are the same sum, added in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignTest:
    """Whether wins and losses could be a coin's."""

    p_value: float
    """Two-sided and exact: how often a fair coin is at least this far from even."""
    wins: int
    losses: int
    ties: int
    """Left out of the test, as neither side's, and counted here so that it can be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignFlipTest:
    """Whether a mean difference could come from differences that are as often positive as negative."""

    mean: float
    """The mean of the differences, in their unit."""
    p_value: float
    """Two-sided."""
    n: int
    patterns: int
    """Sign patterns that were compared with the one seen."""
    exact: bool
    """Whether these are all patterns there are."""


def sign_test(wins: int, losses: int, ties: int = 0) -> SignTest:
    """The exact two-sided sign test. Without a win or a loss there is nothing to tell: p = 1.

    Raises:
        ValueError: a negative count.
    Source: Arbuthnot 1710; two-sided as twice the smaller tail, at most 1.
    """
    if min(wins, losses, ties) < 0:
        raise ValueError(f"counts are not negative, got {wins} wins, {losses} losses and {ties} ties")
    tail = float(bdtr(min(wins, losses), wins + losses, 0.5)) if wins + losses else 1.0
    return SignTest(p_value=min(1.0, 2 * tail), wins=wins, losses=losses, ties=ties)


def sign_flip_test(
    differences: FloatArray | Sequence[float], *, seed: int, rounds: int = 20_000
) -> SignFlipTest:
    """Permutation test of a mean difference of 0: each prompt's difference could have had the other sign.

    Up to 18 differences other than 0, all patterns are listed; beyond, `rounds` are drawn, and the one
    seen is counted among them, since otherwise p could be 0 and the test would reject too often.

    Args:
        differences: [N] left's score less right's, one a prompt, in any unit.
    Raises:
        ValueError: none, one that is not finite, or fewer than 1 round.
    Source: Fisher 1935, The Design of Experiments, section 21; the added one: Phipson and Smyth 2010,
        Statistical Applications in Genetics and Molecular Biology 9(1), article 39.
    """
    sample = np.asarray(differences, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError("differences must be one or more finite numbers, in one row")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    moving = sample[sample != 0]
    seen = abs(float(moving.sum())) - ROUNDING * float(np.abs(moving).sum())
    mean = float(sample.mean())
    if moving.size <= EXACT_UP_TO:
        sums = _all_sums(moving)
        p_value = float((np.abs(sums) >= seen).mean())
        return SignFlipTest(mean=mean, p_value=p_value, n=sample.size, patterns=sums.size, exact=True)
    as_far = _drawn_as_far(moving, seen, rounds, np.random.default_rng(seed))
    p_value = (as_far + 1) / (rounds + 1)
    return SignFlipTest(mean=mean, p_value=p_value, n=sample.size, patterns=rounds, exact=False)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """[C] p-values adjusted for their number, in the order given: below alpha, all such differences are
    real with probability 1 - alpha, however the comparisons depend on each other.

    Raises:
        ValueError: a value outside [0, 1] or NaN.
    Source: Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return tuple(adjusted.tolist())


def comparisons_line(comparisons: int, level: float = 0.95) -> str:
    """What several comparisons mean, for the report; empty for one or none."""
    if comparisons < 2:
        return ""
    chance = min(100.0, 100 * comparisons * (1 - level))
    return (
        f"{comparisons} comparisons were made. p-values are adjusted for that (Holm); intervals are not: "
        f"with no real difference anywhere, one of them would still exclude it in up to {chance:.0f} of 100 "
        "such reports."
    )


def _all_sums(differences: FloatArray) -> FloatArray:
    """[2^M] the sum under every pattern of signs."""
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    return sums


def _drawn_as_far(differences: FloatArray, seen: float, rounds: int, generator: np.random.Generator) -> int:
    """How many of `rounds` random patterns give a sum at least as far from 0."""
    at_once, as_far = max(1, SIGNS_AT_ONCE // differences.size), 0
    for start in range(0, rounds, at_once):
        heads = generator.integers(0, 2, (min(at_once, rounds - start), differences.size), dtype=np.int8)
        as_far += int((np.abs(heads @ (2 * differences) - differences.sum()) >= seen).sum())
    return as_far
