"""`trimtab eval` by its commands: what reaches the settings, what is left out and said, where that goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trimtab import formats
from trimtab.cli.main import app
from trimtab.evaluation import demonstrations as evaluation
from trimtab.evaluation import encoder
from trimtab.records import Demonstration

RUNNER = CliRunner()
ROWS = [
    Demonstration(prompt="one", response="a b c", keywords=("b", "zebra")),
    Demonstration(prompt="two two", response="d", keywords=("d",)),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "shown.jsonl"
    formats.write_demonstrations(path, ROWS)
    return path


@pytest.fixture
def without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_installed", lambda module: False)


def words(model: Path, data: Path, *more: str) -> list[str]:
    folder = str(data.parent / "scores")
    given = ["eval", "demonstrations", str(model), "--data", str(data), "--out", folder]
    return [*given, "--device", "cpu", "--max-new", "4", *more]


@pytest.mark.usefixtures("without_encoder")
def test_without_an_encoder_the_rest_is_measured_and_the_lack_said(model_folder: Path, data: Path) -> None:
    done = RUNNER.invoke(app, words(model_folder, data, "--json"))
    assert done.exit_code == 0, done.output
    assert "pip install trimtab[embedding]" in done.stderr and "--encoder none" in done.stderr
    names = [score["name"] for score in json.loads(done.stdout)["models"][0]["closeness"]]
    assert "rouge_l" in names and "embedding" not in names


@pytest.mark.usefixtures("without_encoder")
def test_an_encoder_that_is_not_wanted_is_not_missed(model_folder: Path, data: Path) -> None:
    done = RUNNER.invoke(app, words(model_folder, data, "--encoder", "none"))
    assert done.exit_code == 0, done.output
    assert done.stderr == ""


@pytest.mark.usefixtures("without_encoder")
def test_an_encoder_that_is_named_must_be_there(model_folder: Path, data: Path) -> None:
    done = RUNNER.invoke(app, words(model_folder, data, "--encoder", str(model_folder)))
    assert "needs sentence-transformers" in str(done.exception)


def test_keywords_go_from_the_file_to_the_table(model_folder: Path, data: Path) -> None:
    done = RUNNER.invoke(app, words(model_folder, data, "--encoder", "none"))
    assert done.exit_code == 0, done.output
    assert "share of the keywords found" in done.stdout
    lines = [json.loads(line) for line in (data.parent / "scores" / "scores.jsonl").read_text().splitlines()]
    assert all(isinstance(line["keywords"], float) for line in lines)


def test_a_file_without_keywords_shows_none(model_folder: Path, data: Path) -> None:
    formats.write_demonstrations(
        data, [Demonstration(prompt=row.prompt, response=row.response) for row in ROWS]
    )
    done = RUNNER.invoke(app, words(model_folder, data, "--encoder", "none"))
    assert done.exit_code == 0, done.output
    assert "share of the keywords" not in done.stdout and "rouge_l" in done.stdout


def test_passages_that_are_left_out_are_named(model_folder: Path, data: Path) -> None:
    text = data.parent / "plain.txt"
    text.write_text("a\n\nsome words here\n\nmore words here")
    done = RUNNER.invoke(app, words(model_folder, data, "--encoder", "none", "--text", str(text)))
    assert done.exit_code == 0, done.output
    assert f"{text}: 1 passage of one token is left out" in done.stderr


def test_the_longest_prompt_is_an_option(
    model_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(settings: object, encode: object) -> None:
        seen.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", stop)
    RUNNER.invoke(app, words(model_folder, data, "--encoder", "none", "--max-prompt", "77"))
    assert [(one.max_prompt, one.max_response) for one in seen] == [(77, 4)]


def test_one_demonstration_is_no_traceback(model_folder: Path, data: Path) -> None:
    formats.write_demonstrations(data, ROWS[:1])
    done = RUNNER.invoke(app, words(model_folder, data, "--encoder", "none"))
    assert "an interval needs at least two demonstrations" in str(done.exception)


def benchmark(path: Path, *rows: dict[str, object]) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taste = path.parent / "taste.py"
    taste.write_text("def length(prompt, response):\n    return float(len(response))\n")
    out = str(path.parent / "card")
    return ["eval", "reward", f"python:{taste}:length", "--data", str(path), "--out", out]


GOOD = {"prompt": "p", "chosen": "aaa", "rejected": "b", "subset": "x"}


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    tie = {"prompt": "p", "a": "aaa", "b": "b", "verdict": {"preferred": "tie"}}
    done = RUNNER.invoke(app, benchmark(tmp_path / "b.jsonl", GOOD, {**GOOD, "prompt": " "}, tie))
    assert done.exit_code == 0, done.output
    assert f"2 rows are left out, such as {tmp_path}/b.jsonl:2: empty prompt" in done.stdout.replace("\n", "")
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert [where for where, _ in card["left_out"]] == [f"{tmp_path}/b.jsonl:2", f"{tmp_path}/b.jsonl:3"]


def test_both_benchmarks_in_one_file_are_refused(tmp_path: Path) -> None:
    second = {"prompt": "p", "chosen": ["aaa"], "rejected": ["b", "c", "d"], "subset": "Math", "id": "1"}
    done = RUNNER.invoke(app, benchmark(tmp_path / "b.jsonl", GOOD, second))
    assert "pairs and best-of-n rows cannot be scored together" in str(done.exception)
    assert f"{tmp_path}/b.jsonl:2" in str(done.exception)
