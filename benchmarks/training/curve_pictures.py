"""The picture of curves.py: time for each operation above, memory below, one column a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TIME, MEMORY, BAND = "#3f83cc", "#cf7a1f", "#e3e6ea"
WITHIN = 0.1
"""Of the smallest size's cost: the band that is drawn."""


def draw(curves: Mapping[str, Any], labels: Mapping[str, str], path: Path) -> None:
    """Dots are single processes, lines go through their medians."""
    style = {
        "font.size": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(13, 6), layout="constrained")
        rows = figure.subplots(2, len(curves), sharey="row", squeeze=False)
        for column, (curve, found) in enumerate(curves.items()):
            above, below = rows[0][column], rows[1][column]
            _time(above, found["points"])
            _memory(below, found["points"])
            above.set_title(f"{curve}: spread {100 * found['time_spread']:.0f} %", fontsize=12)
            below.set_xlabel(labels[curve], fontsize=10)
        rows[0][0].set_ylabel("seconds for each 10¹²\nneeded operations")
        rows[1][0].set_ylabel("memory beyond\nthe weights, MB")
        rows[0][0].set_ylim(0, 1.1 * rows[0][0].get_ylim()[1])
        figure.suptitle(
            "A DPO step of trimtab; dots: processes; band: 10 % around the smallest size", fontsize=12
        )
        figure.savefig(path, dpi=110)


def _time(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    first = median(points[0]["seconds_per_teraflop"])
    axes.axhspan(first * (1 - WITHIN), first * (1 + WITHIN), color=BAND, linewidth=0)
    _plot(axes, points, "seconds_per_teraflop", TIME)


def _memory(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    _plot(axes, points, "beyond_mb", MEMORY)


def _plot(axes: Axes, points: Sequence[Mapping[str, Any]], name: str, colour: str) -> None:
    sizes = [one["size"] for one in points]
    for one in points:
        axes.plot([one["size"]] * len(one[name]), one[name], "o", color=colour, ms=4, alpha=0.4, mew=0)
    axes.plot(sizes, [median(one[name]) for one in points], color=colour, linewidth=2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
