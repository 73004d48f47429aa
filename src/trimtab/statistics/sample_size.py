"""How many judgments a win rate needs, and what a given number of them buys.

A decisive judgment is a win or a loss. The normal approximation at a rate of 50 % is used on purpose:
it is what people can check in their heads, and no other rate needs more.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from trimtab.statistics.intervals import check_level, number


def judgments_needed(half_width: float, level: float = 0.95) -> int:
    """How many decisive judgments give an interval of ± `half_width`: 97, 385, 1068 for 0.10, 0.05, 0.03.

    Args:
        half_width: as a share: 0.05 is 5 points.
    Raises:
        ValueError: a half-width outside (0, 0.5], or a level outside (0, 1).
    """
    check_level(level)
    if not 0 < half_width <= 0.5:
        raise ValueError(f"half_width is a share in (0, 0.5], got {half_width}")
    needed = (_quantile(level) / (2 * half_width)) ** 2
    return math.ceil(needed * (1 - 1e-12))  # 4 * (1/2)^2 must not become 2 by rounding


def half_width_of(judgments: int, level: float = 0.95) -> float:
    """The half-width, as a share, that so many decisive judgments give at a rate of 50 %.

    Raises:
        ValueError: fewer than one judgment, or a level outside (0, 1).
    """
    check_level(level)
    if judgments < 1:
        raise ValueError(f"a half-width rests on at least one judgment, got {judgments}")
    return _quantile(level) / (2 * math.sqrt(judgments))


def sample_size_line(judgments: int, goal: float = 0.05, level: float = 0.95) -> str:
    """`±5 points needs about 385 decisive judgments; here there are 96, which give ±10.0.`

    Args:
        judgments: decisive ones: wins and losses, without ties.
        goal: the half-width that is hoped for, as a share.
    Raises:
        ValueError: fewer than 0 judgments, or as `judgments_needed`.
    """
    needed = f"±{100 * goal:g} points needs about {judgments_needed(goal, level):,} decisive judgments"
    if judgments == 0:
        return f"{needed}; here there are none."
    give = number(100 * half_width_of(judgments, level), 1)
    if judgments == 1:
        return f"{needed}; here there is 1, which gives ±{give}."
    return f"{needed}; here there are {judgments:,}, which give ±{give}."


def _quantile(level: float) -> float:
    return float(ndtri((1 + level) / 2))
