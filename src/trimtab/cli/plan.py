"""`trimtab plan`: what a stage would take, before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import AsJson, Assignments, ConfigFile, gather
from trimtab.runs import progress

if TYPE_CHECKING:
    from trimtab.train.plan import Plan

app = typer.Typer()


class Planned(StrEnum):
    """The stages that can be planned."""

    sft = "sft"
    reward = "reward"
    dpo = "dpo"


@app.command()
def plan(
    stage: Annotated[Planned, typer.Argument(help="The stage.")],
    config: ConfigFile = None,
    set_: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Say what a stage would take: steps, memory, time, disk, and the first batch as the model sees it.

    Model and data are read as the stage would, and a few rows are trained on and timed. Ends with 1 if the
    stage would need more memory than the machine or memory_limit has.

    Example: trimtab plan dpo --set model=runs/sft --set data=comparisons.jsonl --set memory_limit=6GiB
    """
    from trimtab.train.plan import machine_room, make_plan, require_fit
    from trimtab.train.settings import STAGES, EpochSettings

    settings = gather(STAGES[stage.value], config, set_)
    assert isinstance(settings, EpochSettings)
    progress.say(f"plan of {stage.value}: a few rows are trained on and timed")
    room = machine_room()
    made = make_plan(stage.value, settings)
    if as_json:
        totals = {"peak": made.peak, "total_s": made.total_s}
        typer.echo(json.dumps({**asdict(made), **totals}, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(as_lines(made)))
    require_fit(made, settings, room)


def as_lines(plan: Plan) -> list[str]:
    """The plan for people."""
    from trimtab.train.memory import in_words

    counts = plan.counts
    rows = f"{counts.rows / counts.steps:.1f} rows a step, the largest of {counts.largest_row:,} tokens"
    twice = f", {counts.recomputed} of {counts.blocks} blocks computed twice" if counts.recomputed else ""
    return [
        "first batch",
        *(f"  {line}" for text in plan.first_batch for line in shortened(text)),
        "",
        f"examples  {counts.examples:,} with {counts.tokens:,} tokens; dev {counts.dev_examples:,}",
        f"steps     {counts.steps:,}; {rows} (row_tokens {counts.row_tokens:,}{twice})",
        f"memory    {in_words(plan.peak)}: " + _parts({k: in_words(v) for k, v in plan.memory.items() if v}),
        f"time      {_duration(plan.total_s)}: "
        + _parts({name: _duration(took) for name, took in plan.seconds.items() if took}),
        f"disk      {in_words(plan.disk)} at most",
    ]


def shortened(text: str, longest: int = 300) -> list[str]:
    """The lines of a text whose middle is left out where it is long."""
    from trimtab.cli.text import visible

    half = longest // 2
    whole = text if len(text) <= longest else f"{text[:half]} [...] {text[-half:]}"
    return visible(whole).splitlines()


def _parts(parts: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
