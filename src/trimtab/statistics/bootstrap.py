"""The bootstrap over prompts: how far a mean would move with other prompts of the same kind.

Left out on purpose: resampling of responses or tokens. Those of one prompt depend on each other, so
they are averaged first and the prompt is the unit that is drawn.

Shapes: N = prompts, R = rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from trimtab.statistics.intervals import Interval, check_level

FloatArray = NDArray[np.float64]

DRAWS_AT_ONCE = 2_000_000
"""Values gathered at a time: bounds memory to some tens of MB whatever N and R are."""


def bootstrap_mean(
    values: FloatArray | Sequence[float], *, seed: int, level: float = 0.95, rounds: int = 10_000
) -> Interval:
    """The mean of `values` with its bias-corrected and accelerated (BCa) bootstrap interval.

    BCa rather than plain percentiles, because KL and rewards are skewed: percentiles lag behind
    the long tail. Equal values give an interval of no width; for plain counts use
    `statistics.intervals.wilson`.

    Args:
        values: [N], one per prompt, in any unit.
    Raises:
        ValueError: fewer than two values, a value that is not finite, fewer than 100 rounds.
    Source: Efron 1987, JASA 82(397), 171-185, eq. 2.3 and 6.6.
    """
    sample = np.asarray(values, dtype=np.float64)
    check_level(level)
    if sample.ndim != 1 or sample.size < 2:
        raise ValueError(f"a bootstrap needs at least two values in one row, got shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError("a value is not finite: leave out or mend its prompt before averaging")
    if rounds < 100:
        raise ValueError(f"rounds must be at least 100, got {rounds}: the ends of the interval are noise")
    mean = float(sample.mean())
    low = high = mean
    if np.ptp(sample) > 0:
        means = _resampled_means(sample, rounds, np.random.default_rng(seed))
        low, high = np.quantile(means, _bca_probabilities(sample, mean, means, level)).tolist()
    return Interval(mean, low, high, level, int(sample.size), "BCa bootstrap over prompts")


def linearised_ratio(totals: FloatArray | Sequence[float], counts: FloatArray | Sequence[int]) -> FloatArray:
    """Values whose mean is sum(totals) / sum(counts) and whose spread is that of this ratio.

    R + (total - R * count) / mean(counts), R the ratio: averaging each total / mean(counts) instead would
    measure how the counts differ. For example nats and tokens of responses.

    Args:
        totals, counts: [N], one each per prompt; counts above 0 in sum.
    Source: the ratio estimator's linearisation; Cochran 1977, Sampling Techniques, section 6.4.
    """
    total, count = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    ratio = total.sum() / count.sum()
    values: FloatArray = ratio + (total - ratio * count) / count.mean()
    return values


def _resampled_means(sample: FloatArray, rounds: int, generator: np.random.Generator) -> FloatArray:
    """[R] means of N values drawn with replacement."""
    at_once = max(1, DRAWS_AT_ONCE // sample.size)
    parts = []
    for start in range(0, rounds, at_once):
        drawn = generator.integers(0, sample.size, (min(at_once, rounds - start), sample.size))
        parts.append(sample[drawn].mean(axis=1))
    return np.concatenate(parts)


def _bca_probabilities(sample: FloatArray, mean: float, means: FloatArray, level: float) -> FloatArray:
    """[2] the quantiles of the resampled means that are the interval's ends."""
    # A mean that ties with the estimate counts half, or few distinct values would look like bias.
    below = ((means < mean).mean() + (means <= mean).mean()) / 2
    bias = ndtri(below)
    deviation = sample - mean
    acceleration = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)  # jackknife of a mean, closed
    shifted = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    probabilities: FloatArray = ndtr(bias + shifted / (1 - acceleration * shifted))
    return probabilities
