"""JSON Lines, plain or gzipped: one object a line, UTF-8.

A line that cannot be read becomes a defect and the reading goes on, so that one look shows them all.
Whether a file is gzipped is seen from its first bytes, since names are often wrong about it.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from trimtab.formats.rows import Content, Defect, RawRow, RowError, excerpt

GZIP_MAGIC = b"\x1f\x8b"
ONE_OBJECT = 'write one JSON object a line, like {"prompt": "...", "completion": "..."}'


def read_jsonl(path: Path) -> Content:
    """Every line of the file, as an object or as a defect; blank lines are skipped."""
    entries: list[tuple[int, RawRow]] = []
    defects: list[Defect] = []
    file, number = str(path), 0
    try:
        for number, line in enumerate(_lines(path), start=1):
            try:
                if number == 1:
                    line = _without_byte_order_mark(line)
                if line.strip():
                    entries.append((number, parse_line(line)))
            except RowError as error:
                defects.append(error.at(file, number))
                if error.field == "byte order mark":
                    break
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        defects.append(_broken_gzip(error).at(file, number + 1))
    return Content(file, tuple(entries), tuple(defects), file_sha256(path))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        gzipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    with gzip.open(path) if gzipped else path.open("rb") as file:
        yield from file


def _without_byte_order_mark(line: bytes) -> bytes:
    """UTF-8's mark is harmless and dropped; any other says that the whole file is in another encoding."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RowError(
            "wrong encoding",
            "the file is not UTF-8",
            field="byte order mark",
            found=f"the byte order mark of UTF-16 or UTF-32 ({line[:2].hex(' ')})",
            fix="save the file as UTF-8: iconv -f UTF-16 -t UTF-8",
        )
    return line.removeprefix(codecs.BOM_UTF8)


def parse_line(line: bytes) -> RawRow:
    """One line as an object without its null fields.

    Raises:
        RowError: bytes that are not UTF-8, text that is not JSON, JSON that is not an object.
    """
    text = _decode(line)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        near = excerpt(text[max(0, error.pos - 20) : error.pos + 20].strip())
        raise RowError(
            "bad JSON",
            f"the line is not JSON: {error.msg} at column {error.colno}",
            found=near,
            fix=ONE_OBJECT,
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise RowError(
            "bad JSON", "the line is not usable JSON", found=type(error).__name__, fix=ONE_OBJECT
        ) from error
    if not isinstance(value, dict):
        raise RowError(
            "bad JSON",
            "the line is not a JSON object",
            found=excerpt(value),
            fix=ONE_OBJECT + (" (jq -c '.[]' does it)" if isinstance(value, list) else ""),
        )
    if "\\u" in text:
        _check_surrogates(text, value)
    return {key: field for key, field in value.items() if field is not None}


def _decode(line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            "wrong encoding",
            "the line is not UTF-8",
            found=f"byte 0x{line[error.start]:02x} at position {error.start + 1}",
            fix="save the file as UTF-8: iconv -f WINDOWS-1252 -t UTF-8, if that is what it is",
        ) from error
    if "\x00" in text:
        raise RowError(
            "wrong encoding",
            "the line holds NUL bytes, as UTF-16 text does",
            found=f"byte 0x00 at position {line.index(0) + 1}",
            fix="save the file as UTF-8: iconv -f UTF-16 -t UTF-8",
        )
    return text


def _check_surrogates(text: str, value: object) -> None:
    """Half a character written as an escape is legal JSON, but no tokenizer and no file can take it."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise RowError(
            "wrong encoding",
            "an escape stands for half a character",
            found=f"{half} at column {text.lower().find(half) + 1}",
            fix="write the whole character, or both halves of it",
        ) from error


def _broken_gzip(error: Exception) -> RowError:
    return RowError(
        "broken file",
        "the compressed file is cut off or damaged: nothing from here on can be read",
        found=str(error),
        fix="copy or download the file again",
    )


def file_sha256(path: Path) -> str:
    """Of the bytes as stored."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_jsonl(path: Path, objects: Iterable[RawRow]) -> None:
    """One object a line; gzipped when the name ends in `.gz`, with equal bytes for equal rows."""
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in objects)
    data = text.encode("utf-8")
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_bytes(path: Path, data: bytes) -> None:
    """The file appears under its name when it is complete, never before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
