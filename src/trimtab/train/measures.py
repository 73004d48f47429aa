"""What is measured before and after a stage: means with intervals, and how much they changed.

The change is measured example by example: the same examples are measured twice, so their differences
say far more surely than two separate intervals whether anything moved.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.errors import DataError
from trimtab.runs.files import write_json
from trimtab.runs.run import Run
from trimtab.statistics.bootstrap import bootstrap_mean, linearised_ratio
from trimtab.statistics.intervals import Interval, wilson

BEFORE = "dev_before.json"
"""The run folder's file with each example's values at step 0."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over examples."""

    values: list[float]

    def interval(self, seed: int) -> Interval:
        """The bootstrap's, over examples."""
        return bootstrap_mean(self.values, seed=seed)


@dataclass(frozen=True, slots=True)
class Share:
    """The share of examples for which something holds: 1.0 where it does, else 0.0."""

    values: list[float]

    def interval(self, seed: int) -> Interval:
        """Wilson's."""
        return wilson(round(sum(self.values)), len(self.values))


Measure = Mean | Share


def per_token(totals: Sequence[float], tokens: Sequence[int]) -> Mean:
    """The mean per token over all examples together, as a mean over examples."""
    return Mean(linearised_ratio(totals, tokens).tolist())


def log_measures(run: Run, step: int, seed: int, **measures: Measure) -> dict[str, Interval]:
    """Log each measure with its interval and, after step 0, its change since then with its own.

    Metrics of a measure NAME: `dev_NAME`, `dev_NAME_low`, `dev_NAME_high`, and `dev_NAME_change...` likewise.

    Returns:
        The intervals of the measures themselves, by name.
    """
    sizes = {len(measure.values) for measure in measures.values()}
    if min(sizes) < 2:
        raise DataError(
            "an interval needs at least two dev examples",
            where="dev",
            found=f"{min(sizes)} can be used",
            fix="give more dev data, or none (dev: null)",
        )
    intervals = {name: measure.interval(seed) for name, measure in measures.items()}
    logged = dict(intervals)
    if step == 0:
        write_json(run.folder / BEFORE, {name: measure.values for name, measure in measures.items()})
    elif (run.folder / BEFORE).exists():
        before = json.loads((run.folder / BEFORE).read_text(encoding="utf-8"))
        for name, measure in measures.items():
            if name not in before:
                continue  # what exists only once something has moved
            change = np.subtract(measure.values, before[name])
            logged[f"{name}_change"] = bootstrap_mean(change, seed=seed)
    metrics: dict[str, float] = {}
    for name, interval in logged.items():
        metrics |= {
            f"dev_{name}": interval.estimate,
            f"dev_{name}_low": interval.low,
            f"dev_{name}_high": interval.high,
        }
    run.log(step, **metrics, dev_n=max(interval.n for interval in intervals.values()))
    return intervals
