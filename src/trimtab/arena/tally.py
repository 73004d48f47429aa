"""Who won how often. Imports nothing heavy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trimtab.records import Comparison


def tally(judged: Sequence[Comparison]) -> dict[str, int]:
    """How often each source was preferred, and how often it was a tie."""
    counts: Counter[str] = Counter()
    for comparison in judged:
        if comparison.decided and comparison.verdict is not None:
            won = comparison.source_a if comparison.verdict.preferred == "a" else comparison.source_b
            counts[won or comparison.verdict.preferred] += 1
        else:
            counts["tie"] += 1
    return dict(counts)
