"""Files and data sets to records and back. Never imports torch; datasets and pyarrow only when needed."""

from trimtab.formats.checks import CheckReport, check
from trimtab.formats.dialogues import Dialogues
from trimtab.formats.exports.manifest import Manifest, SplitFile
from trimtab.formats.exports.shape import ExportShape, FileKind, Ties
from trimtab.formats.exports.table import EXPORTS
from trimtab.formats.exports.write import write_export
from trimtab.formats.reading import (
    holds_ratings,
    read_any,
    read_comparisons,
    read_demonstrations,
    read_prompts,
    read_ratings,
    refuse_leakage,
    usable,
)
from trimtab.formats.rows import Defect, Reading, Row
from trimtab.formats.splits import leakage, prompt_key, split_by_prompt
from trimtab.formats.writing import write_comparisons, write_demonstrations, write_prompts

__all__ = [
    "EXPORTS",
    "CheckReport",
    "Defect",
    "Dialogues",
    "ExportShape",
    "FileKind",
    "Manifest",
    "Reading",
    "Row",
    "SplitFile",
    "Ties",
    "check",
    "holds_ratings",
    "leakage",
    "prompt_key",
    "read_any",
    "read_comparisons",
    "read_demonstrations",
    "read_prompts",
    "read_ratings",
    "refuse_leakage",
    "split_by_prompt",
    "usable",
    "write_comparisons",
    "write_demonstrations",
    "write_export",
    "write_prompts",
]
