"""What every judge that gives numbers has in common: answers in, one score an answer out.

Scores are compared between answers to one prompt and nowhere else; `judges.verdicts` turns two of them into
a verdict. Judges that see both answers at once (people, language models) give verdicts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.records import Comparison, Prompt


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to be scored, as text, and whether it had come to its end."""

    prompt: Prompt
    text: str
    stopped: bool = True


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

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One score an answer, in order; it does not depend on the answers beside it unless it says so."""
        ...


def both_answers(comparison: Comparison) -> tuple[Answer, Answer]:
    """The two responses of a comparison, as they stand."""
    return (
        Answer(comparison.prompt, comparison.a, comparison.stopped_a),
        Answer(comparison.prompt, comparison.b, comparison.stopped_b),
    )
