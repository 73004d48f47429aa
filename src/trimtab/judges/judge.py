"""What every judge that gives numbers has in common: answers in, one score an answer out.

Scores are compared between answers to one prompt and nowhere else; `judges.verdicts` turns two of them into
a verdict. Judges that see both answers at once (people, language models) give verdicts only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.errors import ModelError
from trimtab.records import Comparison, Prompt


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to be scored, as text, and whether it had come to its end."""

    prompt: Prompt
    text: str
    stopped: bool = True
    question: bool = False
    """Whether a plain-text prompt is what a person asked, as in RewardBench, and not text to continue."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of a score: why this judge cannot read the answer."""

    reason: str


Scored = float | Unreadable


class ScoringJudge(Protocol):
    """Something that gives each answer a number, the higher the better."""

    @property
    def name(self) -> str:
        """Under which its verdicts are kept."""
        ...

    @property
    def nats(self) -> bool:
        """Whether sigma(difference of two scores) is meant as a probability, so that it can be calibrated."""
        ...

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One score an answer, in order; it does not depend on the answers beside it unless it says so."""
        ...


def both_answers(comparison: Comparison) -> tuple[Answer, Answer]:
    """The two responses of a comparison, as they stand."""
    return (
        Answer(comparison.prompt, comparison.a, comparison.stopped_a),
        Answer(comparison.prompt, comparison.b, comparison.stopped_b),
    )


def require_finite(answers: Sequence[Answer], found: Sequence[Scored], judge: str) -> None:
    """Refuse scores with which nothing can be compared.

    Raises:
        ModelError: a score is infinite or NaN.
    """
    for answer, score in zip(answers, found, strict=True):
        if not isinstance(score, Unreadable) and not math.isfinite(score):
            raise ModelError(
                "the judge gives a score that is not finite",
                where=judge,
                found=f"{score} for the answer {answer.text[:60]!r}",
                fix="see that its weights are whole; train it again with a lower learning rate",
            )
