"""Confidence intervals, and the Wilson score interval for plain counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

PERCENT = "\u00a0%"
"""The sign with the space before it, which a line must not break."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided confidence interval."""

    estimate: float
    low: float
    high: float
    level: float
    """The share of such intervals that hold the true value, such as 0.95."""
    n: int
    """How many independent units it rests on: prompts or pairs, never tokens."""
    method: str = ""
    """What kind of interval it is, in the words that are printed beside it."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.estimate, self.low, self.high))):
            raise ValueError(f"an interval is finite, got {self.estimate}, {self.low} to {self.high}")
        if self.low > self.high:
            raise ValueError(f"an interval runs from low to high, got {self.low} to {self.high}")
        if self.n < 1:
            raise ValueError(f"an interval rests on at least one unit, got n = {self.n}")
        check_level(self.level)

    def contains(self, value: float) -> bool:
        """Whether `value` lies inside, the ends included."""
        return self.low <= value <= self.high

    def text(self, digits: int = 2) -> str:
        """`0.31 [0.25, 0.37]`, for quantities with a unit of their own."""
        return f"{number(self.estimate, digits)} [{number(self.low, digits)}, {number(self.high, digits)}]"

    def percent(self) -> str:
        """`58.0 % [51.8, 64.0]`, for rates."""
        estimate, low, high = (number(100 * rate, 1) for rate in (self.estimate, self.low, self.high))
        return f"{estimate}{PERCENT} [{low}, {high}]"

    def percent_of(self, units: str) -> str:
        """`58.0 % of 250 pairs (95 % interval 51.8 to 64.0 %)`, for sentences."""
        estimate, low, high = (number(100 * rate, 1) for rate in (self.estimate, self.low, self.high))
        level = f"{100 * self.level:g}{PERCENT} interval"
        return f"{estimate}{PERCENT} of {self.n} {units} ({level} {low} to {high}{PERCENT})"


def number(value: float, digits: int) -> str:
    """`value` with a true minus sign and never a negative zero."""
    return f"{value:z.{digits}f}".replace("-", "−")


def check_level(level: float) -> None:
    """Raise ValueError unless `level` is a confidence level."""
    if not 0 < level < 1:  # written so that NaN is refused too
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """The Wilson score interval, without continuity correction, for `successes` in `n` independent trials.

    It never has width 0 and never leaves [0, 1], so it also serves 0 or n successes, where the
    normal approximation and the bootstrap both claim certainty.

    Raises:
        ValueError: n < 1, successes outside [0, n], or a level outside (0, 1).
    Source: Wilson 1927, JASA 22(158), 209-212.
    """
    check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, n] with n >= 1, got {successes} of {n}")
    z = float(ndtri((1 + level) / 2))
    rate = successes / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The ends are exactly 0 and 1 there; rounding would leave them a hair inside or outside.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Interval(rate, low, high, level, n, "Wilson score")
