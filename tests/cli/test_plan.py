"""`trimtab plan`: what people read, what machines read, and how it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.plan import as_lines, shortened
from trimtab.train import plan as plans
from trimtab.train.plan import Plan
from trimtab.train.rehearsal import Counts

MIB = 1 << 20
COUNTS = Counts(
    examples=1200,
    tokens=50_000,
    dev_examples=100,
    dev_tokens=4000,
    steps=75,
    rows=150,
    all_rows=200,
    largest_row=990,
    row_tokens=1024,
    recomputed=3,
    blocks=30,
)
MADE = Plan(
    "sft",
    COUNTS,
    memory={
        "libraries": 400 * MIB,
        "weights": 400 * MIB,
        "gradients": 400 * MIB,
        "moments": 800 * MIB,
        "activations": 24 * MIB,
        "later": 0,
    },
    seconds={"begin": 5.0, "reference": 0.0, "training": 595.0},
    disk=3 * 1024 * MIB,
    first_batch=["a prompt\n    -> " + "long " * 100],
)


def arguments(model_folder: Path, pairs: Path) -> list[str]:
    settings = {"model": model_folder, "data": pairs, "batch": 4, "max_prompt": 40, "max_response": 20}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def test_a_stage_is_planned_in_a_process_of_its_own(
    model_folder: Path,
    pairs: Path,
    trimtab: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = trimtab("plan", "sft", *arguments(model_folder, pairs), "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert found["counts"]["examples"] == 8 and found["counts"]["steps"] == 2
    assert found["peak"] == sum(found["memory"].values()) > 200 * MIB
    assert found["total_s"] == pytest.approx(sum(found["seconds"].values()))
    assert "say 0" in "".join(found["first_batch"]) or len(found["first_batch"]) == 2
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"


def test_what_people_read() -> None:
    text = "\n".join(as_lines(MADE))
    assert "examples  1,200 with 50,000 tokens; dev 100" in text
    assert "steps     75; 2.0 rows a step, the largest of 990 tokens" in text
    assert "3 of 30 blocks computed twice" in text
    assert (
        "memory    1.98 GiB: libraries 400 MiB, weights 400 MiB, gradients 400 MiB, moments 800 MiB, " in text
    )
    assert "activations 24 MiB\n" in text
    assert "time      10 min: begin 5.0 s, training 10 min\n" in text
    assert "disk      3.00 GiB at most" in text
    assert "[...]" in text


def test_long_texts_lose_their_middle() -> None:
    assert shortened("short") == ["short"]
    (line,) = shortened("a" * 200 + "b" * 200, longest=20)
    assert line == "a" * 10 + " [...] " + "b" * 10


@pytest.mark.parametrize("limit", ["1GiB", "1.9GiB"])
def test_what_exceeds_the_limit_is_shown_and_refused(
    limit: str,
    model_folder: Path,
    pairs: Path,
    trimtab: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans, "make_plan", lambda *_: MADE)
    said = trimtab("plan", "sft", *arguments(model_folder, pairs), "--set", f"memory_limit={limit}")
    assert said.code == 1
    assert "memory    1.98 GiB" in said.out
    assert "the stage needs more memory than it may have" in said.err and "1.98 GiB expected" in said.err


def test_other_stages_are_not_planned(trimtab: Callable[..., Any]) -> None:
    said = trimtab("plan", "ppo")
    assert said.code == 2 and "ppo" in said.err
