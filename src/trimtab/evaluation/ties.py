"""RewardBench 2's score for questions with many right answers, its subset Ties.

Each question stands in the file twice: `ref:i` with one correct answer, `tied:i` with all of them. A good
model puts every correct answer above every wrong one, and by more than it prefers one correct answer to
another. With m the lowest correct score minus the highest wrong one, and spread the highest minus the
lowest correct score of the tied row:

    score = 0.30 mean(m_tied > 0) + 0.30 mean(m_ref > 0)
          + 0.20 mean(m_tied > spread) + 0.20 mean(min(m_ref, m_tied) > spread)
          + 0.01 mean(tanh(min(m_ref, m_tied) / spread - 1))

0/0 counts 0 in the last term. The accuracies are means over all rows of their kind, the rest over
questions that have both. A perfect model scores up to 1.01.
Read from the reference code where the paper leaves it open: strict inequalities, and the last term not
multiplied by an accuracy. Where that code fails: a tied row with one correct answer has spread 0 here.
Source: Malik et al. 2025, arXiv:2506.01937; reward-bench `utils.process_single_model`.

Shapes: Q = questions, R = rounds of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.errors import DataError
from trimtab.statistics.resampling import FloatArray

WEIGHTS = np.array([0.30, 0.30, 0.20, 0.20, 0.01])
"""Of the columns of `question_table`, in their order."""
LOWEST, HIGHEST = -float(WEIGHTS[-1]), float(WEIGHTS.sum())
"""-0.01 and 1.01: the accuracies make up 1, and the last term is tanh, which a wrong order makes negative."""

Sides = tuple[Sequence[float], Sequence[float]]
"""Scores of the correct answers, and of the wrong ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiesScore:
    """The score and its parts, each a mean over questions."""

    score: float
    tied_accuracy: float
    reference_accuracy: float
    preferred: float
    """Share of questions on which being right weighs more than which right answer it is."""
    preferred_hard: float
    """The same, with the margin of the reference row where that is smaller."""
    margin: float
    questions: int


def question_table(tied: Mapping[str, Sides], reference: Mapping[str, Sides]) -> FloatArray:
    """[Q, 5] what each question adds to each mean; NaN where it adds nothing.

    Args:
        tied, reference: by question.
    Raises:
        DataError: no question has both a tied and a reference row.
    """
    questions = list(dict.fromkeys([*tied, *reference]))
    if not tied.keys() & reference.keys():
        raise DataError(
            "no question of the subset Ties has both of its rows",
            where="Ties",
            found=f"{len(tied)} rows tied:i, {len(reference)} rows ref:i",
            fix="keep tied:i and ref:i of the same i together, or leave the subset out",
        )
    return np.array([_question(tied.get(name), reference.get(name)) for name in questions])


def _question(tied: Sides | None, reference: Sides | None) -> list[float]:
    nothing = float("nan")
    tied_margin = nothing if tied is None else _margin(tied)
    reference_margin = nothing if reference is None else _margin(reference)
    accurate = [
        nothing if margin != margin else float(margin > 0) for margin in (tied_margin, reference_margin)
    ]
    if tied is None or reference is None:
        return [*accurate, nothing, nothing, nothing]
    spread = max(tied[0]) - min(tied[0])
    least = min(tied_margin, reference_margin)
    return [*accurate, float(tied_margin > spread), float(least > spread), _closeness(least, spread)]


def _margin(sides: Sides) -> float:
    """How far the lowest correct answer lies above the highest wrong one."""
    return min(sides[0]) - max(sides[1])


def _closeness(least: float, spread: float) -> float:
    """tanh(least / spread - 1), also where the spread is 0."""
    if spread == 0:
        return float(np.sign(least))
    return float(np.tanh(least / spread - 1))


def score_ties(table: FloatArray) -> TiesScore:
    """The score from `question_table`."""
    means = np.nanmean(table, axis=0)
    parts = dict(
        zip(
            ("tied_accuracy", "reference_accuracy", "preferred", "preferred_hard", "margin"),
            means.tolist(),
            strict=True,
        )
    )
    return TiesScore(score=float(means @ WEIGHTS), questions=len(table), **parts)


def resampled_ties(table: FloatArray, rounds: int, generator: np.random.Generator) -> FloatArray:
    """[R] scores with questions drawn anew, each kind (both rows, one of them) as often as there is."""
    present = ~np.isnan(table)
    counts = np.zeros((rounds, len(table)))
    for kind in np.unique(present, axis=0):
        of_kind = np.flatnonzero((present == kind).all(axis=1))
        even = np.full(of_kind.size, 1 / of_kind.size)
        counts[:, of_kind] = generator.multinomial(of_kind.size, even, size=rounds)
    means = (counts @ np.nan_to_num(table)) / (counts @ present)
    scores: FloatArray = means @ WEIGHTS
    return scores
