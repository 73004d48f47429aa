"""Records that break a rule cannot exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from trimtab.records import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
    Rating,
    Verdict,
    check_prompt,
    prompt_text,
)

CHAT = (Message("system", "Be brief."), Message("user", "A prime?"))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Message("bot", "hi"), "role must be one of system, user, assistant, tool, got 'bot'"),  # type: ignore[arg-type]
        (lambda: Message("user", None), "content must be text, got NoneType"),  # type: ignore[arg-type]
        (lambda: Demonstration(prompt="q", response=" \n"), "response is empty"),
        (lambda: Demonstration(prompt=(), response="x"), "no messages"),
        (lambda: Verdict(preferred="c"), "a, b, tie, both_bad, got 'c'"),  # type: ignore[arg-type]
        (lambda: Verdict(preferred="a", strength=4), "strength must be 1, 2 or 3, got 4"),
        (lambda: Verdict(preferred="a", strength=0), "strength must be 1, 2 or 3, got 0"),
        (lambda: Verdict(preferred="a", shown="aa"), "shown must be ab or ba, got 'aa'"),  # type: ignore[arg-type]
        (lambda: Comparison(prompt="q", a="x", b=None), "both responses must be text"),  # type: ignore[arg-type]
        (lambda: Comparison(prompt=(Message("assistant", "x"),), a="x", b="y"), "that is a response"),
        (lambda: Rating(prompt="q", response="", label=True), "response is empty"),
        (lambda: Rating(prompt="q", response="x"), "either a label or a grade"),
        (lambda: Rating(prompt="q", response="x", label=False, grade=3), "either a label or a grade"),
        (lambda: Rating(prompt="q", response="x", grade=0), "from 1 to 7, got 0"),
        (lambda: Rating(prompt="q", response="x", grade=8), "from 1 to 7, got 8"),
    ],
)
def test_what_cannot_be(build: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build()


@pytest.mark.parametrize("prompt", ["text", CHAT, (Message("user", "x"), Message("tool", "7"))])
def test_prompts_that_wait_for_an_answer(prompt: Prompt) -> None:
    check_prompt(prompt)


@pytest.mark.parametrize("prompt", [["text"], list(CHAT), ("text",), None])
def test_other_kinds_of_prompt_are_refused(prompt: object) -> None:
    with pytest.raises(ValueError, match="text or a tuple of messages"):
        check_prompt(prompt)  # type: ignore[arg-type]


def test_prompt_text() -> None:
    assert prompt_text("as it is ") == "as it is "
    assert prompt_text(CHAT) == "system: Be brief.\nuser: A prime?"


@pytest.mark.parametrize(("preferred", "chosen", "rejected"), [("a", "7", "9"), ("b", "9", "7")])
def test_chosen_and_rejected(preferred: str, chosen: str, rejected: str) -> None:
    pair = Comparison(prompt=CHAT, a="7", b="9", verdict=Verdict(preferred=preferred))  # type: ignore[arg-type]
    assert pair.decided
    assert (pair.chosen, pair.rejected) == (chosen, rejected)


def test_the_pair_says_which_response_was_cut() -> None:
    cut = Comparison(prompt=CHAT, a="7", b="9", stopped_b=False, verdict=Verdict(preferred="a"))
    assert cut.pair == (("7", True), ("9", False))
    assert cut.judged(Verdict(preferred="b")).pair == (("9", False), ("7", True))


@pytest.mark.parametrize("verdict", [None, Verdict(preferred="tie"), Verdict(preferred="both_bad")])
def test_without_a_winner_there_is_no_chosen(verdict: Verdict | None) -> None:
    pair = Comparison(prompt=CHAT, a="7", b="9", verdict=verdict)
    assert not pair.decided
    with pytest.raises(AssertionError, match="names no winner"):
        _ = pair.chosen
    with pytest.raises(AssertionError, match="names no winner"):
        _ = pair.rejected


def test_judging_makes_a_new_record() -> None:
    pair = Comparison(prompt=CHAT, a="7", b="9", source_a="runs/ppo", group="g")
    judged = pair.judged(Verdict(preferred="b", judge="ada"))
    assert pair.verdict is None
    assert (judged.chosen, judged.source_a, judged.group) == ("9", "runs/ppo", "g")
    with pytest.raises(dataclasses.FrozenInstanceError):
        judged.a = "8"  # type: ignore[misc]
