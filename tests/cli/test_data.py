"""The `data` commands: what they print, and how they exit."""

import json

import pytest
from typer.testing import CliRunner

from trimtab.cli import data
from trimtab.cli.data import app
from trimtab.data.tokens import Response
from trimtab.errors import DataError

PAIR = {"prompt": "p", "chosen": "yes", "rejected": "[b]no[/b]"}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def good(tmp_path):
    (tmp_path / "good.jsonl").write_text(json.dumps(PAIR) + "\n")
    return tmp_path / "good.jsonl"


def test_check_of_good_data(good):
    result = run("check", good)
    assert result.exit_code == 0
    assert "no defects" in result.stdout and "the shorter reply wins 100.0%" in result.stdout


def test_check_names_the_defect_and_exits_with_1(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps({**PAIR, "chosen": "[b]no[/b]"}) + "\n")
    result = run("check", path)
    assert result.exit_code == 1
    assert f"{path}:2 [rejected]: identical pair: `chosen` and `rejected` are the same text" in result.stdout
    assert "  found: '[b]no[/b]' on both sides\n  fix:   drop the row" in result.stdout
    assert "leaves the row out" in result.stdout


def test_a_warning_exits_with_0(good):
    result = run("check", good, "--max-response", "1")
    assert result.exit_code == 0
    assert "too long" in result.stdout and "keeps the row" in result.stdout


def test_leakage_between_files_exits_with_1(good, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"prompt": "p"}\n')
    result = run("check", good, tmp_path / "other.jsonl", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1 and report["failed"]
    assert report["leaks"][0]["what"] == f"the same prompt is in {good}:1"
    assert report["leaks"][0]["effect"] == "stops"


def test_a_missing_file_is_an_error_for_people(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        run("check", tmp_path / "x.jsonl")


def test_stats(good):
    (described,) = json.loads(run("stats", good, "--json").stdout)
    assert described["records"] == {"comparisons": 1} and described["characters"]["rejected"]["maximum"] == 9
    assert "1 comparisons" in run("stats", good).stdout


class Letters:
    """Stands in for a model's codec: a token is a letter, 0 stops."""

    tokenizer = property(lambda self: self)

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids):
        return "".join(chr(token) if token else "<stop>" for token in ids)

    def encode_prompt(self, prompt, limit):
        return tuple(map(ord, prompt))[-limit:], len(prompt) > limit

    def encode_response(self, prompt, response, limit):
        ids = (*map(ord, response), 0)
        return Response(ids, True) if len(ids) <= limit else Response(ids[:limit], False)


@pytest.fixture
def letters(monkeypatch):
    monkeypatch.setattr("trimtab.model.load.load_tokenizer", lambda name: Letters())


def test_preview_shows_ids_tokens_and_mask(good, letters):
    (shown,) = json.loads(run("preview", good, "--model", "m", "--max-response", "4", "--json").stdout)
    assert shown["where"] == f"{good}:1"
    assert shown["parts"][0] == {"part": "prompt", "cut": False, "ids": [112], "tokens": ["p"], "mask": [0]}
    assert shown["parts"][1]["tokens"] == ["y", "e", "s", "<stop>"]
    assert shown["parts"][1]["mask"] == [1, 1, 1, 1]
    assert shown["parts"][2] == {
        "part": "rejected",
        "cut": True,
        "ids": [91, 98, 93, 110],
        "tokens": ["[", "b", "]", "n"],
        "mask": [1, 1, 1, 1],
    }
    printed = run("preview", good, "--model", "m", "--max-response", "4").stdout
    assert "rejected (cut)" in printed and "'<stop>'" in printed and "'['" in printed


def test_lengths_in_tokens_come_from_the_model(good, letters):
    (described,) = json.loads(run("stats", good, "--model", "m", "--json").stdout)
    assert described["tokens"]["rejected"]["maximum"] == 9


def test_every_command_has_an_example():
    for command in app.registered_commands:
        assert "Example: trimtab data " in command.callback.__doc__
    assert (data.LIMITS.prompt, data.LIMITS.response) == (192, 64)
