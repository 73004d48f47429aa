"""A judge on rows whose answer is known: scores land on their responses, files and page hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from trimtab.cli.main import app
from trimtab.errors import DataError
from trimtab.evaluation import reward, reward_results
from trimtab.evaluation.rewardbench_subsets import PUBLISHED
from trimtab.formats.rewardbench import WHOLE, BenchmarkRow
from trimtab.formats.rows import Row
from trimtab.judges.judge import Answer, Scored, Unreadable
from trimtab.statistics.calibration import Calibration, calibration, from_margins

HOSTILE = "<script>alert(1)</script>"


class Lengths:
    """Likes long answers; cannot read those with a question mark."""

    name = f"lengths {HOSTILE}"
    nats = True

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        self.asked += [one.question for one in answers]
        return [Unreadable("a question") if "?" in one.text else float(len(one.text)) for one in answers]


def pair(chosen: str, rejected: str, subset: str = "own") -> BenchmarkRow:
    return BenchmarkRow(prompt="p", chosen=(chosen,), rejected=(rejected,), form="pair", subset=subset)


def rows(*records: BenchmarkRow) -> list[Row[BenchmarkRow]]:
    return [Row(record, "bench.jsonl", line) for line, record in enumerate(records, start=1)]


GIVEN = rows(
    pair("long one", "short"),
    pair("no", "longer", HOSTILE),
    pair("what?", "x"),
    pair("same", "four"),
    pair("a bit longer", "short", HOSTILE),
)


def test_every_score_lands_on_its_response() -> None:
    found = reward.evaluate(Lengths(), GIVEN, seed=0)
    assert [(one.chosen, one.rejected) for one in found.results] == [
        ((8.0,), (5.0,)),
        ((2.0,), (6.0,)),
        ((4.0,), (4.0,)),
        ((12.0,), (5.0,)),
    ]
    assert found.card.accuracy.estimate == 0.5 and found.card.tied == 1
    assert found.left_out == (("bench.jsonl:3", "a question"),)
    assert found.calibration is not None
    certain = [1 / (1 + math.exp(-gap)) for gap in (3, 4, 0, 7)]
    seen = sum(one.mean_probability * one.count for one in found.calibration.bins)
    assert seen == pytest.approx(sum(certain))


def test_best_of_n_has_no_calibration() -> None:
    row = BenchmarkRow(
        prompt="p", chosen=("aaaa",), rejected=("b", "cc", "ddd"), form="best of n", subset="Math"
    )
    found = reward.evaluate(Lengths(), rows(row, row), seed=0)
    assert found.results[0].rejected == (1.0, 2.0, 3.0) and found.card.accuracy.estimate == 1
    assert found.calibration is None


def test_only_scores_in_nats_are_asked_for_calibration() -> None:
    judge = Lengths()
    judge.nats = False
    assert reward.evaluate(judge, GIVEN, seed=0).calibration is None


def test_a_judge_is_told_which_plain_text_a_person_asked() -> None:
    judge = Lengths()
    best = BenchmarkRow(prompt="p", chosen=("a",), rejected=("b", "c", "d"), form="best of n")
    reward.evaluate(judge, rows(pair("aa", "b", "hep-go"), pair("aa", "b", WHOLE)), seed=0)
    reward.evaluate(judge, rows(best), seed=0)
    assert judge.asked == [True, True, False, False, True, True, True, True]


def test_rows_that_cannot_be_scored_together_are_refused_before_scoring() -> None:
    judge = Lengths()
    best = BenchmarkRow(prompt="p", chosen=("a",), rejected=("b", "c", "d"), form="best of n", subset="Math")
    with pytest.raises(DataError, match="pairs and best-of-n rows cannot be scored together") as caught:
        reward.evaluate(judge, rows(pair("aa", "b"), pair("aa", "b"), best), seed=0)
    assert caught.value.where == "bench.jsonl:3" and "bench.jsonl:1 is pair" in caught.value.found
    alone = BenchmarkRow(
        prompt="p", chosen=("a",), rejected=("b",), form="best of n", subset="Ties", id="ref:1"
    )
    with pytest.raises(DataError, match="no question of the subset Ties has both of its rows"):
        reward.evaluate(judge, rows(alone), seed=0)
    with pytest.raises(DataError, match="twice"):
        reward.evaluate(judge, rows(alone, alone), seed=0)
    assert judge.asked == []


def test_whether_a_file_is_whole_is_told_by_its_rows_and_not_by_what_the_judge_can_read() -> None:
    given = [pair("long", "no", name) for name, size in PUBLISHED["RewardBench"].items() for _ in range(size)]
    given[0] = pair("what?", "no", given[0].subset)
    found = reward.evaluate(Lengths(), rows(*given), seed=0)
    assert len(found.results) == 2984 and found.card.incomplete == ()
    assert "whole benchmark" not in " ".join(reward_results.sentences(found))
    found = reward.evaluate(Lengths(), rows(*given[:-1]), seed=0)
    assert found.card.incomplete == ("hep-rust",)
    assert "These rows are not the whole benchmark: 1 subset has another" in " ".join(
        reward_results.sentences(found)
    )


@pytest.mark.parametrize(("count", "left_out"), [(None, (2, 4)), (2, (2,)), (3, (2, 4)), (1, ())])
def test_rows_that_cannot_be_used_are_counted(
    tmp_path: Path, count: int | None, left_out: tuple[int, ...]
) -> None:
    path = tmp_path / "pairs.jsonl"
    good = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    tie = {"prompt": "p", "a": "yes", "b": "no", "verdict": {"preferred": "tie"}}
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in (good, {**good, "prompt": " "}, good, tie, good))
    )
    kept, missing = reward.read_rows(str(path), count)
    assert len(kept) == (count or 3)
    assert [where for where, _ in missing] == [f"{path}:{line}" for line in left_out]
    found = reward.evaluate(Lengths(), kept, seed=0, left_out=missing)
    assert found.left_out == missing
    if left_out:
        assert missing[0][1] == "empty prompt: the prompt is empty"
        rows_are = "1 row is" if len(left_out) == 1 else "2 rows are"
        assert f"{rows_are} left out, such as {path}:2: empty prompt" in reward_results.sentences(found)[-1]


def test_a_score_above_all_of_it_is_explained() -> None:
    ties = [
        BenchmarkRow(
            prompt="p", chosen=chosen, rejected=("b",), form="best of n", subset="Ties", id=f"{kind}:{index}"
        )
        for index in range(3)
        for kind, chosen in (("ref", ("aaaa",)), ("tied", ("aaaa", "cccc")))
    ]
    found = reward.evaluate(Lengths(), rows(*ties), seed=0)
    assert found.card.subsets[0].score.percent().startswith("101.0")
    assert "goes up to 101\u00a0%" in " ".join(reward_results.sentences(found))
    assert reward_results.sentences(reward.evaluate(Lengths(), rows(pair("aa", "b")), seed=0)) == ()


def calibrated(pairs: int, wrong: int, margin: float) -> Calibration:
    spread = np.linspace(margin - 0.01, margin + 0.01, pairs)
    return calibration(
        from_margins(np.where(np.arange(pairs) % (pairs // wrong) == 0, -spread, spread)), seed=0
    )


def test_calibration_is_judged_where_there_are_pairs_enough() -> None:
    alone = calibration(from_margins([1.0]), seed=0)
    said = reward_results.calibration_sentence(alone)
    assert "believed" not in said and "[" not in said
    assert said.startswith("Expected calibration error 26.9\u00a0%, noise included, which tells nothing yet")
    assert "that takes 100 pairs, and 20 on which" in said
    assert "so its probabilities are not to be believed" in reward_results.calibration_sentence(
        calibrated(200, 100, 2.2)
    )
    assert "which shows no miscalibration" in reward_results.calibration_sentence(calibrated(200, 20, 2.2))


def test_a_judge_that_can_read_nothing_ends_it() -> None:
    with pytest.raises(DataError, match="the judge can read none of the rows"):
        reward.evaluate(Lengths(), rows(pair("a?", "b")), seed=0)


def test_the_files_hold_it_and_hostile_text_is_text(tmp_path: Path) -> None:
    found = reward.evaluate(Lengths(), GIVEN, seed=0)
    reward_results.write(tmp_path / "card", found, f"bench {HOSTILE}")
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == [
        "card.json", "report.html", "scores.jsonl",
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "card" / "scores.jsonl").read_text().splitlines()]
    assert [line["credit"] for line in lines] == [1.0, 0.0, 0.0, 1.0]
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert card["accuracy"]["estimate"] == 0.5 and card["left_out"] == [["bench.jsonl:3", "a question"]]
    html = (tmp_path / "card" / "report.html").read_text()
    assert HOSTILE not in html and "&lt;script&gt;alert(1)" in html
    assert (
        "1 row is left out, such as bench.jsonl:3: a question." in html
        and 'data-figure="calibration"' in html
    )


def test_the_command_prints_what_it_writes(tmp_path: Path) -> None:
    data, taste = tmp_path / "held-out.jsonl", tmp_path / "taste.py"
    lines = [{"prompt": "p", "chosen": "c" * (9 - i), "rejected": "rrrrr"} for i in range(8)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    taste.write_text("def length(prompt, response):\n    return len(response)\n")
    words = ["eval", "reward", f"python:{taste}:length", "--data", str(data), "--out", str(tmp_path / "card")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "These rows: 50.0\u00a0%" in done.output and "all rows" in done.output
    assert "rejected is longer" in done.output
    assert "calibration" not in done.output  # lengths are no log-odds
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1 and "the folder exists already" in str(again.exception)
