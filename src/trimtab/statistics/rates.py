"""Intervals of a win rate: the bootstrap over prompts, the Wilson score beside it, and which one to quote.

Shapes: N = prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from trimtab.statistics.bootstrap import bootstrap_mean
from trimtab.statistics.intervals import Interval, check_level, number, wilson
from trimtab.statistics.resampling import FloatArray

FEW_PROMPTS = 100
"""Below this many the Wilson interval is quoted."""
FEW_OUTCOMES = 10
"""With fewer wins, or fewer losses, than this the Wilson interval is quoted: ties are neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateInterval:
    """A rate with both intervals; `quoted` is the one to print."""

    bootstrap: Interval | None
    """BCa bootstrap over prompts; None for a single prompt, which cannot be drawn anew."""
    score: Interval
    """Wilson score interval, narrowed for ties and other fractions."""
    caution: str
    """Why the score interval is quoted, in words for the report; empty where the bootstrap is."""

    @property
    def quoted(self) -> Interval:
        """The bootstrap, and the score interval in its place for few prompts, wins or losses."""
        return self.score if self.caution or self.bootstrap is None else self.bootstrap


def rate_interval(
    outcomes: FloatArray | Sequence[float], *, seed: int, level: float = 0.95, rounds: int = 10_000
) -> RateInterval:
    """The mean outcome with its intervals over prompts.

    Both hold the true rate 93 to 97 times in 100 for 200 prompts and more and rates in [0.1, 0.9], with
    or without ties (benchmarks/interval_coverage.py). With few prompts, wins or losses only the score
    interval does: a bootstrap of 50 wins in 50 has no width, and one of 3 wins in 197 ties cannot draw the
    losses that it has not seen.

    Args:
        outcomes: [N], one a prompt, each in [0, 1]; a tie is 0.5.
    Raises:
        ValueError: none, an outcome outside [0, 1] or NaN, or what `bootstrap_mean` refuses.
    """
    sample = checked_outcomes(outcomes)
    score = score_interval(sample, level)
    bootstrap = bootstrap_mean(sample, seed=seed, level=level, rounds=rounds) if sample.size > 1 else None
    return RateInterval(bootstrap=bootstrap, score=score, caution=_caution(sample, score))


def score_interval(outcomes: FloatArray | Sequence[float], level: float = 0.95) -> Interval:
    """Wilson's score interval for outcomes that may be fractions, such as ties.

    A tie varies less than a win or a loss, so N outcomes are worth N / d plain ones, where d is their
    variance over that of plain wins and losses with the same mean: the design effect of survey
    statistics. d is estimated after adding z^2/2 wins and z^2/2 losses, so that it never reaches 0:
    N ties and nothing else give 0.5 ± z^2 / (2 N), nearly. Without fractions d is 1, and this is Wilson's
    interval itself. Its exact coverage at a level of 95 % lies in [92, 98] % for N from 20 on, in
    [93, 97] from 50 and in [93.8, 96.2] from 200, for rates from 0.1 to 0.9.

    Args:
        outcomes: [N], each in [0, 1].
    Raises:
        ValueError: none, an outcome outside [0, 1] or NaN, or a level outside (0, 1).
    Source: Wilson 1927, JASA 22(158), 209-212; the design effect in it: Korn and Graubard 1998, Survey
        Methodology 24(2), 193-201; the added counts: Agresti and Coull 1998, The American Statistician
        52(2), 119-126.
    """
    sample = checked_outcomes(outcomes)
    check_level(level)
    if np.isin(sample, (0, 1)).all():
        return wilson(int(sample.sum()), sample.size, level)
    z2 = _z2(level)
    rate, worth = float(sample.mean()), sample.size / design_effect(sample, level)
    middle = (rate + z2 / (2 * worth)) / (1 + z2 / worth)
    half = math.sqrt(z2 * (rate * (1 - rate) / worth + z2 / (4 * worth**2))) / (1 + z2 / worth)
    return Interval(rate, middle - half, middle + half, level, int(sample.size), "Wilson score over prompts")


def checked_outcomes(outcomes: FloatArray | Sequence[float]) -> FloatArray:
    """[N] as float64. Raises ValueError unless there are some and all lie in [0, 1]."""
    sample = np.asarray(outcomes, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not ((sample >= 0) & (sample <= 1)).all():
        raise ValueError("outcomes must be one or more numbers in [0, 1], in one row")
    return sample


def too_few(outcomes: FloatArray) -> str:
    """What there is too little of, such as `3 wins and 0 losses in 200`; empty where there is enough.

    A win is an outcome above 0.5 and a loss one below: ties add to the mean, but decide nothing.
    """
    counts = ((int((outcomes > 0.5).sum()), "win", "wins"), (int((outcomes < 0.5).sum()), "loss", "losses"))
    few = [f"{count} {one if count == 1 else more}" for count, one, more in counts if count < FEW_OUTCOMES]
    return f"{' and '.join(few)} in {outcomes.size}" if few else ""


def design_effect(outcomes: FloatArray, level: float) -> float:
    """In (0, 1]: their variance over that of plain wins and losses, with z^2/2 of each added."""
    z2 = _z2(level)
    total = outcomes.size + z2
    mean = (float(outcomes.sum()) + z2 / 2) / total
    variance = (float((outcomes**2).sum()) + z2 / 2) / total - mean**2
    return variance / (mean * (1 - mean))


def _z2(level: float) -> float:
    return float(ndtri((1 + level) / 2)) ** 2


def _caution(sample: FloatArray, score: Interval) -> str:
    """Empty where the bootstrap may be quoted."""
    if sample.size < FEW_PROMPTS:
        half = number(50 * (score.high - score.low), 0)
        prompts = "1 prompt" if sample.size == 1 else f"{sample.size} prompts"
        return f"Only {prompts}: the rate is known to ±{half} points (Wilson score interval)."
    few = too_few(sample)
    if not few:
        return ""
    return (
        f"Only {few} prompts: the Wilson score interval is quoted, since a bootstrap of so few would claim "
        "too much."
    )
