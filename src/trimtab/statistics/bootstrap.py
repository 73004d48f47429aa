"""The bootstrap over prompts: how far a mean would move with other prompts of the same kind.

Left out on purpose: resampling of responses or tokens. Those of one prompt depend on each other, so
they are averaged first and the prompt is the unit that is drawn.

Shapes: N = prompts, R = rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.statistics.intervals import Interval, check_level
from trimtab.statistics.resampling import FloatArray, bca_ends, draws


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
    mean = float(sample.mean())
    means = np.concatenate([sample[drawn].mean(axis=1) for drawn in draws(sample.size, rounds, seed)])
    low = high = mean
    if np.ptp(sample) > 0:  # rounding alone would give equal values a width
        low, high = bca_ends(mean, means, sample - mean, np.ones_like(sample), level)
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
