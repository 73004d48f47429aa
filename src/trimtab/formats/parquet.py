"""Parquet tables: each row becomes an object; nested lists of messages stay lists of objects."""

from __future__ import annotations

from pathlib import Path

from trimtab.formats.jsonl import file_sha256
from trimtab.formats.rows import Content, RawRow, RowError


def read_parquet(path: Path) -> Content:
    """Every row of the table, numbered from 1."""
    import pyarrow
    import pyarrow.parquet

    entries: list[tuple[int, RawRow]] = []
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    entries.append((len(entries) + 1, {key: v for key, v in row.items() if v is not None}))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        defect = RowError(
            "broken file",
            "the Parquet file cannot be read",
            found=str(error).splitlines()[0],
            fix="copy or download the file again",
        ).at(str(path), len(entries) + 1)
        return Content(str(path), tuple(entries), (defect,), file_sha256(path))
    return Content(str(path), tuple(entries), (), file_sha256(path))
