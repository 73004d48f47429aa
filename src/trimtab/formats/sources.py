"""Where data comes from: a local file, or a data set of the hub. A local file that exists wins."""

from __future__ import annotations

import difflib
from pathlib import Path

from trimtab.errors import DataError
from trimtab.formats.hub import parse_hub_source, read_hub
from trimtab.formats.jsonl import read_jsonl
from trimtab.formats.parquet import read_parquet
from trimtab.formats.rows import Content, Defect, RowError

READERS = {".jsonl": read_jsonl, ".jsonl.gz": read_jsonl, ".parquet": read_parquet}
ENDINGS = ", ".join(READERS)


def read_content(source: str | Path) -> Content:
    """The objects in `source`, whatever their shape, and what could not be read.

    Raises:
        DataError: there is no such file or data set, or the file is of another kind.
    """
    path = Path(source).expanduser()
    ending = next((ending for ending in READERS if path.name.endswith(ending)), None)
    hub = parse_hub_source(str(source))
    if path.is_file():
        content = _read_file(path, ending)
    elif path.is_dir():
        raise DataError("this is a folder", where=str(source), fix=f"name one file in it ({ENDINGS})")
    elif hub is None or ending is not None:
        raise _no_such_file(path)
    else:
        content = read_hub(str(source), hub)
    if content.entries or content.defects:
        return content
    return Content(content.source, (), (_no_rows(content.source),), content.sha256)


def _read_file(path: Path, ending: str | None) -> Content:
    if ending is None:
        raise DataError(
            "files of this kind are not read",
            where=str(path),
            found=f"the ending {path.suffix!r}",
            fix=f"convert it to one of {ENDINGS}; in JSONL every line is one JSON object",
        )
    try:
        return READERS[ending](path)
    except PermissionError as error:
        raise DataError("the file may not be read", where=str(path), fix=f"chmod u+r {path}") from error


def _no_such_file(path: Path) -> DataError:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, n=1)
    if nearest:
        return DataError("there is no such file", where=str(path), fix=f"did you mean {nearest[0]}?")
    if not path.parent.is_dir():
        return DataError("there is no such file", where=str(path), found=f"no folder {path.parent}")
    return DataError(
        "there is no such file", where=str(path), fix="give a file, or a hub data set as owner/name"
    )


def _no_rows(source: str) -> Defect:
    return RowError("no rows", "the source is empty", fix=f"give a file that has rows ({ENDINGS})").at(
        source, 0
    )
