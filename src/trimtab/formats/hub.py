"""Data sets of the Hugging Face hub, read through `datasets`.

Spelled `owner/name`, `owner/name:part`, `owner/name:part[split]`. The part is a configuration of the
data set or, where it has none of that name, a folder in it, as HH-RLHF keeps its subsets; the split is
`train` unless another is named, and may be a slice such as `train[:100]`.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from trimtab.errors import DataError
from trimtab.formats.rows import Content, RawRow

SPELLING = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(:(?P<part>[^\[\]]+))?(\[(?P<split>\w+(\[[^\[\]]*\])?)\])?"
)


class HubSource(NamedTuple):
    repository: str
    part: str
    split: str


def parse_hub_source(source: str) -> HubSource | None:
    """What `source` names on the hub; None when it is not spelled like a data set."""
    match = SPELLING.fullmatch(source)
    if match is None:
        return None
    return HubSource(match["repository"], match["part"] or "", match["split"] or "train")


def read_hub(source: str, hub: HubSource) -> Content:
    """Every row of one split, numbered from 1.

    Raises:
        DataError: the data set, part or split does not exist, or the hub cannot be reached.
    """
    try:
        rows = _load(hub)
    except Exception as error:  # the hub's client raises some twenty kinds, its HTTP library's among them
        raise DataError(
            "there is no such file, and no data set of this name could be loaded from the hub",
            where=source,
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
            fix="check the spelling, owner/name:part[split], and the connection; or give a local file",
        ) from error
    digest = hashlib.sha256()
    entries: list[tuple[int, RawRow]] = []
    for number, row in enumerate(rows, start=1):
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
        entries.append((number, {key: value for key, value in row.items() if value is not None}))
    return Content(source, tuple(entries), (), digest.hexdigest())


def _load(hub: HubSource) -> Any:
    import datasets

    if not hub.part:
        return datasets.load_dataset(hub.repository, split=hub.split)
    if hub.part in datasets.get_dataset_config_names(hub.repository):
        return datasets.load_dataset(hub.repository, hub.part, split=hub.split)
    return datasets.load_dataset(hub.repository, data_dir=hub.part, split=hub.split)
