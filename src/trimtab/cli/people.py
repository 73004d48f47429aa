"""`trimtab judge --by people`: ask, and come back for the answers, or wait for them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trimtab.cli.stores import make_or_open
from trimtab.cli.text import visible
from trimtab.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from trimtab.arena.people import Asked
    from trimtab.feedback.store.store import Store
    from trimtab.formats import Reading
    from trimtab.records import Comparison, Verdict

PEOPLE = "people"
POLL = 2.0
"""Seconds between two looks at the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Where people are asked, and how long they are waited for."""

    store: str
    project: str | None
    overlap: int | None
    wait: bool


def judge_by_people(matches: str, question: Question, out: Path, *, as_json: bool) -> None:
    """Put the comparisons before people, and write those that they have judged by now.

    An earlier output of this command may be replaced; any other file may not.
    """
    from trimtab import formats
    from trimtab.arena import people

    reading = formats.read_comparisons(matches)
    comparisons = [row.record for row in formats.usable(reading)]
    _refuse_another(out, comparisons)
    name = question.project or Path(matches).name.partition(".")[0]
    with make_or_open(question.store) as store:
        asked = people.ask(store, name, comparisons, overlap=question.overlap)
        verdicts = _verdicts(store, asked, wait=question.wait)
        place = store.name
    judged = [
        one.judged(verdict) for one, verdict in zip(comparisons, verdicts, strict=True) if verdict is not None
    ]
    if judged:
        formats.write_comparisons(out, judged)
    _tell(reading, judged, asked, place, out, as_json=as_json)


def _verdicts(store: Store, asked: Asked, *, wait: bool) -> list[Verdict | None]:
    from trimtab.arena import people

    verdicts = people.read_verdicts(store, asked)
    if wait and None in verdicts:
        typer.echo(visible(_where_to_judge(verdicts.count(None), asked, store.name)), err=True)
    try:
        while wait and None in verdicts:
            time.sleep(POLL)
            missing = verdicts.count(None)
            verdicts = people.read_verdicts(store, asked)
            if verdicts.count(None) != missing:
                typer.echo(f"{verdicts.count(None)} missing", err=True)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; what people said is kept in the store", fix="run the same command again"
        ) from None
    return verdicts


def _tell(
    reading: Reading[Comparison],
    judged: Sequence[Comparison],
    asked: Asked,
    place: str,
    out: Path,
    *,
    as_json: bool,
) -> None:
    from trimtab.arena.tally import tally

    missing = len(asked.items) - len(judged)
    left_out = [(defect.where, f"{defect.kind}: {defect.what}") for defect in reading.defects_left_out]
    if as_json:
        result = {
            "verdicts": tally(judged),
            "left out": [{"where": where, "reason": reason} for where, reason in left_out],
            "notes": [],
            "missing": missing,
            "new": asked.new,
            "project": asked.project.name,
            "store": place,
        }
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    for where, reason in left_out:
        typer.echo(visible(f"left out {where}: {reason}"), err=True)
    if missing:
        typer.echo(visible(_where_to_judge(missing, asked, place)))
    if judged:
        counts = {**tally(judged), "left out": len(left_out), "missing": missing}
        typer.echo(visible(", ".join(f"{name}: {count}" for name, count in counts.items())))
        typer.echo(out)


def _where_to_judge(missing: int, asked: Asked, place: str) -> str:
    return (
        f"{missing} of {len(asked.items)} comparisons wait for people in the project {asked.project.name!r}. "
        f"They judge on the pages of: trimtab feedback serve --store {place}\n"
        "This command again, or with --wait, fetches what they said."
    )


def _refuse_another(out: Path, comparisons: Sequence[Comparison]) -> None:
    """Raise ConfigError where `out` is something else than these comparisons, judged by people."""
    from trimtab import formats
    from trimtab.arena.people import judged_by_people
    from trimtab.errors import DataError

    if not out.exists():
        return
    asked = {(one.prompt, one.a, one.b) for one in comparisons}
    try:
        found = formats.usable(formats.read_comparisons(out))
    except DataError:
        found = ()
    before = [row.record for row in found]
    if not before or not judged_by_people(before) or {(o.prompt, o.a, o.b) for o in before} - asked:
        raise ConfigError("the file exists already", where=str(out), fix="choose another --out, or delete it")
