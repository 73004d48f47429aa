"""A reward model, or any judge that scores, on rows whose right answer is known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.errors import DataError
from trimtab.evaluation.rewardbench import RowResult, Scorecard, row_results, scorecard
from trimtab.formats.rewardbench import BenchmarkRow
from trimtab.formats.rows import Row
from trimtab.judges.judge import Answer, Scored, ScoringJudge, Unreadable
from trimtab.statistics.calibration import Calibration, calibration, from_margins


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardEvaluation:
    """What a judge makes of a file of rows."""

    judge: str
    card: Scorecard
    calibration: Calibration | None
    """Of pairs; None for best-of-n rows, whose scores are compared with several others."""
    results: tuple[RowResult, ...]
    left_out: tuple[tuple[str, str], ...]
    """(where, reason) of rows that the judge cannot read."""
    seconds: float
    """By the clock, scoring alone."""


def evaluate(judge: ScoringJudge, rows: Sequence[Row[BenchmarkRow]], *, seed: int) -> RewardEvaluation:
    """Score every response of every row, and count.

    Raises:
        DataError: the judge can read none of the rows.
    """
    began = time.perf_counter()
    answers = [Answer(row.record.prompt, text) for row in rows for text in row.record.responses]
    found = iter(judge.score(answers))
    scores = [list(itertools.islice(found, len(row.record.responses))) for row in rows]
    seconds = time.perf_counter() - began

    left_out = [(row.where, _reason(values)) for row, values in zip(rows, scores, strict=True)]
    kept = [
        (row.record, [value for value in values if not isinstance(value, Unreadable)])
        for row, values in zip(rows, scores, strict=True)
        if not _reason(values)
    ]
    if not kept:
        raise DataError(
            "the judge can read none of the rows",
            where=judge.name,
            found=left_out[0][1] if left_out else "no rows",
        )
    results = row_results([row for row, _ in kept], [values for _, values in kept])
    return RewardEvaluation(
        judge=judge.name,
        card=scorecard(results, seed=seed),
        calibration=_calibration(results, seed),
        results=results,
        left_out=tuple((where, reason) for where, reason in left_out if reason),
        seconds=seconds,
    )


def _reason(values: Sequence[Scored]) -> str:
    """Why a row cannot be scored; empty where it can."""
    return next((value.reason for value in values if isinstance(value, Unreadable)), "")


def _calibration(results: Sequence[RowResult], seed: int) -> Calibration | None:
    if any(result.row.form != "pair" for result in results):
        return None
    margins = np.array([result.chosen[0] - result.rejected[0] for result in results])
    return calibration(from_margins(margins), seed=seed)
