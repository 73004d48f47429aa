"""Rows as the bytes of a file: equal rows give equal bytes at any time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from trimtab.formats.exports.shape import ColumnKind
from trimtab.formats.rows import RawRow

if TYPE_CHECKING:
    import pyarrow

PromptForm = Literal["text", "chat", "text and chat"]
"""What the column `prompt` holds."""

# JSON needs no escape for these, but tools that split text into lines may take them for the end of one.
LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


def even_rows(
    rows: Sequence[RawRow], columns: Mapping[str, ColumnKind], unknown: Mapping[str, object]
) -> list[RawRow]:
    """Every row with the same columns in the same order; `unknown` says what stands where nothing is known.

    `datasets` takes the columns of a file from its first rows, and those of all splits from the first file.
    """
    known = {name for row in rows for name in row}
    names = [name for name in columns if name in known]
    return [{name: row[name] if name in row else unknown[name] for name in names} for row in rows]


def jsonl_bytes(rows: Sequence[RawRow]) -> bytes:
    """One object a line."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return text.translate(LINE_ENDS).encode("utf-8")


def gzipped_jsonl_bytes(rows: Sequence[RawRow]) -> bytes:
    """The same, compressed, without a name and a time in it."""
    return gzip.compress(jsonl_bytes(rows), mtime=0)


def json_bytes(value: object) -> bytes:
    """One value, for people too."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return text.translate(LINE_ENDS).encode("utf-8")


def parquet_bytes(rows: Sequence[RawRow], columns: Mapping[str, ColumnKind], form: PromptForm) -> bytes:
    """One table; the types are those of the columns, never guessed from the rows."""
    import pyarrow
    import pyarrow.parquet

    types = _arrow_types(form)
    schema = pyarrow.schema([(name, types[columns[name]]) for name in rows[0]])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows], schema=schema), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _arrow_types(form: PromptForm) -> Mapping[ColumnKind, pyarrow.DataType]:
    import pyarrow

    text, whole = pyarrow.string(), pyarrow.int64()
    messages = pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))
    parts = [("preferred", text), ("judge", text), ("strength", whole), ("shown", text), ("at", text)]
    either = text if form == "text" else messages
    return {
        "text": text,
        "texts": pyarrow.list_(text),
        "whole": whole,
        "number": pyarrow.float64(),
        "truth": pyarrow.bool_(),
        "prompt": either,
        "answer": either,
        "messages": messages,
        "verdict": pyarrow.struct(parts),
    }
