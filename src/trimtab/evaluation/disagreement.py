"""How far the members of an averaged judge disagree on pairs whose right answer is known.

Where members differ, the mean is less to be trusted: a policy that is trained against it finds such places.

Shapes: N = pairs, M = members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.judges.ensemble import Averaged
from trimtab.judges.judge import Answer
from trimtab.statistics.bootstrap import bootstrap_mean
from trimtab.statistics.intervals import Interval, wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Of all pairs that every member could read."""

    members: tuple[Interval, ...]
    """Accuracy of each by itself; a tie is wrong."""
    spread: Interval
    """Mean over pairs of the standard deviation of the members' margins, in the unit of the mean."""
    unanimous: Interval
    """Share of pairs that all members rank alike."""
    accuracy_unanimous: Interval | None
    """The mean's accuracy on those pairs; None without any."""
    accuracy_split: Interval | None
    """And on the others."""


def disagreement(
    judge: Averaged, pairs: Sequence[tuple[Answer, Answer]], *, seed: int
) -> Disagreement | None:
    """Of (chosen, rejected) pairs that the judge has scored; None for fewer than two.

    Args:
        pairs: those of which an answer could not be read are passed over.
    """
    read = [(a, b) for a, b in pairs if a in judge.opinions and b in judge.opinions]
    if len(read) < 2:
        return None
    margins = np.array([judge.margin(a, b) for a, b in read])  # [N, M]
    together = margins.mean(axis=1) > 0
    alike = (margins > 0).all(axis=1) | (margins < 0).all(axis=1)
    return Disagreement(
        members=tuple(wilson(int((one > 0).sum()), len(read)) for one in margins.T),
        spread=bootstrap_mean(margins.std(axis=1, ddof=1), seed=seed),
        unanimous=wilson(int(alike.sum()), len(read)),
        accuracy_unanimous=_accuracy(together[alike].tolist()),
        accuracy_split=_accuracy(together[~alike].tolist()),
    )


def sentences(found: Disagreement, unit: str) -> tuple[str, ...]:
    """What should be said beside the figure of the mean."""
    alone = ", ".join(accuracy.percent() for accuracy in found.members)
    said = f"All {len(found.members)} members rank {found.unanimous.percent()} of the pairs alike"
    parts = [("there", found.accuracy_unanimous), ("elsewhere", found.accuracy_split)]
    shares = [f"{one.percent()} {where}" for where, one in parts if one is not None]
    return (
        f"The members by themselves are right on {alone}.",
        f"Their margins deviate by {found.spread.text(2)} {unit} around the mean.",
        f"{said}; their mean is right on {' and on '.join(shares)}.",
    )


def _accuracy(right: Sequence[bool]) -> Interval | None:
    return wilson(sum(right), len(right)) if right else None
