"""What a shape to export is: whose records, as which columns, in which files, and what it does with ties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from trimtab.formats.rows import RawRow
from trimtab.records import Comparison, Demonstration, Rating

Exported = Comparison | Demonstration | Rating
X = TypeVar("X", bound=Exported)

FileKind = Literal["jsonl", "jsonl.gz", "parquet", "json"]
"""Also the ending of the file. `json` is one value: an array of rows, or the document of the shape."""

ColumnKind = Literal["text", "texts", "whole", "number", "truth", "prompt", "answer", "messages", "verdict"]
"""What a column holds; `prompt` and `answer` are text in one export and chats in another, never both."""

Ties = Literal["leave_out", "both_ways", "both_ways_with_both_bad"]
"""What a shape of pairs does where nobody won: nothing; a row for each of the two orders, so that neither
response is preferred over all; the same, also where both responses were called bad."""

Undecided = Literal["kept", "leave_out", "choice", "none"]
"""Ties in a shape: it holds them as they are; it never has them; `Ties` says; it holds no comparisons."""

Reason = Literal[
    "unjudged",
    "tie",
    "both bad",
    "blank answer",
    "identical answers",
    "blank prompt",
    "text prompt",
    "no label",
    "no source",
]
"""Why a record is not in an export."""

TABLES: tuple[FileKind, ...] = ("jsonl", "jsonl.gz", "parquet")


class LeftOut(Exception):
    """Raised by a shape for a record that it cannot or must not hold; counted in the manifest."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class ExportShape(Generic[X]):
    """One shape. To add one: a function that makes rows, and an entry in `table.EXPORTS`."""

    holds: type[X]
    what: str
    """One line for people."""
    rows: Callable[[X, int], Sequence[RawRow]]
    """A record and its number in the export, from 1, as rows of what is known of it.

    Raises LeftOut. Comparisons come decided unless ties are `kept`."""
    columns: Mapping[str, ColumnKind]
    """In the order of the file."""
    unknown: Mapping[str, object] = field(default_factory=dict)
    """Columns that a row may not know, with what stands there then; one that no row knows is left away."""
    undecided: Undecided
    kinds: tuple[FileKind, ...] = TABLES
    kinds_with_mixed_prompts: tuple[FileKind, ...] = ()
    """Where one file may hold text prompts and chats."""
    document: Callable[[Sequence[RawRow], Sequence[RawRow]], object] | None = None
    """The value of a JSON file that is no array: of the rows of a split, and those of all splits."""
