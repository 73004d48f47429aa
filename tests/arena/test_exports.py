"""The comparison in other tools' formats: read back by a reader of each, hostile text included."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import time

import pytest
from markdown_it import MarkdownIt

from trimtab.arena.exports import to_csv, to_llm_comparator, to_markdown
from trimtab.arena.sentences import limits
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


def test_llm_comparator_reads_scores_from_a_to_b():
    data = json.loads(to_llm_comparator(judgments()))
    assert data["models"] == [{"name": "DPO"}, {"name": "PPO"}]
    assert [one["score"] for one in data["examples"]] == [1.0, -1.0, 0.0]
    for one in data["examples"]:
        (rating,) = one["individual_rater_scores"]
        assert rating["score"] == one["score"]
    assert data["examples"][1]["input_text"] == "hi"


def test_llm_comparator_opens_a_match_that_nobody_has_judged():
    given = judgments()
    data = json.loads(to_llm_comparator(dataclasses.replace(given, verdicts=[None] * 4)))
    assert data["models"] == [{"name": "DPO"}, {"name": "PPO"}] and data["examples"] == []


def test_markdown_has_the_headline_and_the_tables(findings):
    text = to_markdown(findings)
    assert text.startswith(f"### {findings.headline}\n")
    assert "| DPO | PPO | 59.5 % [52.7, 66.3] |" in text.replace("\u00a0", " ")
    assert "Test question" not in text and "| method |" in text


def named(findings, name):
    """The same findings, the first policy under another name."""
    first, *others = findings.policies
    policies = (dataclasses.replace(first, name=name), *others)
    return dataclasses.replace(findings, policies=policies, matches=findings.matches[:1], samples=())


def read(markdown):
    """(kind, text) of what a reader of Markdown sees, tables and strikethrough known to it."""
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    return [(part.type, part.content) for block in parsed for part in block.children or []]


def row_of(findings, name):
    """The name's cell in the table of policies, as `read` sees it."""
    lines = to_markdown(named(findings, name)).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| policy | prompts |"))
    cells = read("\n".join(["| a | b |", "| --- | --- |", lines[start + 2]]))
    return cells[2 : next(at for at, cell in enumerate(cells) if cell == ("text", "200"))]


@pytest.mark.parametrize(
    "name",
    [
        "x | <img src=y> [l](javascript:alert(1)) `c`",
        "~~gone~~ *a* _b_ &#64; &lt;b&gt; ![i](x) [r][r] \\",
        "https://evil.example/x www.evil.example HTTP://X",
        "@org/team a@b.example (@x)",
        "#12 org/repo#12 GH-12 :tada: $x$",
        "`@org` |@org| \\@org \\`#12|",
        "[x]: https://evil.example",
        "[x]: /url",
    ],
)
def test_a_name_is_text_or_code_and_nothing_else(findings, name):
    found = row_of(findings, name)
    assert {kind for kind, _ in found} <= {"text", "code_inline"}
    assert "".join(content for _, content in found) == name
    # What GitHub itself makes of text, code aside, when all Markdown has been read.
    live = re.compile(r"://|www\.|@\w|#\d|GH-\d|:\w+:|\$", re.IGNORECASE)
    assert not [content for kind, content in found if kind == "text" and live.search(content)]


def test_a_sentence_that_begins_with_a_name_is_no_block(findings):
    said = ("[x]: /url", "[x] 1", "# a", "- b", "1. c", "2) d", "---", "===", "+ e", "1.5 f", "> g")
    text = to_markdown(dataclasses.replace(findings, caveats=said))
    items = text.split("\n**Limits**\n\n")[1]
    parsed = MarkdownIt("commonmark").parse(items)
    assert {block.type for block in parsed} == {
        *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"),
        *("paragraph_open", "paragraph_close", "inline"),
    }
    assert sum(block.type == "bullet_list_open" for block in parsed) == 1
    assert tuple(text for _, text in read(items))[-len(said) :] == said


def test_a_name_that_github_leaves_alone_is_no_code(findings):
    assert row_of(findings, "dpo 0.05 #x 12: a/b") == [("text", "dpo 0.05 #x 12: a/b")]


def test_a_name_hides_nothing_and_stays_in_its_line(findings):
    found = row_of(findings, "D\u202eP\u200bO\u2028x\ny\x0bz")
    assert found == [("text", "D⟦U+202E⟧P⟦U+200B⟧O⟦U+2028⟧x y␋z")]


def test_a_long_name_takes_no_time(findings):
    began = time.perf_counter()
    to_markdown(named(findings, "w" * 100_000))
    assert time.perf_counter() - began < 2


def test_markdown_ends_with_the_limits(findings):
    said = to_markdown(findings).split("\n**Limits**\n\n")[1].splitlines()
    known = limits(findings)
    assert len(said) == len(known) > 3 and "All of this is invented" in said[-1]
    assert "".join(text for _, text in read("\n".join(said))) == "".join(known)
