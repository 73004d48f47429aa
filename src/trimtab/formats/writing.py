"""Records into JSONL; gzipped when the name ends in `.gz`. Every file reads back as the same records.

Prompts and demonstrations are written in TRL's shapes, comparisons as trimtab's own record, which alone
holds ties, sources and judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trimtab.formats.jsonl import write_jsonl
from trimtab.formats.own_record import answer_json, comparison_json, prompt_json
from trimtab.formats.rows import RawRow
from trimtab.records import Comparison, Demonstration, Prompt


def write_comparisons(path: str | Path, comparisons: Iterable[Comparison]) -> None:
    """One comparison a line."""
    write_jsonl(Path(path), map(comparison_json, comparisons))


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """One `prompt` a line."""
    write_jsonl(Path(path), ({"prompt": prompt_json(prompt)} for prompt in prompts))


def write_demonstrations(path: str | Path, demonstrations: Iterable[Demonstration]) -> None:
    """One `prompt` and `completion` a line, and `keywords` where there are any.

    The completion of a chat is a list of one message.
    """
    write_jsonl(Path(path), map(_demonstration_json, demonstrations))


def _demonstration_json(demonstration: Demonstration) -> RawRow:
    prompt, response = demonstration.prompt, demonstration.response
    keywords = {"keywords": list(demonstration.keywords)} if demonstration.keywords else {}
    return {"prompt": prompt_json(prompt), "completion": answer_json(prompt, response), **keywords}
