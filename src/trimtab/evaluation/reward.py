"""A reward model, or any judge that scores, on rows whose right answer is known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab import formats
from trimtab.errors import DataError
from trimtab.evaluation.disagreement import Disagreement, disagreement
from trimtab.evaluation.rewardbench import RowResult, Scorecard, check_rows, row_results, scorecard
from trimtab.formats.rewardbench import BenchmarkRow, read_benchmark
from trimtab.formats.rows import Row
from trimtab.judges.ensemble import Averaged
from trimtab.judges.judge import Answer, Scored, ScoringJudge, Unreadable
from trimtab.statistics.calibration import Calibration, calibration, fitted_temperature, from_margins

LeftOut = tuple[tuple[str, str], ...]
"""(where, reason) of rows without a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardEvaluation:
    """What a judge makes of a file of rows."""

    judge: str
    card: Scorecard
    calibration: Calibration | None
    """Of pairs; None for best-of-n rows, whose scores are compared with several others, and for judges
    whose scores are not in nats."""
    temperature: float | None
    """What the scores would be divided by to fit these pairs best; None as above, and where nothing does."""
    disagreement: Disagreement | None
    """Between the members of an averaged judge, on pairs; None for others."""
    results: tuple[RowResult, ...]
    left_out: LeftOut
    """Rows that cannot be used, and those that the judge cannot read."""
    seconds: float
    """By the clock, scoring alone."""


def read_rows(source: str, count: int | None) -> tuple[tuple[Row[BenchmarkRow], ...], LeftOut]:
    """The rows of a file, or the first so many, and those among them that cannot be used.

    Raises:
        DataError: something could not be read, or no row is left.
    """
    reading = read_benchmark(source)
    rows = formats.usable(reading)
    kept = rows[:count]
    last = kept[-1].line if len(kept) < len(rows) else float("inf")
    left_out = [one for one in reading.defects_left_out if one.line <= last]
    return kept, tuple((one.where, f"{one.kind}: {one.what}") for one in left_out)


def evaluate(
    judge: ScoringJudge, rows: Sequence[Row[BenchmarkRow]], *, seed: int, left_out: LeftOut = ()
) -> RewardEvaluation:
    """Score every response of every row, and count.

    Args:
        left_out: rows of the file that are not among `rows`, to be counted beside those the judge cannot
            read.
    Raises:
        DataError: rows that cannot be scored together, before anything is; the judge can read none of them.
    """
    check_rows(rows)
    began = time.perf_counter()
    answers = [_answer(row.record, text) for row in rows for text in row.record.responses]
    found = iter(judge.score(answers))
    scores = [list(itertools.islice(found, len(row.record.responses))) for row in rows]
    seconds = time.perf_counter() - began

    unread = [
        (row.where, _reason(values)) for row, values in zip(rows, scores, strict=True) if _reason(values)
    ]
    kept = [
        (row.record, [value for value in values if not isinstance(value, Unreadable)])
        for row, values in zip(rows, scores, strict=True)
        if not _reason(values)
    ]
    if not kept:
        raise DataError(
            "the judge can read none of the rows",
            where=judge.name,
            found=unread[0][1] if unread else "no rows",
        )
    results = row_results([row for row, _ in kept], [values for _, values in kept])
    margins = _margins(results) if judge.nats else []
    return RewardEvaluation(
        judge=judge.name,
        card=scorecard(results, seed=seed, rows=[row.record for row in rows]),
        calibration=calibration(from_margins(margins), seed=seed) if margins else None,
        temperature=fitted_temperature(margins) if margins else None,
        disagreement=_disagreement(judge, results, seed),
        results=results,
        left_out=(*left_out, *unread),
        seconds=seconds,
    )


def _reason(values: Sequence[Scored]) -> str:
    """Why a row cannot be scored; empty where it can."""
    return next((value.reason for value in values if isinstance(value, Unreadable)), "")


def _margins(results: Sequence[RowResult]) -> list[float]:
    """Chosen's score less rejected's; none unless all rows are pairs."""
    if any(result.row.form != "pair" for result in results):
        return []
    return [result.chosen[0] - result.rejected[0] for result in results]


def _disagreement(judge: ScoringJudge, results: Sequence[RowResult], seed: int) -> Disagreement | None:
    if not isinstance(judge, Averaged):
        return None
    pairs = [result.row for result in results if result.row.form == "pair"]
    asked = [[_answer(row, text) for text in row.responses] for row in pairs]
    return disagreement(judge, [(chosen, rejected) for chosen, rejected in asked], seed=seed)


def _answer(row: BenchmarkRow, text: str) -> Answer:
    return Answer(row.prompt, text, question=row.asked)
