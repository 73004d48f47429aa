"""A judge on rows whose answer is known: scores land on their responses, files and page hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trimtab.cli.main import app
from trimtab.errors import DataError
from trimtab.evaluation import reward, reward_results
from trimtab.formats.rewardbench import BenchmarkRow
from trimtab.formats.rows import Row
from trimtab.judges.judge import Answer, Scored, Unreadable

HOSTILE = "<script>alert(1)</script>"


class Lengths:
    """Likes long answers; cannot read those with a question mark."""

    name = f"lengths {HOSTILE}"

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
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
    assert "1 rows could not be read" in html and 'data-figure="calibration"' in html


def test_the_command_prints_what_it_writes(tmp_path: Path) -> None:
    data, taste = tmp_path / "held-out.jsonl", tmp_path / "taste.py"
    lines = [{"prompt": "p", "chosen": "c" * (9 - i), "rejected": "rrrrr"} for i in range(8)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    taste.write_text("def length(prompt, response):\n    return len(response)\n")
    words = ["eval", "reward", f"python:{taste}:length", "--data", str(data), "--out", str(tmp_path / "card")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "These rows: 50.0\u00a0%" in done.output and "all rows" in done.output
    assert "rejected is longer" in done.output and "Expected calibration error" in done.output
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1 and "the folder exists already" in str(again.exception)
