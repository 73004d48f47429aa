"""How unlikely it is that a person's habits are chance, and which numbers lie far from all others.

The tests are exact under what was drawn at random or is alike by assumption; none is an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

FloatArray = NDArray[np.float64]

OUTLYING = 3.5
"""Robust z-score beyond which a number is an outlier, as Iglewicz and Hoaglin 1993 have it."""


def longest_run_p(flips: int, run: int) -> float:
    """How often `flips` of a fair coin have `run` or more of the same side in a row.

    A run of L equal flips is L - 1 times "the same as before", itself a fair coin. The chance of such a
    streak of m within k flips grows by 2^-(m+1) for each flip, if there was none before the streak.

    Raises:
        ValueError: a negative number of flips, or a run below 1.
    Source: Schilling 1990, The College Mathematics Journal 21(3), 196-207.
    """
    if flips < 0 or run < 1:
        raise ValueError(f"a run of at least 1 in flips of 0 or more, got {run} in {flips}")
    if run > flips:
        return 0.0
    streak = run - 1
    if streak == 0:
        return 1.0
    seen = [0.0] * streak + [0.5**streak]
    for k in range(streak + 1, flips):
        seen.append(seen[-1] + 0.5 ** (streak + 1) * (1 - seen[k - streak - 1]))
    return min(1.0, seen[flips - 1])


def at_least_p(probabilities: Sequence[float], hits: int) -> float:
    """How often independent events of these probabilities happen `hits` times or more (Poisson-binomial).

    Raises:
        ValueError: a probability outside [0, 1].
    """
    if not all(0 <= probability <= 1 for probability in probabilities):
        raise ValueError("probabilities lie in [0, 1]")
    if hits <= 0:
        return 1.0
    chances: FloatArray = np.zeros(len(probabilities) + 1)
    chances[0] = 1
    for probability in probabilities:
        chances[1:] = chances[1:] * (1 - probability) + chances[:-1] * probability
        chances[0] *= 1 - probability
    return min(1.0, float(chances[hits:].sum()))


def fewer_p(hits: int, drawn: int, all_hits: int, everything: int) -> float:
    """How often `drawn` of `everything`, of which `all_hits` are hits, hold `hits` or fewer: Fisher's exact
    test, one-sided.

    Raises:
        ValueError: counts that cannot be of one table.
    Source: Fisher 1934, Statistical Methods for Research Workers, section 21.02.
    """
    misses = everything - all_hits
    if not (0 <= hits <= min(drawn, all_hits) and drawn - hits <= misses and drawn <= everything):
        raise ValueError(f"no table has {hits} hits in {drawn}, and {all_hits} in {everything}")
    x = np.arange(max(0, drawn - misses), hits + 1)
    logs = _log_choose(all_hits, x) + _log_choose(misses, drawn - x) - _log_choose(everything, drawn)
    return min(1.0, float(np.exp(logs).sum()))


def robust_z(values: FloatArray | Sequence[float]) -> FloatArray | None:
    """[N] how far each value lies from the median, 0.6745 / MAD being the unit: about standard deviations.

    None where more than half of the values are equal, so that there is no unit, or where there are none.

    Source: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers, section 3.3.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size:
        return None
    away = sample - np.median(sample)
    unit = float(np.median(np.abs(away)))
    if not unit > 0:
        return None
    scores: FloatArray = 0.6745 * away / unit
    return scores


def _log_choose(n: int, k: NDArray[np.int64] | int) -> FloatArray:
    logs: FloatArray = np.asarray(gammaln(n + 1) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1))
    return logs
