"""Several judges as one: the mean of their scores.

Scales differ between reward models, so in an `Ensemble` each member's scores are shifted and divided by their
mean and deviation over the first answers that are scored together and on which its scores differ. That scale
then stays: scores from later calls can be compared with the first.

The members of one ensemble run (`members=3`) are trained alike, on the same pairs, to the same unit: a
`MeanReward` averages them as they are, and its scores are in nats as theirs.

Shapes: N = answers, M = members.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trimtab.judges.judge import Answer, Scored, ScoringJudge, Unreadable
from trimtab.records import Preferred
from trimtab.statistics.agreement import nominal_alpha, raw_agreement

FloatArray = NDArray[np.float64]


@dataclass
class Ensemble:
    """Two or more judges that vote with equal weight."""

    nats: ClassVar[bool] = False
    members: tuple[ScoringJudge, ...]
    opinions: dict[Answer, tuple[float, ...]] = field(default_factory=dict)
    """[M] scores by answer, each in its member's own units, of all answers that every member could read."""
    _mean: FloatArray = field(init=False)
    """[M] what is taken off each member's scores; kept once its spread is above 0."""
    _spread: FloatArray = field(init=False)
    """[M] what they are then divided by; 0 while all answers had the same score."""

    def __post_init__(self) -> None:
        self._mean, self._spread = np.zeros(len(self.members)), np.zeros(len(self.members))

    @property
    def name(self) -> str:
        """The members' names."""
        return " + ".join(member.name for member in self.members)

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """The mean standardised score; unreadable where it is so for any member."""
        rows = _asked(self.members, answers, self.opinions)
        self._set_scale([row for row in rows if not isinstance(row, Unreadable)])
        return [row if isinstance(row, Unreadable) else self._standardised(row) for row in rows]

    def agreement(self, pairs: Iterable[tuple[Answer, Answer]]) -> tuple[str, ...]:
        """How far the members prefer the same answers, in a sentence; none where they read no pair.

        Pairs of equal answers, on which nobody can differ, are left out.
        """
        return _agreement(self.opinions, pairs)

    def margin(self, a: Answer, b: Answer) -> FloatArray:
        """[M] each member's score of `a` less that of `b`, both read before, in the unit of the mean."""
        margins = np.subtract(self.opinions[a], self.opinions[b])
        inverse = np.divide(1.0, self._spread, out=np.zeros_like(self._spread), where=self._spread > 0)
        return margins * inverse

    def _set_scale(self, rows: Sequence[tuple[float, ...]]) -> None:
        """Give a scale to members that have none yet, where their scores differ now."""
        if not rows:
            return
        scores = np.array(rows)
        # By max and min: the deviation of equal numbers need not be 0 in floating point.
        differ = scores.max(axis=0) > scores.min(axis=0)
        mean, spread = scores.mean(axis=0), np.where(differ, scores.std(axis=0), 0.0)
        without = self._spread == 0
        self._mean, self._spread = (
            np.where(without, mean, self._mean),
            np.where(without, spread, self._spread),
        )

    def _standardised(self, scores: tuple[float, ...]) -> float:
        """The mean over members; one that has said the same of all answers so far has no say."""
        spread = self._spread
        shifted = np.where(spread > 0, np.array(scores) - self._mean, 0.0)
        return float((shifted / np.where(spread > 0, spread, 1.0)).mean())


@dataclass
class MeanReward:
    """The members of one ensemble run, which score in the same unit."""

    nats: ClassVar[bool] = True
    name: str
    """The run."""
    members: tuple[ScoringJudge, ...]
    opinions: dict[Answer, tuple[float, ...]] = field(default_factory=dict)
    """[M] rewards by answer, of all answers that every member could read."""

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """The mean reward; unreadable where it is so for any member."""
        rows = _asked(self.members, answers, self.opinions)
        return [row if isinstance(row, Unreadable) else float(np.mean(row)) for row in rows]

    def agreement(self, pairs: Iterable[tuple[Answer, Answer]]) -> tuple[str, ...]:
        """As for an `Ensemble`."""
        return _agreement(self.opinions, pairs)

    def margin(self, a: Answer, b: Answer) -> FloatArray:
        """[M] each member's reward of `a` less that of `b`, both read before, in nats."""
        return np.subtract(self.opinions[a], self.opinions[b])


Averaged = Ensemble | MeanReward
"""Judges that are several."""


def _asked(
    members: Sequence[ScoringJudge], answers: Sequence[Answer], opinions: dict[Answer, tuple[float, ...]]
) -> list[tuple[float, ...] | Unreadable]:
    """All members' scores of each answer; those that all could read are kept in `opinions`."""
    columns = [member.score(answers) for member in members]
    rows = [_together(row) for row in zip(*columns, strict=True)]
    for answer, row in zip(answers, rows, strict=True):
        if not isinstance(row, Unreadable):
            opinions[answer] = row
    return rows


def _agreement(
    opinions: dict[Answer, tuple[float, ...]], pairs: Iterable[tuple[Answer, Answer]]
) -> tuple[str, ...]:
    both = [(opinions.get(a), opinions.get(b)) for a, b in pairs if a != b]
    read = sorted((a, b) for a, b in both if a is not None and b is not None)
    if not read:
        return ()
    members = len(read[0][0])
    votes = [[_vote(a[member], b[member]) for a, b in read] for member in range(members)]
    share = raw_agreement(votes, seed=0).quoted.percent_of("pairs of answers")
    alpha = ""
    if len({vote for row in votes for vote in row}) > 1:
        alpha = f"; Krippendorff's alpha is {nominal_alpha(votes, seed=0).text()}, where 0 is chance"
    return (f"The {members} judges that are averaged agree on {share}{alpha}.",)


def _vote(a: float, b: float) -> Preferred:
    if a == b:
        return "tie"
    return "a" if a > b else "b"


def _together(row: tuple[Scored, ...]) -> tuple[float, ...] | Unreadable:
    """All members' scores of one answer, or why one of them gives none."""
    scores = [one for one in row if not isinstance(one, Unreadable)]
    if len(scores) == len(row):
        return tuple(scores)
    return next(one for one in row if isinstance(one, Unreadable))
