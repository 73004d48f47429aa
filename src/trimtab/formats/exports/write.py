"""Records into a folder of split files and a manifest; all is checked and encoded before any is written."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from trimtab import __version__
from trimtab.errors import ConfigError, DataError
from trimtab.formats.exports.files import (
    PromptForm,
    even_rows,
    gzipped_jsonl_bytes,
    json_bytes,
    jsonl_bytes,
    parquet_bytes,
)
from trimtab.formats.exports.left_out import decided_ways
from trimtab.formats.exports.manifest import SCHEMA_VERSION, Manifest, SplitFile
from trimtab.formats.exports.shape import Exported, ExportShape, FileKind, LeftOut, Ties
from trimtab.formats.exports.table import EXPORTS
from trimtab.formats.jsonl import write_bytes
from trimtab.formats.rows import RawRow, Row, excerpt
from trimtab.formats.splits import prompt_key, split_by_prompt
from trimtab.records import Comparison

MANIFEST = "manifest.json"
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What was asked for, checked."""

    name: str
    shape: ExportShape[Any]
    file_kind: FileKind
    shares: Mapping[str, float]
    seed: int
    ties: Ties

    def file(self, split: str) -> str:
        return f"{split}.{self.file_kind}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """One record that is exported, with its rows."""

    record: Exported
    rows: Sequence[RawRow]


def write_export(
    records: Iterable[Exported],
    folder: str | Path,
    *,
    shape: str,
    file_kind: FileKind,
    shares: Mapping[str, float],
    seed: int,
    ties: Ties = "leave_out",
    about: Mapping[str, object] | None = None,
) -> Manifest:
    """Write `SPLIT.KIND` for every split that got a record, then `manifest.json`.

    Rows keep the order of the records. Equal arguments give equal bytes, the manifest included.

    Args:
        folder: made if need be; nothing may be in it.
        shape: a name in `EXPORTS`.
        file_kind: one of the shape's.
        shares: split name -> expected share of the prompts, as `split_by_prompt` takes them.
        ties: what pairs to make where nobody won; anything but `leave_out` only for a shape that asks.
        about: JSON to keep in the manifest as it is.
    Raises:
        ConfigError: a name, kind, share or choice that does not exist or does not fit the shape.
        DataError: the folder holds something, a record is of another kind than the shape's, text that is no
            UTF-8, prompts of two kinds in one column, or no record can be exported.
    """
    chosen = _chosen_shape(shape, file_kind, ties)
    order = _Order(name=shape, shape=chosen, file_kind=file_kind, shares=shares, seed=seed, ties=ties)
    _check_split_names(shares)
    _check_empty(Path(folder))
    given = list(records)
    pieces, left_out = _pieces(given, order)
    form = _prompt_form(pieces, order)
    by_split = _split(pieces, order)
    files = _encoded(by_split, form, order)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        created_by=f"trimtab {__version__}",
        shape=shape,
        file_kind=file_kind,
        prompts=form,
        ties=ties if order.shape.undecided == "choice" else order.shape.undecided,
        seed=seed,
        given=len(given),
        records=len(pieces),
        rows=len(_rows(pieces)),
        left_out=left_out,
        splits={split: _split_file(split, part, files, order) for split, part in by_split.items()},
        about=about or {},
    )
    for name, data in files.items():
        write_bytes(Path(folder) / name, data)
    write_bytes(Path(folder) / MANIFEST, json_bytes(manifest.as_dict()))
    return manifest


def _chosen_shape(shape: str, file_kind: str, ties: str) -> ExportShape[Any]:
    if shape not in EXPORTS:
        raise _no_such("shape", "there is no such shape to export", shape, EXPORTS)
    chosen = EXPORTS[shape]
    if file_kind not in chosen.kinds:
        raise _no_such("file_kind", f"{shape} is not written as this kind of file", file_kind, chosen.kinds)
    choices = get_args(Ties)
    if ties not in choices:
        raise _no_such("ties", "there is no such choice", ties, choices)
    if ties != "leave_out" and chosen.undecided != "choice":
        raise _no_such("ties", f"{shape} makes no pairs of ties", ties, ("leave_out",))
    return chosen


def _no_such(where: str, what: str, found: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(what, where=where, found=excerpt(found), fix=f"use {', '.join(known)}")


def _check_split_names(shares: Mapping[str, float]) -> None:
    """They become the names of files."""
    for name in shares:
        if not SPLIT_NAME.fullmatch(name) or name == Path(MANIFEST).stem:
            raise ConfigError(
                "a split cannot have this name",
                where="shares",
                found=excerpt(name),
                fix="use letters, digits, _ and -, as in train and held_out",
            )


def _check_empty(folder: Path) -> None:
    """What is left of an earlier export would be taken for a part of this one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            "the folder for the export is not empty", where=str(folder), fix="name a new folder, or empty it"
        )


def _pieces(records: Sequence[Exported], order: _Order) -> tuple[list[_Piece], dict[str, int]]:
    """What can be exported, and of the rest how many for which reason."""
    pieces, reasons = [], Counter[str]()
    for number, record in enumerate(records, start=1):
        _check_kind(record, number, order)
        try:
            rows = [row for way in _ways(record, order) for row in order.shape.rows(way, number)]
        except LeftOut as left_out:
            reasons[left_out.reason] += 1
            continue
        _check_storable(rows, number)
        pieces.append(_Piece(record, rows))
    if not pieces:
        counts = ", ".join(f"{count} left out: {reason}" for reason, count in reasons.items())
        raise DataError(
            f"there is nothing to export as {order.name}",
            found=counts or "no records",
            fix="give records that the shape can hold",
        )
    return _evened(pieces, order.shape), dict(sorted(reasons.items()))


def _check_kind(record: Exported, number: int, order: _Order) -> None:
    wanted = order.shape.holds
    if not isinstance(record, wanted):
        raise DataError(
            f"{order.name} holds records of another kind",
            where=f"record {number}",
            found=type(record).__name__,
            fix=f"give records of the kind {wanted.__name__}, or choose another shape",
        )


def _ways(record: Exported, order: _Order) -> Sequence[Exported]:
    if isinstance(record, Comparison) and order.shape.undecided != "kept":
        return decided_ways(record, order.ties)
    return [record]


def _check_storable(rows: Sequence[RawRow], number: int) -> None:
    """Half a character has no place in any of the files."""
    try:
        json.dumps(rows, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "a text holds half a character",
            where=f"record {number}",
            found=excerpt(error.object[max(0, error.start - 20) : error.start + 20]),
            fix="write the whole character, or drop the record",
        ) from error


def _evened(pieces: Sequence[_Piece], shape: ExportShape[Any]) -> list[_Piece]:
    """The same columns in all splits."""
    if shape.document:
        return list(pieces)
    even = iter(even_rows(_rows(pieces), shape.columns, shape.unknown))
    return [_Piece(piece.record, [next(even) for _ in piece.rows]) for piece in pieces]


def _rows(pieces: Iterable[_Piece]) -> list[RawRow]:
    return [row for piece in pieces for row in piece.rows]


def _prompt_form(pieces: Sequence[_Piece], order: _Order) -> PromptForm:
    """A column is of one type, and a text to continue is not a chat of one message: nothing is converted."""
    texts = sum(isinstance(piece.record.prompt, str) for piece in pieces)
    if texts in (0, len(pieces)):
        return "text" if texts else "chat"
    if "prompt" in order.shape.columns and order.file_kind not in order.shape.kinds_with_mixed_prompts:
        raise DataError(
            f"{order.name} as {order.file_kind} holds either text prompts or chats",
            where="prompt",
            found=f"{texts} texts and {len(pieces) - texts} chats",
            fix="export them apart",
        )
    return "text and chat"


def _split(pieces: Sequence[_Piece], order: _Order) -> dict[str, list[_Piece]]:
    rows = [Row(piece.record, "", place) for place, piece in enumerate(pieces)]
    by_split = split_by_prompt(rows, order.shares, order.seed)
    return {split: [pieces[row.line] for row in part] for split, part in by_split.items()}


def _encoded(by_split: Mapping[str, Sequence[_Piece]], form: PromptForm, order: _Order) -> dict[str, bytes]:
    """File name -> content; no file for a split without rows, as most tools cannot read an empty one."""
    everything = [row for part in by_split.values() for row in _rows(part)]
    return {
        order.file(split): _encode(_rows(part), everything, form, order)
        for split, part in by_split.items()
        if part
    }


def _encode(rows: list[RawRow], everything: Sequence[RawRow], form: PromptForm, order: _Order) -> bytes:
    if order.file_kind == "parquet":
        return parquet_bytes(rows, order.shape.columns, form)
    if order.file_kind == "json":
        return json_bytes(order.shape.document(rows, everything) if order.shape.document else rows)
    return jsonl_bytes(rows) if order.file_kind == "jsonl" else gzipped_jsonl_bytes(rows)


def _split_file(split: str, part: Sequence[_Piece], files: Mapping[str, bytes], order: _Order) -> SplitFile:
    data = files.get(order.file(split))
    return SplitFile(
        file="" if data is None else order.file(split),
        share=order.shares[split],
        records=len(part),
        rows=len(_rows(part)),
        prompts=len({prompt_key(piece.record.prompt) for piece in part}),
        sha256="" if data is None else hashlib.sha256(data).hexdigest(),
    )
