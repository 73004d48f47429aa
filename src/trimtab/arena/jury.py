"""Who judges a comparison: one seam for judges that score each answer and for those that see both at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trimtab.config import build, read_yaml
from trimtab.errors import ConfigError
from trimtab.judges import llm
from trimtab.judges.ensemble import Averaged
from trimtab.judges.judge import Answer, Scored, ScoringJudge, Unreadable, both_answers
from trimtab.judges.llm_settings import LLMJudgeSettings
from trimtab.judges.named import load_judge
from trimtab.judges.verdicts import verdict_or_reason
from trimtab.model.device import Numerics
from trimtab.records import Comparison, Verdict

LLM = "llm:"


class Jury(Protocol):
    """Verdicts on comparisons, and scores where the judge works by them."""

    @property
    def name(self) -> str:
        """Under which its verdicts are kept."""
        ...

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict | Unreadable]:
        """One verdict a comparison, in order, or why there is none."""
        ...

    def scores(self, answers: Sequence[Answer]) -> list[float | None]:
        """One score an answer; None where the judge gives none."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What people should know about how it judged."""
        ...


@dataclass
class ScoringJury:
    """A judge that gives each answer a number; every answer is scored once, however often it is compared."""

    judge: ScoringJudge
    known: dict[Answer, Scored] = field(default_factory=dict)
    compared: set[tuple[Answer, Answer]] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The judge's own."""
        return self.judge.name

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict | Unreadable]:
        """The higher score wins."""
        pairs = [both_answers(comparison) for comparison in comparisons]
        self.compared |= set(pairs)
        self._score([answer for pair in pairs for answer in pair])
        return [
            verdict_or_reason(comparison, self.known[a], self.known[b], judge=self.name)
            for comparison, (a, b) in zip(comparisons, pairs, strict=True)
        ]

    def scores(self, answers: Sequence[Answer]) -> list[float | None]:
        """One number an answer; None for one that the judge cannot read."""
        self._score(answers)
        found = [self.known[answer] for answer in answers]
        return [None if isinstance(one, Unreadable) else one for one in found]

    def notes(self) -> tuple[str, ...]:
        """Where several are averaged: how far they agree with each other."""
        return self.judge.agreement(self.compared) if isinstance(self.judge, Averaged) else ()

    def _score(self, answers: Sequence[Answer]) -> None:
        new = [answer for answer in dict.fromkeys(answers) if answer not in self.known]
        if new:
            self.known |= dict(zip(new, self.judge.score(new), strict=True))


@dataclass
class LLMJury:
    """A language model behind an endpoint, asked in both orders."""

    settings: LLMJudgeSettings
    said: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Model and question."""
        return self.settings.judge

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict | Unreadable]:
        """What both orders agree on; a tie where they differ; none where one failed."""
        judged = llm.judge(comparisons, self.settings, name="asking the judge")
        self.said += [*judged.report.lines(), *judged.notes]
        return [one.verdict or Unreadable(one.reason) for one in judged.judgments]

    def scores(self, answers: Sequence[Answer]) -> list[float | None]:
        """It gives none."""
        return [None] * len(answers)

    def notes(self) -> tuple[str, ...]:
        """What each round of questions came to: position bias, consistency, price."""
        return tuple(self.said)


def load_jury(names: Sequence[str], numerics: Numerics) -> Jury:
    """The jury of one judge's name, or of several that score.

    A name is `llm:SETTINGS.yaml`, or as `load_judge` takes it.

    Raises:
        ConfigError: a language model beside another judge, or a name that means nothing.
        ModelError: a model cannot be read.
    """
    asked = [name for name in names if name.startswith(LLM)]
    if not asked:
        return ScoringJury(load_judge(tuple(names), numerics))
    if len(names) > 1:
        raise ConfigError(
            "a language model judges alone: it gives verdicts, and scores cannot be averaged with them",
            where="judge",
            found=", ".join(names),
            fix="name one judge, and compare the reports",
        )
    path = Path(asked[0].removeprefix(LLM))
    return LLMJury(build(LLMJudgeSettings, read_yaml(path), where=str(path)))
