"""Pictures that more than one page shows."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.pages.page import Figure, Picture
from trimtab.statistics.calibration import Calibration
from trimtab.statistics.intervals import Interval

SCORER_COLOUR = "#a06bc4"
QUIET_LINE = {"color": "#8a8f96", "width": 1.5, "dash": "dash"}


def reliability_picture(calibration: Calibration, *, key: str, title: str, name: str) -> Picture:
    """How often the response that a scorer prefers is the one people chose, against how sure it is."""
    bins = calibration.bins
    said = "; ".join(
        f"at {100 * one.mean_probability:.0f} % it was {one.happened.percent()} of {one.count}"
        for one in bins
    )
    mark = {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * one.mean_probability for one in bins],
        "y": [100 * one.happened.estimate for one in bins],
        "error_y": error_bars([one.happened for one in bins], 100),
        "marker": {"color": SCORER_COLOUR, "size": 9},
        "text": [f"{one.happened.percent()} of {one.count} pairs" for one in bins],
        "hovertemplate": "%{text}<extra></extra>",
    }
    diagonal = {"type": "line", "x0": 50, "y0": 50, "x1": 100, "y1": 100, "line": QUIET_LINE}
    return Picture(
        key=key,
        title=title,
        label=f"Reliability of {name}: {said}.",
        figure={
            "data": [mark],
            "layout": {
                "height": 300,
                "xaxis": {"title": {"text": "how sure it is, %"}, "range": [48, 102], "zeroline": False},
                "yaxis": {
                    "title": {"text": "how often it is right, %"},
                    "range": [0, 104],
                    "zeroline": False,
                },
                "shapes": [diagonal],
                "margin": {"l": 52, "r": 14, "t": 8, "b": 48},
                "showlegend": False,
            },
        },
    )


def error_bars(intervals: Sequence[Interval], scale: float) -> Figure:
    """The intervals as distances from their estimates, as plotly draws them."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (interval.high - interval.estimate) for interval in intervals],
        "arrayminus": [scale * (interval.estimate - interval.low) for interval in intervals],
        "thickness": 1.8,
        "width": 5,
    }
