"""The judging of a comparison: every pair once, the unreadable counted, the judge tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from trimtab import formats
from trimtab.arena.judging import examine, gaps, judge_matches, scores_of
from trimtab.arena.jury import LLMJury, ScoringJury, load_jury
from trimtab.arena.play import Played
from trimtab.arena.texts import distinct, repetition
from trimtab.data.tokens import Response
from trimtab.errors import ConfigError, DataError
from trimtab.judges.ensemble import Ensemble
from trimtab.judges.judge import Answer, Scored, Unreadable
from trimtab.model.device import Numerics
from trimtab.records import Comparison, Verdict
from trimtab.rollout.types import Rollout
from trimtab.statistics.intervals import wilson


@dataclass
class Lengths:
    """Likes long answers; cannot read those with a question mark."""

    name: str = "lengths"
    nats: bool = False
    asked: list[Answer] = field(default_factory=list)

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        self.asked += answers
        return [Unreadable("a question") if "?" in one.text else float(len(one.text)) for one in answers]


class FakeRun:
    """Keeps what was left out."""

    def __init__(self) -> None:
        self.left_out: list[tuple[str, str]] = []

    def leave_out(self, rows: list[tuple[str, str]]) -> None:
        self.left_out += rows


def played(name: str, *texts: str) -> Played:
    rollouts = [Rollout((1,), Response((2,), index % 2 == 0), (0.0,)) for index in range(len(texts))]
    return Played(name, rollouts, list(texts), [0.0] * len(texts))


PLAYED = [played("dpo", "four", "a?", "xy"), played("ppo", "one", "b", "xy"), played("sft", "", "cc", "z")]
PROMPTS = ["p0", "p1", "p2"]


def test_every_pair_of_policies_is_judged_on_every_prompt() -> None:
    run, judge = FakeRun(), Lengths()
    jury = ScoringJury(judge)
    scores = scores_of(jury, PLAYED, PROMPTS)
    found = judge_matches(jury, PLAYED, PROMPTS, scores, run)  # type: ignore[arg-type]
    assert [(one.left, one.right) for one in found] == [("dpo", "ppo"), ("dpo", "sft"), ("ppo", "sft")]
    assert [one.outcomes for one in found] == [[1.0, None, 0.5], [1.0, None, 1.0], [1.0, 0.0, 1.0]]
    assert found[0].scores == [(4.0, 3.0), None, (2.0, 2.0)]
    first = found[0].comparisons[1]
    assert (first.a, first.source_a, first.b, first.source_b) == ("a?", "dpo", "b", "ppo")
    assert (first.stopped_a, found[0].comparisons[0].stopped_a) == (False, True)
    assert run.left_out == [
        ("prompt 2, dpo against ppo", "a question"),
        ("prompt 2, dpo against sft", "a question"),
    ]
    # "xy" on p2 is one answer, whoever gave it: both ended by themselves.
    assert len(judge.asked) == len(set(judge.asked)) == 8


def test_scores_are_by_policy_and_prompt() -> None:
    found = scores_of(ScoringJury(Lengths()), PLAYED, PROMPTS)
    assert found == {"dpo": [4.0, None, 2.0], "ppo": [3.0, 1.0, 2.0], "sft": [0.0, 2.0, 1.0]}
    spread = (sum((v - 15 / 8) ** 2 for v in (4, 2, 3, 1, 2, 0, 2, 1)) / 8) ** 0.5
    assert gaps(found, "dpo", "ppo") == [pytest.approx(1 / spread), None, 0.0]
    assert gaps({"a": [None], "b": [None]}, "a", "b") == [None]


def pair(chosen: str, rejected: str, preferred: str = "a") -> Comparison:
    a, b = (chosen, rejected) if preferred == "a" else (rejected, chosen)
    return Comparison(prompt="p", a=a, b=b, verdict=Verdict(preferred=preferred))  # type: ignore[arg-type]


def test_a_judge_is_tested_on_what_people_chose() -> None:
    pairs = [
        pair("long", "s"),
        pair("s", "long", "b"),
        pair("same", "four"),
        pair("why?", "s"),
        pair("abc", "d", "b"),
    ]
    undecided = Comparison(prompt="p", a="x", b="yy", verdict=Verdict(preferred="tie"))
    rows = [formats.Row(one, "h.jsonl", line) for line, one in enumerate([*pairs, undecided], start=1)]
    run = FakeRun()
    quality, card = examine(ScoringJury(Lengths()), rows, run, seed=0, by="people", role="judge")  # type: ignore[arg-type]
    # Right, wrong, a tie, right; and so says “the longer reply wins”, the better of the two rules.
    assert quality.accuracy.estimate == pytest.approx(2.5 / 4) and quality.ties == 1
    assert quality.rule_name == "the longer reply wins" and quality.rule.n == 4
    assert run.left_out == [("h.jsonl:4", "a question")]
    assert card is not None and card.role == "judge" and card.quality.ties == 1
    assert (
        card.quality.accuracy == wilson(2, 4) and card.quality.calibration is None
    )  # characters are no nats
    assert card.quality.longer_chosen == wilson(2, 2) and card.quality.shorter_chosen == wilson(0, 1)


def test_a_judge_that_can_read_nothing_ends_it() -> None:
    rows = [formats.Row(pair("why?", "s"), "h.jsonl", 1)]
    with pytest.raises(DataError, match="the judge can read none of the held-out pairs"):
        examine(ScoringJury(Lengths()), rows, FakeRun(), seed=0, by="people", role="judge")  # type: ignore[arg-type]


def test_a_language_model_judges_alone(tmp_path: Path) -> None:
    import torch

    numerics = Numerics(torch.device("cpu"), None)
    settings = tmp_path / "judge.yaml"
    settings.write_text("model: some-model\n")
    jury = load_jury((f"llm:{settings}",), numerics)
    assert isinstance(jury, LLMJury) and jury.name == "some-model (helpfulness)"
    assert jury.scores([Answer("p", "t")]) == [None] and jury.notes() == ()
    with pytest.raises(ConfigError, match="a language model judges alone"):
        load_jury((f"llm:{settings}", "runs/judge"), numerics)


@dataclass
class Votes:
    """Scores by answer text, as written down."""

    name: str
    scores: dict[str, float]
    nats: bool = False

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        return [self.scores.get(one.text, Unreadable("unknown")) for one in answers]


def test_judges_that_are_averaged_say_how_far_they_agree() -> None:
    short = {"a": 1.0, "bb": 2.0, "ccc": 3.0, "dddd": 4.0, "no opinion": 0.0}
    other = {**short, "a": 2.5, "ccc": 3.0, "dddd": 3.0}
    del other["no opinion"]
    jury = ScoringJury(Ensemble((Votes("one", short), Votes("two", other))))
    assert jury.notes() == ()
    pairs = [("a", "bb"), ("bb", "ccc"), ("ccc", "dddd"), ("a", "dddd"), ("bb", "bb"), ("a", "no opinion")]
    jury.verdicts([Comparison(prompt="p", a=a, b=b) for a, b in pairs])
    (note,) = jury.notes()
    # They differ on a-bb, and on ccc-dddd, which is a tie to the second; equal and unread pairs do not count.
    assert note.startswith("The 2 judges that are averaged agree on 50.0\u00a0% of 4 pairs of answers")
    # Coincidences: b-b twice (4 ratings), a-b and tie-b once each; observed 4/8, expected by counts 6 b, 1 a,
    # 1 tie: (36 - 6) / 56 alike.
    assert "alpha is \u22120.08 [" in note
    assert pytest.approx(-0.0769, abs=1e-4) == 1 - (4 / 8) / (1 - 30 / 56)


def test_repetition_counts_stretches_that_came_before() -> None:
    assert repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert repetition("x x x x x") == pytest.approx(2 / 3)
    assert repetition("a b c d") == repetition("a b") == repetition("") == 0.0


def test_distinct_pairs_of_words_over_all_texts() -> None:
    assert distinct(["a b c", "a b d"]) == pytest.approx(3 / 4)
    assert distinct(["a a a"], words=1) == pytest.approx(1 / 3)
    assert distinct(["one", ""]) == 0.0
