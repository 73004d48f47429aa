"""Sources into records: read all, report what is wrong, and let a stage have what it may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trimtab.errors import DataError
from trimtab.formats.dialogues import Dialogues
from trimtab.formats.rows import Defect, R, Reading, Record, Row, RowError
from trimtab.formats.shapes import (
    RATINGS,
    Shape,
    all_shapes,
    comparison_shapes,
    demonstration_shapes,
    prompt_shapes,
    read_row,
)
from trimtab.formats.sources import read_content
from trimtab.formats.splits import A, B, leakage, prompt_key
from trimtab.records import Comparison, Demonstration, Prompt, Rating

SHOWN = 3
"""Defects that an error message shows; `trimtab data check` shows all."""


def read_comparisons(source: str | Path, *, dialogues: Dialogues = "chat") -> Reading[Comparison]:
    """Pairs of responses, judged or not.

    Args:
        source: a JSONL, JSONL.gz or Parquet file, or a hub data set as `owner/name:part[split]`.
        dialogues: raw HH-RLHF dialogues become messages (chat), or stay text (raw).
    Raises:
        DataError: there is no such file or data set.
    """
    return read_shapes(source, comparison_shapes(dialogues))


def read_demonstrations(source: str | Path, *, dialogues: Dialogues = "chat") -> Reading[Demonstration]:
    """Responses to imitate: demonstrations, or the preferred answers of comparisons."""
    return read_shapes(source, demonstration_shapes(dialogues))


def read_prompts(source: str | Path, *, dialogues: Dialogues = "chat") -> Reading[Prompt]:
    """Prompts alone, or those of any other rows; each once, where it first stood."""
    reading = read_shapes(source, prompt_shapes(dialogues))
    first: dict[str, Row[Prompt]] = {}
    for row in reading.rows:
        first.setdefault(prompt_key(row.record), row)
    return replace(reading, rows=tuple(first.values()))


def read_ratings(source: str | Path) -> Reading[Rating]:
    """Single responses, each labelled good or bad, or graded from 1 to 7."""
    return read_shapes(source, RATINGS)


def holds_ratings(source: str | Path) -> bool:
    """Whether the first row is a rating: what learns from pairs and from ratings has to know which."""
    entries = read_content(source).entries
    return bool(entries) and any(shape.fits(entries[0][1]) for shape in RATINGS.values())


def read_any(source: str | Path, *, dialogues: Dialogues = "chat") -> Reading[Record]:
    """Whatever each row holds."""
    return read_shapes(source, all_shapes(dialogues))


def read_shapes(source: str | Path, shapes: Mapping[str, Shape[R]]) -> Reading[R]:
    """Every row of a file or data set by the first of these shapes that recognises it."""
    content = read_content(source)
    rows, defects = [], list(content.defects)
    for line, entry in content.entries:
        try:
            rows.append(Row(read_row(entry, shapes), content.source, line))
        except RowError as error:
            defects.append(error.at(content.source, line))
    defects.sort(key=lambda defect: defect.line)
    return Reading(content.source, tuple(rows), tuple(defects), content.sha256)


def usable(reading: Reading[R]) -> tuple[Row[R], ...]:
    """The rows that a stage may use; those behind `reading.defects_left_out` are not among them.

    Raises:
        DataError: something could not be read, or no row is left.
    """
    refuse_defects(reading.defects)
    if not reading.rows:
        raise DataError(
            "no row of it can be used",
            where=reading.source,
            found=_summary(reading.defects) if reading.defects else "no rows",
            fix=f"trimtab data check {reading.source}",
        )
    return reading.rows


def refuse_leakage(first: Reading[A], second: Reading[B]) -> None:
    """Raise DataError if a prompt stands in both, as in data to train on and data to test with."""
    refuse_defects(leakage(first, second))


def refuse_defects(defects: Sequence[Defect]) -> None:
    """Raise DataError if any of these stops a stage; it shows the first few and counts the rest."""
    stopping = [defect for defect in defects if defect.effect == "stops"]
    if not stopping:
        return
    first, more = stopping[0], len(stopping) - SHOWN
    shown = [f"{defect.where}: {defect.what}" for defect in stopping[1:SHOWN]]
    raise DataError(
        "\n".join([first.what, *shown, *([f"and {more} more like these"] if more > 0 else [])]),
        where=first.where,
        found=first.found,
        fix=first.fix,
    )


def _summary(defects: Sequence[Defect]) -> str:
    """`4 empty reply, 1 role marker`."""
    kinds = [defect.kind for defect in defects]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
