"""`trimtab judge` by its commands: what is left out and said, on the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from endpoint import Asked, Raw, Say, Server, scripted_endpoint


@pytest.fixture
def matches(tmp_path: Path) -> Path:
    """Two pairs that can be judged, one that formats leaves out, one that the judges below cannot read."""
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "aaa"},
        {"prompt": " ", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "aa", "rejected": "a"},
        {"prompt": "LONG", "chosen": "aa", "rejected": "a"},
    ]
    path = tmp_path / "matches.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[Server], Path]:
    def write(server: Server) -> Path:
        path = tmp_path / "judge.yaml"
        path.write_text(f"model: m\nbase_url: {server.url}\ncache: {tmp_path / 'cache'}\n")
        return path

    return write


def longest(asked: Asked) -> Say | Raw:
    if asked.part("prompt") == "LONG":
        return Raw(400, json.dumps({"error": {"message": "maximum context length exceeded"}}))
    first, second = (len(asked.part(f"response {which}")) for which in (1, 2))
    return Say(asked.verdict("1" if first > second else "2"))


def test_a_language_models_report_and_reasons_are_in_both_outputs(
    trimtab: Callable[..., Any], matches: Path, settings: Callable[[Server], Path], tmp_path: Path
) -> None:
    outs = [tmp_path / "one.jsonl", tmp_path / "other.jsonl"]
    with scripted_endpoint() as server:
        server.script = longest
        words = ("judge", matches, "--by", f"llm:{settings(server)}", "--device", "cpu")
        said = trimtab(*words, "--out", outs[0], "--json")
        shown = trimtab(*words, "--out", outs[1])
    assert said.code == shown.code == 0
    found = json.loads(said.out)
    assert found["verdicts"] == {"a": 1, "b": 1}
    assert [row["where"] for row in found["left out"]] == [f"{matches}:2", f"{matches}:4"]
    assert found["left out"][0]["reason"].startswith("empty prompt: ")
    assert "maximum context length exceeded" in found["left out"][1]["reason"]
    assert found["notes"][0].startswith("m (helpfulness) gave 2 of 3 verdicts: 1 for a, 1 for b")
    assert shown.out.splitlines()[-2] == "b: 1, a: 1, left out: 2"
    for row in found["left out"]:
        assert f"left out {row['where']}: {row['reason']}"[:60] in shown.err
    assert found["notes"][0] in shown.out
    for out in outs:
        assert [json.loads(line)["prompt"] for line in out.read_text().splitlines()] == ["p", "p"]


def test_a_judge_that_scores_says_what_it_cannot_read(
    trimtab: Callable[..., Any], scorer_folder: Path, tmp_path: Path
) -> None:
    matches = tmp_path / "m.jsonl"
    rows = [{"prompt": "p", "a": "x", "b": text} for text in ("y", "<|im_end|>", "z" * 3000)]
    matches.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("judge", matches, "--by", scorer_folder, "--device", "cpu", "--out", tmp_path / "j.jsonl")
    found = json.loads(trimtab(*words, "--json").out)
    assert sum(found["verdicts"].values()) == 1 and found["notes"] == []
    reasons = [row["reason"] for row in found["left out"]]
    assert "control token" in reasons[0] and "tokens, more than the" in reasons[1].replace(" together", "")


def test_scores_are_not_asked_of_a_language_model(
    trimtab: Callable[..., Any], matches: Path, tmp_path: Path
) -> None:
    said = trimtab("eval", "reward", "llm:judge.yaml", "--data", matches, "--out", tmp_path / "card")
    assert said.code == 1 and "a language model gives verdicts, not scores" in said.err
