"""What an export says about itself: enough to know what is in it, what is not, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from trimtab.formats.exports.files import PromptForm
from trimtab.formats.exports.shape import FileKind, Ties, Undecided

SCHEMA_VERSION = 1
"""Raised when a column or a field of the manifest changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class SplitFile:
    """One split."""

    file: str
    """Name within the folder; empty where the split got no record, and no file is written."""
    share: float
    """The expected share of the prompts."""
    records: int
    rows: int
    prompts: int
    """Different ones, white space aside."""
    sha256: str
    """Of the file's bytes; empty without a file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The file `manifest.json`, written when all others are."""

    schema_version: int
    created_by: str
    shape: str
    file_kind: FileKind
    prompts: PromptForm
    """Whether prompts are texts to continue or chats."""
    ties: Ties | Undecided
    """`kept` as they are, or what became of them; `none` where records are not comparisons."""
    seed: int
    """Of the split."""
    given: int
    """Records before any was left out."""
    records: int
    rows: int
    left_out: Mapping[str, int]
    """Reason -> records."""
    splits: Mapping[str, SplitFile]
    about: Mapping[str, object]
    """What the writer knows of the records beyond them: where they are from, what was not handed over."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)
