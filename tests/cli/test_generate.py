"""`trimtab generate`: the answer appears as it is written, and steers no terminal."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli.text import visible, visible_pieces
from trimtab.rollout import engine

NAME = "film-reviews-5m"


@pytest.fixture
def generate(trimtab: Callable[..., Any], model_folder: Path) -> Callable[..., Any]:
    def run(*options: object, model: object = model_folder) -> Any:
        return trimtab("generate", model, "--prompt", "say", "--max-new", 24, "--device", "cpu", *options)

    return run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_shown_as_it_is_written_is_the_whole_answer(generate: Callable[..., Any], seed: int) -> None:
    """A chat's answer, of random bytes: half characters and control characters among them."""
    whole = json.loads(generate("--seed", seed, "--json").out)["response"]
    shown = generate("--seed", seed)
    assert shown.code == 0 and shown.out == visible(whole) + "\n"
    assert len(whole) > 1


def test_plain_text_goes_on_with_its_space(generate: Callable[..., Any]) -> None:
    whole = json.loads(generate("--temperature", 0, "--json", model=NAME).out)["response"]
    assert generate("--temperature", 0, model=NAME).out == whole + "\n"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_stop_text_ends_the_answer_and_stays(generate: Callable[..., Any], as_json: bool) -> None:
    def said(*options: str) -> str:
        out = generate("--temperature", 0, *options, *(["--json"] if as_json else []), model=NAME).out
        return str(json.loads(out)["response"]) if as_json else str(out.removesuffix("\n"))

    free = said()
    stop = free[len(free) // 2 :][:4]
    ended = said("--stop", "never said", "--stop", stop)
    assert free.startswith(ended) and len(ended) < len(free)
    assert stop in ended and stop not in ended[:-4], "nothing is written after it but that token's rest"


def test_an_empty_stop_text_is_refused(generate: Callable[..., Any]) -> None:
    said = generate("--stop", "")
    assert said.code == 1 and "stop_strings" in said.err and "Traceback" not in said.err


def test_text_appears_before_the_next_token_is_drawn(
    generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    draw, echo = engine.draw, typer.echo

    def drawn(*arguments: Any) -> Any:
        events.append("drawn")
        return draw(*arguments)

    def echoed(message: str = "", **options: Any) -> None:
        if message:
            events.append(message)
        echo(message, **options)

    monkeypatch.setattr(engine, "draw", drawn)
    monkeypatch.setattr(typer, "echo", echoed)
    generate("--temperature", 0, model=NAME)
    said = [place for place, event in enumerate(events) if event != "drawn"]
    assert len(said) > 12 and all(place == before + 2 for before, place in itertools.pairwise(said))


def test_ctrl_c_ends_the_answer_on_a_line_of_its_own(
    generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate("--temperature", 0, model=NAME).out
    draw, steps = engine.draw, []

    def interrupted(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(*arguments)

    monkeypatch.setattr(engine, "draw", interrupted)
    said = generate("--temperature", 0, model=NAME)
    assert said.code == 130 and len(steps) == 9
    assert said.out.endswith("\n") and whole.startswith(said.out[:-1]) and len(said.out) > 8
    assert "has not come to its end" in said.err
    assert "Traceback" not in said.err and "--resume" not in said.err


@given(st.lists(st.text(alphabet="a\r\n\x1b\u202e", max_size=3), max_size=6))
def test_control_characters_are_shown_however_the_text_is_cut(parts: list[str]) -> None:
    assert "".join(visible_pieces(parts)) == visible("".join(parts))
