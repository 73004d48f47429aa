"""What reading a file gives: rows, and the defects that kept other rows out.

One table, `EFFECTS`, says how bad each kind of defect is and what a stage does about it, so that
`trimtab data check`, the stages and the documentation cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Generic, Literal, TypeVar

from trimtab.records import Comparison, Demonstration, Prompt, Rating

Kind = Literal[
    "bad JSON",
    "wrong encoding",
    "broken file",
    "no rows",
    "missing field",
    "wrong value",
    "prompt leakage",
    "empty prompt",
    "empty reply",
    "identical pair",
    "differing prompts",
    "role marker",
    "no winner",
    "too long",
]
Severity = Literal["error", "warning"]
Effect = Literal["stops", "left out", "kept"]
"""What a stage does: it stops; it goes on without the row; it goes on with the row."""

EFFECTS: Mapping[Kind, tuple[Severity, Effect]] = {
    "bad JSON": ("error", "stops"),
    "wrong encoding": ("error", "stops"),
    "broken file": ("error", "stops"),
    "no rows": ("error", "stops"),
    "missing field": ("error", "stops"),
    "wrong value": ("error", "stops"),
    "prompt leakage": ("error", "stops"),
    "empty prompt": ("error", "left out"),
    "empty reply": ("error", "left out"),
    "identical pair": ("error", "left out"),
    "differing prompts": ("error", "left out"),
    "role marker": ("error", "left out"),
    "no winner": ("warning", "left out"),
    "too long": ("warning", "kept"),
}

RawRow = Mapping[str, object]
"""One object of a file, as it was found; fields that were null are absent."""

Record = Comparison | Demonstration | Rating | Prompt
R = TypeVar("R")


def prompt_of(record: Record) -> Prompt:
    """The prompt of any record; a prompt is its own."""
    return record if isinstance(record, str | tuple) else record.prompt


def excerpt(value: object, *, longest: int = 60) -> str:
    """`value` as it would be typed, cut to `longest` characters, with the full length when cut."""
    if not isinstance(value, str):
        text = repr(value)
        return text if len(text) <= longest else text[:longest] + "..."
    if len(value) <= longest:
        return repr(value)
    return f"{value[:longest] + '...'!r} ({len(value)} characters)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One thing that is wrong in one place, with what would put it right."""

    kind: Kind
    file: str
    line: int
    """Line of a text file or row of a table, counted from 1; 0 when it is about the whole file."""
    field: str
    what: str
    found: str
    fix: str

    @property
    def severity(self) -> Severity:
        return EFFECTS[self.kind][0]

    @property
    def effect(self) -> Effect:
        return EFFECTS[self.kind][1]

    @property
    def where(self) -> str:
        """`file:line`, as editors understand it."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def as_dict(self) -> dict[str, str | int]:
        """For JSON output and for the list of rows that a run folder keeps."""
        return {**asdict(self), "severity": self.severity, "effect": self.effect}


class RowError(Exception):
    """Raised by the function that parses a row; the reader, who knows the place, makes it a Defect."""

    def __init__(self, kind: Kind, what: str, *, field: str = "", found: str = "", fix: str = "") -> None:
        self.kind: Kind = kind
        self.what = what
        self.field = field
        self.found = found
        self.fix = fix
        super().__init__(what)

    def at(self, file: str, line: int) -> Defect:
        return Defect(
            kind=self.kind,
            file=file,
            line=line,
            field=self.field,
            what=self.what,
            found=self.found,
            fix=self.fix,
        )


@dataclass(frozen=True)
class Row(Generic[R]):
    """A record and the place it was read from."""

    record: R
    file: str
    line: int
    """Line of a text file or row of a table, counted from 1."""

    @property
    def where(self) -> str:
        """`file:line`, as editors understand it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Content:
    """A source before its shape is known: the objects in it by line, and what could not be read."""

    source: str
    entries: tuple[tuple[int, RawRow], ...]
    defects: tuple[Defect, ...]
    sha256: str


@dataclass(frozen=True)
class Reading(Generic[R]):
    """All that one source gave."""

    source: str
    rows: tuple[Row[R], ...]
    defects: tuple[Defect, ...]
    sha256: str
    """Of the file's bytes as stored, or of a hub data set's rows: for the lineage of runs."""

    @property
    def records(self) -> list[R]:
        return [row.record for row in self.rows]

    @property
    def defects_left_out(self) -> list[Defect]:
        """The rows that were read but cannot be used, each with its reason."""
        return [defect for defect in self.defects if defect.effect == "left out"]
