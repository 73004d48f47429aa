"""How well a judge that scores ranks pairs as people did: the card of a reward model.

Shapes: P = pairs that people judged and the model was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.records import Comparison
from trimtab.statistics.calibration import Calibration, calibration, from_margins
from trimtab.statistics.intervals import Interval, wilson
from trimtab.statistics.resampling import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PairQuality:
    """A judge on held-out pairs."""

    accuracy: Interval
    """Share of pairs whose chosen response scores strictly higher."""
    ties: int
    """Pairs with equal scores, which count as wrong."""
    longer_chosen: Interval | None
    """Accuracy where people chose the longer response; None where there is no such pair."""
    shorter_chosen: Interval | None
    """Accuracy where people chose the shorter one: far below the other, the judge rewards length."""
    calibration: Calibration | None
    """Whether sigma(difference of scores) is how often the response it prefers is people's."""


def pair_quality(
    comparisons: Sequence[Comparison],
    chosen: Sequence[float],
    rejected: Sequence[float],
    *,
    nats: bool,
    seed: int,
) -> PairQuality:
    """Score a judge's scores against people's verdicts.

    Args:
        comparisons: [P] decided ones.
        chosen, rejected: [P] scores of the responses that people chose and did not.
        nats: whether scores are in nats; others say nothing of probabilities.
    Raises:
        ValueError: no pairs, sides of different length, or a score that is not finite.
    """
    margins = np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64)
    if margins.shape != (len(comparisons),) or not np.isfinite(margins).all():
        raise ValueError(f"each of {len(comparisons)} pairs needs two finite scores, got {margins.shape}")
    longer = np.array([len(one.chosen) - len(one.rejected) for one in comparisons])
    return PairQuality(
        accuracy=wilson(int((margins > 0).sum()), margins.size),
        ties=int((margins == 0).sum()),
        longer_chosen=_accuracy(margins[longer > 0]),
        shorter_chosen=_accuracy(margins[longer < 0]),
        calibration=calibration(from_margins(margins), seed=seed) if nats else None,
    )


def _accuracy(margins: FloatArray) -> Interval | None:
    return wilson(int((margins > 0).sum()), margins.size) if margins.size else None
