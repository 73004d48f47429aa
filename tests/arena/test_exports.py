"""The comparison in other tools' formats: read back by a reader of each, hostile text included."""

from __future__ import annotations

import csv
import io
import json

import pytest

from trimtab.arena.exports import to_csv, to_llm_comparator, to_markdown
from trimtab.arena.winrate import Judgments
from trimtab.records import Comparison, Message, Verdict

HOSTILE = '=cmd|" /C calc"!A0, "quoted"\nnext line \ud83d <b>'


def judgments():
    prompts = ["plain", (Message("user", "hi"),), HOSTILE, "unjudged"]
    comparisons = [Comparison(prompt=prompt, a=f"a{i}", b=HOSTILE) for i, prompt in enumerate(prompts)]
    given = [Verdict(preferred=one) for one in ("a", "b", "both_bad")]
    return Judgments("DPO", "PPO", comparisons, [*given, None])


def test_csv_has_a_row_a_verdict_and_no_formula():
    head, *rows = csv.reader(io.StringIO(to_csv([judgments()])))
    assert head[:4] == ["prompt", "policy_a", "policy_b", "preferred"]
    assert [row[3] for row in rows] == ["a", "b", "both_bad", ""]
    assert rows[1][4] == "user: hi" and rows[0][5] == "a0"
    assert rows[2][4] == rows[2][6] == "'" + HOSTILE.replace("\ud83d", "?")


@pytest.mark.parametrize("text", ["+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_what_a_spreadsheet_would_run_is_quoted(text):
    one = Judgments("a", "b", [Comparison(prompt="p", a=text, b="b")], [None])
    assert next(csv.DictReader(io.StringIO(to_csv([one]), newline="")))["answer_a"] == f"'{text}"


def test_llm_comparator_reads_scores_from_a_to_b(findings):
    data = json.loads(to_llm_comparator(findings, judgments()))
    assert data["models"] == [{"name": "DPO"}, {"name": "PPO"}]
    assert [one["score"] for one in data["examples"]] == [1.0, -1.0, 0.0]
    for one in data["examples"]:
        (rating,) = one["individual_rater_scores"]
        assert rating["score"] == one["score"] and rating["is_flipped"] is False
    assert data["examples"][1]["input_text"] == "user: hi"


def test_markdown_has_the_headline_and_the_tables(findings):
    text = to_markdown(findings)
    assert text.startswith(f"### {findings.headline}\n")
    assert "| DPO | PPO | 59.5 % [52.7, 66.3] |" in text.replace("\u00a0", " ")
    assert "Test question" not in text and "| method |" in text


def test_names_cannot_leave_their_cell(findings):
    import dataclasses

    name = "x | <img src=y> [l](javascript:alert(1)) `c`"
    policies = (dataclasses.replace(findings.policies[0], name=name), *findings.policies[1:])
    text = to_markdown(
        dataclasses.replace(findings, policies=policies, matches=findings.matches[:1], samples=())
    )
    row = next(line for line in text.splitlines() if "javascript" in line)
    assert "x \\| \\<img src=y\\> [l\\](javascript:alert(1)) \\`c\\`" in row
