"""What an LLM judge is asked, and the one way to read its answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.judges.questions import (
    Template,
    UnreadableAnswer,
    checked_template,
    load_template,
    question,
    read_verdict,
)

CODE = "0a1b2c3d"
BARE = Template("bare", "{prompt}|{response_1}|{response_2}|{answer_format}")
FULL = "{prompt} {response_1} {response_2} {answer_format}"


@pytest.mark.parametrize("name", ["helpfulness", "harmlessness"])
def test_our_own_templates_are_complete(name: str) -> None:
    text = question(load_template(name), "the prompt", "one", "two").text
    parts = [text.index(part) for part in ("\nthe prompt\n", "\none\n", "\ntwo\n", "VERDICT")]
    assert parts == sorted(parts)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Größe {{literal}} " + FULL, encoding="utf-8")
    template = load_template(str(path))
    asked = question(template, "p", "x", "y")
    assert asked.text.startswith(
        f"Größe {{literal}} [prompt {asked.code} begins]\np\n[prompt {asked.code} ends] "
    )


@pytest.mark.parametrize(
    ("text", "what", "found", "fix"),
    [
        (FULL + "{respnse_1}", "unknown placeholder", "{respnse_1}", "did you mean {response_1}?"),
        (FULL + "{}", "unknown placeholder", "{}", "known: {prompt}"),
        (FULL + "{prompt.__class__}", "unknown placeholder", "{prompt.__class__}", "{prompt}"),
        (FULL + "{prompt!r}", "unknown placeholder", "{prompt!r}", "{prompt}"),
        (FULL + "{prompt:>9}", "unknown placeholder", "{prompt:>9}", "{prompt}"),
        (
            FULL.replace("{answer_format}", ""),
            "lacks a placeholder",
            "no {answer_format}",
            "put in {answer_format}",
        ),
        (
            "",
            "lacks a placeholder",
            "{prompt}, {response_1}, {response_2}, {answer_format}",
            "put in {prompt}",
        ),
        (FULL + " {", "a brace stands alone", "", "twice"),
        (FULL + " }", "a brace stands alone", "", "twice"),
    ],
)
def test_a_wrong_template_is_refused(text: str, what: str, found: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=what) as error:
        checked_template(text, "mine.txt")
    assert error.value.where == "mine.txt" and found in error.value.found and fix in error.value.fix


def test_a_template_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean helpfulness"):
        load_template("helpfullness")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_template(str(tmp_path / "none.txt"))
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_template(str(tmp_path / "latin.txt"))


@given(st.text(), st.text(), st.text())
def test_the_code_is_stable_and_in_no_text(prompt: str, first: str, second: str) -> None:
    asked = question(BARE, prompt, first, second)
    assert asked == question(BARE, prompt, first, second)
    assert asked.code not in "\0".join((prompt, first, second)).lower()
    assert (
        asked.text.count(f"{asked.code} begins]\n")
        == asked.text.count(f"\n[response 1 {asked.code} ends]") * 3
        == 3
    )
    assert asked.code != question(BARE, prompt, first, second, attempt=1).code


def test_a_text_that_holds_the_code_gets_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter(["0123456789abcdef", "fedcba9876543210"])

    class Hash:
        def hexdigest(self) -> str:
            return next(draws)

    monkeypatch.setattr("trimtab.judges.questions.hashlib.sha256", lambda _: Hash())
    assert question(BARE, "p", "says 01234567 ABC", "y").code == "fedcba98"


def test_the_order_of_the_responses_changes_the_code() -> None:
    assert question(BARE, "p", "x", "y").code != question(BARE, "p", "y", "x").code


@pytest.mark.parametrize("choice", ["1", "2", "TIE"])
@pytest.mark.parametrize(
    "answer",
    [
        "VERDICT {code}: {choice}",
        "Reasons.\r\n\r\n  VERDICT {code}: {choice}  \r\n\n",
        "VERDICT: 2\nVERDICT 99999999: 1\nVERDICT {code}: {choice}",
        "VERDICT {code}: {choice}\nAs I said:\nVERDICT {code}: {choice}",
    ],
)
def test_a_readable_answer(answer: str, choice: str) -> None:
    assert read_verdict(answer.format(code=CODE, choice=choice), CODE) == choice


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n ",
        "1",
        "VERDICT: 1",
        "VERDICT 0a1b2c3e: 1",
        "verdict 0a1b2c3d: 1",
        "VERDICT 0a1b2c3d: tie",
        "VERDICT 0a1b2c3d: 3",
        "VERDICT 0a1b2c3d: 12",
        "VERDICT 0a1b2c3d: 1.",
        "VERDICT 0a1b2c3d:1",
        "**VERDICT 0a1b2c3d: 1**",
        "> VERDICT 0a1b2c3d: 1",
        "My VERDICT 0a1b2c3d: 1",
        "VERDICT 0a1b2c3d: 1\nor not",
        "VERDICT 0a1b2c3d: 1\u2028or not",
        "VERDICT 0a1b2c3d: 1\nVERDICT 0a1b2c3d: 2",
        "VERDICT 0a1b2c3d: 2, no:\nVERDICT 0a1b2c3d: 1",
        "verdict 0a1b2c3d : 2, no:\nVERDICT 0a1b2c3d: 1",
        "VERDICT 0a1b2c3d: 1\nVERDICT 0a1b2c3d: 2\nVERDICT 0a1b2c3d: TIE",
        "VERDICT 0a1b2c3d: 12\nVERDICT 0a1b2c3d: 1",
        "VERDICT 0a1b2c3d: is what I shall end with.\nVERDICT 0a1b2c3d: 1",
        "VERDICT 0a1b2c3d: 1 VERDICT 0a1b2c3d: 1",
        "VERDICT 0a1b2c3d: \uff11",
    ],
)
def test_an_unreadable_answer(answer: str) -> None:
    with pytest.raises(UnreadableAnswer):
        read_verdict(answer, CODE)
