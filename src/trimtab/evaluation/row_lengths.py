"""Rows told apart by the length of their responses, in characters."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

import numpy as np

from trimtab.formats.rewardbench import BenchmarkRow
from trimtab.statistics.calibration import equal_mass_edges


def longer_side(row: BenchmarkRow) -> str:
    """Which side has the longest response."""
    chosen, rejected = (max(map(len, side)) for side in (row.chosen, row.rejected))
    if chosen == rejected:
        return "same length"
    return "chosen is longer" if chosen > rejected else "rejected is longer"


def thirds(rows: Sequence[BenchmarkRow]) -> Callable[[BenchmarkRow], str]:
    """Names a row's third by the mean length of its responses; fewer than three where many are as long."""
    sizes = [_size(row) for row in rows]
    edges = [edge for edge in equal_mass_edges(np.array(sizes), bins=3) if edge > min(sizes)] if rows else []

    def name(row: BenchmarkRow) -> str:
        place = bisect.bisect_right(edges, _size(row))
        low = f"from {edges[place - 1]:,.1f} " if place > 0 else ""
        high = f"to under {edges[place]:,.1f} " if place < len(edges) else ""
        return f"length {place + 1}: {low}{high}characters"

    return name


def _size(row: BenchmarkRow) -> float:
    return float(np.mean([len(text) for text in row.responses]))
