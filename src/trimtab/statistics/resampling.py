"""What the bootstraps of whole fits share: draws of prompts or items as counts, and BCa ends.

Left out on purpose: the plain mean, whose bootstrap is in `statistics.bootstrap`.

Shapes: N = units drawn (prompts or items), R = rounds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LEAST_ROUNDS = 100
VALUES_AT_ONCE = 250_000
"""Values drawn at a time: arrays of this size stay in the processor's cache, which fits are faster by."""


def draws(n: int, rounds: int, seed: int) -> Iterator[IntArray]:
    """Units drawn with replacement: arrays [some rounds, N] of indices, R rows in all.

    The draws depend on n, R and the seed alone, so that two fits can be compared round by round.

    Raises:
        ValueError: no units, or fewer than 100 rounds, with which the ends of an interval are noise.
    """
    if n < 1:
        raise ValueError("a bootstrap needs at least one unit to draw")
    if rounds < LEAST_ROUNDS:
        raise ValueError(
            f"rounds must be at least {LEAST_ROUNDS}, got {rounds}: the interval's ends are noise"
        )
    generator = np.random.default_rng(seed)
    at_once = max(1, VALUES_AT_ONCE // n)
    for start in range(0, rounds, at_once):
        yield generator.integers(0, n, (min(at_once, rounds - start), n))


def draw_counts(n: int, rounds: int, seed: int) -> Iterator[FloatArray]:
    """The same draws as how often each unit was drawn: arrays [some rounds, N]. Raises as `draws` does."""
    for drawn in draws(n, rounds, seed):
        rows = len(drawn)
        cells = drawn + n * np.arange(rows)[:, None]
        yield np.bincount(cells.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def bca_ends(
    estimate: float, replicates: FloatArray, influence: FloatArray, weights: FloatArray, level: float
) -> tuple[float, float]:
    """The ends of the bias-corrected and accelerated bootstrap interval of any statistic.

    Args:
        replicates: [R] the statistic in each round.
        influence: [N] how far each unit moves the statistic, up to a common factor, such as the
            estimate less its value without the unit.
        weights: [N] how many units each entry of `influence` stands for.
    Source: Efron 1987, JASA 82(397), 171-185, eq. 2.3 and 6.6.
    """
    if np.ptp(replicates) == 0:
        return estimate, estimate
    # A round that ties with the estimate counts half; clipped, so that ends exist when all lie on one side.
    below = ((replicates < estimate).mean() + (replicates <= estimate).mean()) / 2
    bias = ndtri(np.clip(below, 1 / len(replicates), 1 - 1 / len(replicates)))
    deviations = influence - np.average(influence, weights=weights)
    square = float((weights * deviations**2).sum())
    acceleration = float((weights * deviations**3).sum()) / (6 * square**1.5) if square > 0 else 0.0
    shifted = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(replicates, ndtr(bias + shifted / (1 - acceleration * shifted))).tolist()
    return low, high
