"""Files into items to be judged: prompts, comparisons, matches, demonstrations, ratings, lists of answers.

Every row may bring `context` (passages to read beside the prompt), `gold` (what a careful person says) and
`keywords`. What else it holds decides its shape, as for all files of trimtab; only a list of `answers` is
read here alone. Whatever verdict stands in a file is not read: it is to be judged anew, by people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.errors import DataError
from trimtab.feedback.records import ANSWERS, Candidate, Item, Kind, Outcome, check_item, outcome_of_json
from trimtab.formats.reading import refuse_defects
from trimtab.formats.rows import Defect, RawRow, RowError, excerpt
from trimtab.formats.shapes import all_shapes, comparison_shapes, prompt_shapes, read_row
from trimtab.formats.sources import read_content
from trimtab.formats.values import check_different, check_reply, keywords_of, prompt_of_value, text_of
from trimtab.records import Comparison, Demonstration, Rating

ANSWER_FIELDS = ("text", "source", "policy_hash", "stopped")
SHORT_GOLD = {
    "compare": ("compared", "preferred"),
    "rank": ("ranked", "places"),
    "rate": ("graded", "grade"),
    "demonstrate": ("written", "response"),
}
"""Kind of project -> the outcome, and the field of it that `gold` may give alone: `"gold": "a"`."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a file gave."""

    items: tuple[Item, ...]
    left_out: tuple[Defect, ...]
    """Rows that nobody can judge, such as those with a blank answer, each with its reason."""


def read_items(path: Path | str, kind: Kind) -> list[Item]:
    """The items in a file, for a project of this kind.

    Raises:
        DataError: as `read_incoming`.
    """
    return list(read_incoming(path, kind).items)


def read_incoming(path: Path | str, kind: Kind) -> Incoming:
    """The items in a file (JSONL, JSONL.gz, Parquet), and what was left out of them.

    Raises:
        DataError: there is no such file, a row of it cannot be read or is of another kind, with its line, or
            nothing is left.
    """
    content = read_content(path)
    items: list[Item] = []
    defects = list(content.defects)
    for line, row in content.entries:
        try:
            items += _items(row, kind)
        except RowError as error:
            defects.append(error.at(content.source, line))
    defects.sort(key=lambda defect: defect.line)
    refuse_defects(defects)
    left_out = tuple(defect for defect in defects if defect.effect == "left out")
    if not items:
        raise DataError(
            "no row of it can be judged",
            where=content.source,
            found=f"{left_out[0].where}: {left_out[0].what}" if left_out else "no rows",
            fix=f"trimtab data check {content.source}",
        )
    return Incoming(tuple(items), left_out)


def items_of(comparisons: Sequence[Comparison], hashes: Mapping[str, str] | None = None) -> list[Item]:
    """Comparisons as items to be compared, one each.

    Args:
        hashes: source -> hash of the policy behind it, where it is known.
    """
    return [Item(prompt=one.prompt, answers=_both(one, hashes or {})) for one in comparisons]


def _items(row: RawRow, kind: Kind) -> Iterator[Item]:
    """The items of one row, checked: two where both answers of a comparison are to be rated."""
    context, keywords = _texts(row, "context"), keywords_of(row)
    gold = _gold(row, kind)
    listed = "answers" in row and kind != "demonstrate"
    for item in _listed(row) if listed else _READERS[kind](row):
        try:
            whole = replace(item, context=context, keywords=keywords, gold=gold)
            check_item(kind, whole)
        except ValueError as error:
            field = "gold" if gold is not None and len(item.answers) in ANSWERS[kind] else "answers"
            raise RowError("wrong value", str(error), field=field, found=excerpt(row.get(field))) from error
        yield whole


def _prompts(row: RawRow) -> list[Item]:
    """To be answered: the prompt of any row, whatever answers stand beside it."""
    prompt = read_row(row, prompt_shapes("chat"))
    return [Item(prompt=prompt)]


def _pairs(row: RawRow) -> list[Item]:
    comparison = read_row(row, comparison_shapes("chat"))
    check_different(comparison.a, comparison.b, ("a", "b"))
    return items_of([comparison])


def _singles(row: RawRow) -> list[Item]:
    """To be rated: the response of a demonstration or a rating; each of the two of a comparison."""
    record = read_row(row, all_shapes("chat"))
    if isinstance(record, Comparison):
        return _each(record)
    if not isinstance(record, Demonstration | Rating):
        raise RowError(
            "missing field",
            "the row has no answer to rate",
            field="completion",
            found=f"the fields {', '.join(row)}",
            fix="give the row `prompt` + `completion`, or `prompt` + `answers` with one answer",
        )
    return [Item(prompt=record.prompt, answers=(Candidate(text=record.response),))]


def _each(comparison: Comparison) -> list[Item]:
    answers = _both(comparison, {})
    for answer, field in zip(answers, ("a", "b"), strict=True):
        check_reply(answer.text, field)
    return [Item(prompt=comparison.prompt, answers=(answer,)) for answer in answers]


def _rankings(row: RawRow) -> list[Item]:
    raise RowError(
        "missing field",
        "the row has no `answers`",
        field="answers",
        found=f"the fields {', '.join(row) or 'of an empty object'}",
        fix='give the row `prompt` + `answers`, such as {"prompt": "...", "answers": ["...", "...", "..."]}',
    )


_READERS: Mapping[Kind, Callable[[RawRow], list[Item]]] = {
    "demonstrate": _prompts,
    "compare": _pairs,
    "edit": _pairs,
    "rank": _rankings,
    "rate": _singles,
}


def _both(comparison: Comparison, hashes: Mapping[str, str]) -> tuple[Candidate, ...]:
    sides = (
        (comparison.a, comparison.source_a, comparison.stopped_a),
        (comparison.b, comparison.source_b, comparison.stopped_b),
    )
    return tuple(
        Candidate(text=text, source=source, stopped=stopped, policy_hash=hashes.get(source, ""))
        for text, source, stopped in sides
    )


def _listed(row: RawRow) -> list[Item]:
    """`prompt` + `answers`: texts, or objects with `text` and what is known of it."""
    if "prompt" not in row:
        raise RowError(
            "missing field",
            "the row has no `prompt`",
            field="prompt",
            found=f"the fields {', '.join(row)}",
            fix="give the row `prompt` + `answers`",
        )
    given = row["answers"]
    if not isinstance(given, list):
        raise RowError(
            "wrong value",
            "`answers` must be a list of answers",
            field="answers",
            found=excerpt(given),
            fix='write ["one answer", "another one"]',
        )
    answers = tuple(_answer(value, f"answers[{index}]") for index, value in enumerate(given))
    texts: dict[str, int] = {}
    for index, answer in enumerate(answers):
        first = texts.setdefault(answer.text.strip(), index)
        if first != index:
            check_different(answer.text, answer.text, (f"answers[{first}]", f"answers[{index}]"))
    return [Item(prompt=prompt_of_value(row["prompt"], "prompt"), answers=answers)]


def _answer(value: object, field: str) -> Candidate:
    fields: dict[str, Any] = {"text": value} if isinstance(value, str) else {}
    if isinstance(value, dict):
        fields = {name: part for name, part in value.items() if part is not None}
    if not isinstance(value, str | dict) or fields.keys() - set(ANSWER_FIELDS) or "text" not in fields:
        raise RowError(
            "wrong value",
            f"an answer is text, or an object with {', '.join(ANSWER_FIELDS)}",
            field=field,
            found=excerpt(value),
            fix='write {"text": "...", "source": "runs/dpo"}',
        )
    check_reply(text_of(fields["text"], f"{field}.text"), f"{field}.text")
    try:
        return Candidate(**fields)
    except ValueError as error:
        raise RowError("wrong value", str(error), field=field, found=excerpt(value)) from error


def _texts(row: RawRow, name: str) -> tuple[str, ...]:
    """One text, or a list of texts; none where the row has no such field."""
    value = row.get(name, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RowError(
            "wrong value",
            f"`{name}` must be a list of texts",
            field=name,
            found=excerpt(value),
            fix='write ["a passage", "another one"]',
        )
    return tuple(texts)


def _gold(row: RawRow, kind: Kind) -> Outcome | None:
    """`gold`: a whole outcome, or what matters of it alone: `"a"`, `[2, 1, 3]`, `6`."""
    value = row.get("gold")
    if value is None:
        return None
    if not isinstance(value, dict) and kind in SHORT_GOLD:
        said, field = SHORT_GOLD[kind]
        value = {"kind": said, field: value}
    try:
        return outcome_of_json(value)
    except ValueError as error:
        raise RowError(
            "wrong value",
            str(error),
            field="gold",
            found=excerpt(row["gold"]),
            fix='write what a careful person says, such as "a" for a comparison and [2, 1, 3] for a ranking',
        ) from error
