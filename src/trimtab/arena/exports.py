"""The comparison for other tools: one row a verdict (CSV), LLM Comparator, Markdown for a pull request."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from trimtab.arena.cost import method_rows
from trimtab.arena.findings import Findings
from trimtab.arena.sentences import limits, meaning
from trimtab.arena.tables import match_rows, summary_rows
from trimtab.arena.winrate import Judgments
from trimtab.formats.exports import comparator
from trimtab.formats.exports.shape import LeftOut
from trimtab.formats.rows import RawRow
from trimtab.hidden import visible
from trimtab.records import prompt_text

_MARKDOWN = re.compile(r"[\\`*_<>|!~&]|\](?=[(\[:])")
_BLOCK = re.compile(r"^(\d*)(?=[-+#=.)]+(\s|$))")
"""Before what would begin a heading or a list within a list."""
_WORD = re.compile(r"[^\s`|\\]+|[`|\\]")
"""What may stand in code as it is, even in a table; or one character that may not."""
_LIVE = re.compile(r"://|www\.|@|#\d|\bGH-\d|:[\w+-]+:|\$", re.IGNORECASE)
"""In a word of which GitHub would make a link, a mention, a reference to an issue, an emoji or a formula."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(judged: Sequence[Judgments]) -> str:
    """One row a prompt and pair of policies.

    A cell that a spreadsheet would take for a formula gets a ' before it.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(("prompt", "policy_a", "policy_b", "preferred", "prompt_text", "answer_a", "answer_b"))
    for one in judged:
        for index, (comparison, verdict) in enumerate(zip(one.comparisons, one.verdicts, strict=True)):
            preferred = verdict.preferred if verdict else ""
            texts = (prompt_text(comparison.prompt), comparison.a, comparison.b)
            row = (index + 1, one.left, one.right, preferred, *texts)
            writer.writerow([_harmless(cell) for cell in row])
    return _storable(file.getvalue())


def to_llm_comparator(judged: Judgments) -> str:
    """A match as a file that LLM Comparator opens; what nobody can have preferred is left out."""
    rows: list[RawRow] = []
    for comparison, verdict in zip(judged.comparisons, judged.verdicts, strict=True):
        named = replace(comparison, source_a=judged.left, source_b=judged.right, verdict=verdict)
        with suppress(LeftOut):
            rows += comparator.llm_comparator(named, len(rows))
    both: RawRow = {"models": tuple(sorted((judged.left, judged.right)))}
    return _storable(json.dumps(comparator.document(rows, [both]), ensure_ascii=False, indent=1))


def to_markdown(findings: Findings) -> str:
    """Headline, what it means, the tables, and the limits; text of models and prompts is left out."""
    parts = [
        f"### {_inline(findings.headline)}",
        _inline(findings.judge.sentence),
        _list(meaning(findings)),
        _table(match_rows(findings)),
        _table(summary_rows(findings)),
    ]
    if findings.costs:
        parts.append(_table(method_rows(findings.costs)))
    parts += ["**Limits**", _list(limits(findings))]
    return _storable("\n\n".join(parts) + "\n")


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _storable(text: str) -> str:
    """Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _list(sentences: Iterable[str]) -> str:
    lines = (_BLOCK.sub(r"\1\\", _inline(sentence)) for sentence in sentences)
    return "\n".join(f"- {line}" for line in lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([_inline(cell) for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def _inline(text: str) -> str:
    """Names are the user's: no character of theirs may end a cell, open a link, become HTML or hide others.

    What GitHub finds in the text after the Markdown has been read (github.com/github/cmark-gfm/issues/181)
    no backslash and no entity keeps from it; code it leaves alone.
    """
    return _WORD.sub(_inert, " ".join(visible(text).splitlines()))


def _inert(word: re.Match[str]) -> str:
    if _LIVE.search(word[0]):
        return f"`{word[0]}`"
    return _MARKDOWN.sub(r"\\\g<0>", word[0])
