"""All that a report says, as plain data: what `report.html` shows and `report.json` holds.

What is made of it in words is in `arena.sentences`, the tables are in `arena.tables`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trimtab.arena.cost import HumanWork, StageCost, cost_phrase, is_cost_of
from trimtab.arena.winrate import CHANCE, JudgeQuality, Match, headline
from trimtab.errors import DataError
from trimtab.judges.quality import PairQuality
from trimtab.records import Prompt
from trimtab.statistics.intervals import Interval
from trimtab.statistics.ranking import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy on the held-out prompts. Means and intervals are over prompts."""

    name: str
    method: str
    """sft, ppo, dpo; `best of n`; model for one that no run made."""
    run: str
    """The run or model that it is; its last checkpoint is what answered."""
    seed: int | None
    """Of its training; None for a model that no run made."""
    prompts: int
    judge_reward: Interval | None
    """Mean score by the judge, in its own units; None for a judge that gives no scores."""
    proxy_reward: Interval | None
    """Mean score by PPO's own reward model, in its own units; None when there is no such model."""
    witness_reward: Interval | None = None
    """Mean score by another judge, in its own units; None when there is no such judge."""
    kl: Interval
    """KL(policy || reference), nats per response, on fresh samples; 0 for the reference itself."""
    response_tokens: Interval
    """Mean length of a response, the stop token included."""
    stopped: Interval
    """Share of responses that ended by themselves and not at the length limit."""
    repetition: Interval
    """Share of a response's 3-word stretches that occurred in it before."""
    distinct: float
    """Distinct pairs of words over all of them, in all responses together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One policy's response to one prompt."""

    policy: str
    text: str
    judge_score: float | None
    proxy_score: float | None
    kl: float
    """KL(policy || reference) along this response, over the whole vocabulary at each token, nats."""
    tokens: int
    ended: str
    """How it ended, such as `stop` or `length`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt with what each policy answered, and what the judge said of the two in the headline."""

    prompt: Prompt
    answers: tuple[Answer, ...]
    preferred: str = ""
    """The policy whose answer was preferred, `tie`, or empty where there is no verdict."""
    gap: float | None = None
    """How far the judge's two scores are apart, in standard deviations of all; None where it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCard:
    """How far a model that scores can be trusted, on pairs that people judged."""

    name: str
    role: str
    """judge or proxy."""
    quality: PairQuality


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of one stage over its steps."""

    stage: str
    metric: str
    points: tuple[tuple[int, float | None], ...]
    """(step, value); None where the value was not a finite number."""
    loss: str = ""
    """The preference loss that was trained with; empty for a stage that has but one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One setting, hash or parent that the results depend on."""

    group: str
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that one report shows."""

    title: str
    policies: tuple[PolicyResult, ...]
    matches: tuple[Match, ...]
    """The headline speaks of the first."""
    judge: JudgeQuality
    samples: tuple[Sample, ...] = ()
    ranking: Ranking | None = None
    """Of three policies and more."""
    cards: tuple[RewardCard, ...] = ()
    costs: tuple[StageCost, ...] = ()
    human: HumanWork | None = None
    curves: tuple[Curve, ...] = ()
    facts: tuple[Fact, ...] = ()
    seeds: int = 1
    """Training runs of each method, each with its own seed."""
    caveats: tuple[str, ...] = ()
    """Limits of this comparison alone; those that always hold are added by `limits`."""

    def __post_init__(self) -> None:
        names = [policy.name for policy in self.policies]
        if len(set(names)) != len(names):
            raise ValueError(f"two policies have the same name: {', '.join(names)}")
        if not self.matches:
            raise ValueError("a comparison has at least one match")
        spoken_of = {match.left for match in self.matches} | {match.right for match in self.matches}
        spoken_of |= {answer.policy for sample in self.samples for answer in sample.answers}
        if unknown := sorted(spoken_of - set(names)):
            raise ValueError(f"not among the policies: {', '.join(unknown)}")

    @property
    def headline(self) -> str:
        """The first sentence of the report."""
        match = self.matches[0]
        ahead = match.left if match.win_rate.estimate >= CHANCE else match.right
        behind = match.right if ahead == match.left else match.left
        return headline(match, self.judge, self.cost_phrase(ahead, behind))

    def cost_phrase(self, ahead: str, behind: str) -> str:
        """How much time one policy's method took beside the other's; empty where it is not known."""
        known = {policy.name: policy for policy in self.policies}
        pair = (known[ahead], known[behind])
        if not all(is_cost_of(self.costs, policy.method, policy.run) for policy in pair):
            return ""  # another run's cost says nothing of this one
        return cost_phrase(self.costs, pair[0].method, pair[1].method)


def curve(stage: str, metric: str, rows: Iterable[Mapping[str, object]], *, loss: str = "") -> Curve:
    """`metric` over the steps of a run's metric rows; rows without a number for it are skipped."""
    points = []
    for row in rows:
        step, value = row.get("step"), row.get(metric)
        if isinstance(step, int) and isinstance(value, int | float):
            points.append((step, float(value) if math.isfinite(value) else None))
    return Curve(stage=stage, metric=metric, points=tuple(points), loss=loss)


def to_json(findings: Findings, *, said: Mapping[str, object] | None = None) -> str:
    """The findings as JSON, the headline written out for other readers.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.

    Args:
        said: more that was made of them, for other readers too; it is not read back.
    """
    fields = {"headline": findings.headline, **({"said": said} if said else {}), **asdict(findings)}
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, indent=1)
    return text.encode("utf-8", errors="replace").decode("utf-8")


def from_json(text: str) -> Findings:
    """The findings that `to_json` wrote. Raises ValueError when it is not one."""
    return TypeAdapter(Findings).validate_json(text)


def read_findings(path: Path) -> Findings:
    """The findings in a `report.json`.

    Raises:
        DataError: no such file, or not a report.
    """
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            "there is no report here",
            where=str(path),
            found=str(error.strerror),
            fix="run trimtab compare first",
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(
            "this file is not a report that this version of trimtab can read",
            where=str(path),
            found=str(error).splitlines()[0],
            fix="run trimtab compare again",
        ) from error
