"""Disagreement of an averaged judge against counts by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from trimtab.evaluation.disagreement import disagreement, sentences
from trimtab.judges.ensemble import Ensemble, MeanReward
from trimtab.judges.judge import Answer, Scored, Unreadable


@dataclass(frozen=True)
class Table:
    """A judge with a score for each text; cannot read others."""

    scores: dict[str, float]
    name: str = "table"
    nats: bool = True

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        return [self.scores.get(one.text, Unreadable("unknown")) for one in answers]


FIRST = Table({"a": 3.0, "b": 1.0, "c": 0.0, "d": 1.0, "e": 2.0, "f": 2.0})
SECOND = Table({"a": 2.0, "b": 1.0, "c": 4.0, "d": 1.0, "e": 0.0, "f": 1.0})
TEXTS = (("a", "b"), ("c", "d"), ("e", "f"), ("a", "?"))
PAIRS = [(Answer("p", one), Answer("p", other)) for one, other in TEXTS]


def read(judge: MeanReward | Ensemble) -> None:
    judge.score([answer for pair in PAIRS for answer in pair])


def test_counts_of_members_that_share_a_unit() -> None:
    judge = MeanReward("runs/reward", (FIRST, SECOND))
    read(judge)
    found = disagreement(judge, PAIRS, seed=0)
    # Margins: 2 and 1; -1 and 3; 0 and -1. The last pair cannot be read.
    assert found is not None and [one.estimate for one in found.members] == pytest.approx([1 / 3, 2 / 3])
    half = 0.5**0.5
    assert found.spread.estimate == pytest.approx((1 * half + 4 * half + 1 * half) / 3)
    assert found.unanimous.estimate == pytest.approx(1 / 3), "a tie agrees with nobody"
    assert found.accuracy_unanimous is not None and found.accuracy_unanimous.estimate == 1
    assert found.accuracy_split is not None and (found.accuracy_split.estimate, found.accuracy_split.n) == (
        0.5,
        2,
    )
    said = sentences(found, "nats")
    assert "1.41" in said[1] and "nats" in said[1] and " there and on " in said[2]


def test_members_of_different_units_are_brought_to_one() -> None:
    large = Table({text: 100 * score for text, score in SECOND.scores.items()})
    same, scaled = Ensemble((FIRST, SECOND)), Ensemble((FIRST, large))
    for judge in (same, scaled):
        read(judge)
    first, second = disagreement(same, PAIRS, seed=0), disagreement(scaled, PAIRS, seed=0)
    assert first is not None and second is not None
    assert first.spread.estimate == pytest.approx(second.spread.estimate)
    seven = (3, 1, 0, 1, 2, 2, 3)  # the readable answers of the pairs, `a` twice
    spread = (sum((one - 12 / 7) ** 2 for one in seven) / 7) ** 0.5
    assert same.margin(*PAIRS[0])[0] == pytest.approx(2 / spread)


def test_one_pair_has_no_interval() -> None:
    judge = MeanReward("runs/reward", (FIRST, SECOND))
    read(judge)
    assert disagreement(judge, PAIRS[:1], seed=0) is None
    assert disagreement(judge, PAIRS[2:], seed=0) is None


def test_agreement_is_said_of_a_mean_too() -> None:
    judge = MeanReward("runs/reward", (FIRST, SECOND))
    read(judge)
    assert "The 2 judges that are averaged agree" in judge.agreement(PAIRS)[0]
    assert judge.agreement([]) == ()
