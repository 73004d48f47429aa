"""All that a report says, as plain data: what `report.html` shows and `report.json` holds.

The tables are made here, as rows of text, so that the page and the command line print the same
numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trimtab.arena.cost import StageCost
from trimtab.arena.winrate import JudgeQuality, Match, headline, verdict
from trimtab.errors import DataError
from trimtab.records import Prompt
from trimtab.statistics.intervals import Interval

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy on the held-out prompts. Means and intervals are over prompts."""

    name: str
    method: str
    """sft, ppo, dpo."""
    prompts: int
    judge_reward: Interval
    """Mean score by the headline judge, in its own units."""
    proxy_reward: Interval | None
    """Mean score by PPO's own reward model, in its own units; None when there is no such model."""
    kl: Interval
    """KL(policy || reference), nats per response, on fresh samples; 0 for the reference itself."""
    response_tokens: Interval
    """Mean length of a response, the stop token included."""
    stopped: Interval
    """Share of responses that ended by themselves and not at the length limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One policy's response to one prompt."""

    policy: str
    text: str
    judge_score: float
    proxy_score: float | None
    kl: float
    """KL(policy || reference) along this response, over the whole vocabulary at each token, nats."""
    tokens: int
    ended: str
    """How it ended, such as `stop` or `length`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt with what each policy answered."""

    prompt: Prompt
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of one stage over its steps."""

    stage: str
    metric: str
    points: tuple[tuple[int, float | None], ...]
    """(step, value); None where the value was not a finite number."""


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
    costs: tuple[StageCost, ...] = ()
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
        return headline(self.matches[0], self.judge)


def curve(stage: str, metric: str, rows: Iterable[Mapping[str, object]]) -> Curve:
    """`metric` over the steps of a run's metric rows; rows without a number for it are skipped."""
    points = []
    for row in rows:
        step, value = row.get("step"), row.get(metric)
        if isinstance(step, int) and isinstance(value, int | float):
            points.append((step, float(value) if math.isfinite(value) else None))
    return Curve(stage=stage, metric=metric, points=tuple(points))


def summary_rows(findings: Findings) -> Rows:
    """The policies as a table of text, its head first."""
    head = ("policy", "prompts", "judge reward", "proxy reward", "KL, nats", "tokens", "stopped")
    return [
        head,
        *(
            (
                policy.name,
                str(policy.prompts),
                policy.judge_reward.text(),
                policy.proxy_reward.text() if policy.proxy_reward else "none",
                policy.kl.text(),
                policy.response_tokens.text(1),
                policy.stopped.percent(),
            )
            for policy in findings.policies
        ),
    ]


def match_rows(findings: Findings) -> Rows:
    """The matches as a table of text, its head first."""
    head = ("policy", "against", "preferred", "wins", "ties", "losses", "verdict")
    return [
        head,
        *(
            (
                match.left,
                match.right,
                match.win_rate.percent(),
                str(match.wins),
                str(match.ties),
                str(match.losses),
                verdict(match, findings.judge),
            )
            for match in findings.matches
        ),
    ]


def limits(findings: Findings) -> tuple[str, ...]:
    """What the numbers do not show, the comparison's own caveats last."""
    runs = "One training run" if findings.seeds == 1 else f"{findings.seeds} training runs"
    said = [
        f"{runs} of each method. The intervals say what other prompts could change; what another "
        "seed could change is not in them.",
        "The judge is a model. Its verdicts count for as much as its agreement with people, shown "
        "at the top, and rewards have units of their own: compare them within a column.",
        "The judge, PPO's reward model and both policies all begin from the same SFT model, so their errors "
        "are not independent. A PPO run is also told, by a penalty, not to run into the length limit.",
    ]
    if any(policy.proxy_reward for policy in findings.policies):
        said.append(
            "The proxy is the reward model that PPO was trained on: a high proxy reward alone is no merit."
        )
    if len(findings.matches) > 1:
        said.append(
            f"{len(findings.matches)} win rates are shown and each interval stands alone: the chance "
            "that at least one of them misses is larger."
        )
    return (*said, *findings.caveats)


def to_json(findings: Findings) -> str:
    """The findings as JSON, the headline written out for other readers.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.
    """
    fields = {"headline": findings.headline, **asdict(findings)}
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
