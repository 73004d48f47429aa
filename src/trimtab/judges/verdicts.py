"""Scores become verdicts: the one place where the larger of two numbers wins."""

from __future__ import annotations

from datetime import UTC, datetime

from trimtab.judges.judge import Scored, Unreadable
from trimtab.records import Comparison, Preferred, Verdict


def verdict_or_reason(comparison: Comparison, a: Scored, b: Scored, *, judge: str) -> Verdict | Unreadable:
    """The verdict of two scores, or why there is none."""
    if isinstance(a, Unreadable):
        return a
    if isinstance(b, Unreadable):
        return b
    return verdict_from_scores(comparison, a, b, judge=judge)


def verdict_from_scores(comparison: Comparison, score_a: float, score_b: float, *, judge: str) -> Verdict:
    """The response with the higher score is preferred; equal scores and equal texts are a tie.

    Raises:
        ValueError: a score is NaN, with which every comparison is silently false.
    """
    if score_a != score_a or score_b != score_b:
        raise ValueError(f"a score is NaN: {score_a}, {score_b}")
    preferred: Preferred = "a" if score_a > score_b else "b"
    if score_a == score_b or comparison.a == comparison.b:
        preferred = "tie"
    return Verdict(preferred=preferred, judge=judge, at=datetime.now(UTC).isoformat(timespec="seconds"))
