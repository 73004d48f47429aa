"""Several judges as one: the mean of their scores, each brought to the same scale.

Scales differ between reward models, so each member's scores are first shifted and divided by their mean
and deviation over all answers that are scored together. The sum then depends on that set: score all
answers of a comparison in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.judges.judge import Answer, Scored, ScoringJudge, Unreadable


@dataclass(frozen=True)
class Ensemble:
    """Two or more judges that vote with equal weight."""

    members: tuple[ScoringJudge, ...]

    @property
    def name(self) -> str:
        """The members' names."""
        return " + ".join(member.name for member in self.members)

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """The mean standardised score; unreadable where it is so for any member."""
        columns = [member.score(answers) for member in self.members]
        rows = list(zip(*columns, strict=True))
        reasons = [next((one for one in row if isinstance(one, Unreadable)), None) for row in rows]
        readable = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        means = iter(_mean_of_standardised(np.array(readable, dtype=np.float64)).tolist() if readable else [])
        return [next(means) if reason is None else reason for reason in reasons]


def _mean_of_standardised(scores: np.ndarray) -> np.ndarray:
    """[answers, members] -> [answers]; a member that says the same of all answers has no say."""
    spread = scores.std(axis=0)
    standardised = (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    mean: np.ndarray = standardised.mean(axis=1)
    return mean
