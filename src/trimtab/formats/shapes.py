"""The shapes of rows: one function turns one row of one shape into a record.

A shape is recognised row by row, so a file may mix them. To add a shape: one function, one line in a table.
Shapes with `prompt`, `completion`, `chosen`, `rejected`, `messages` and `label` are TRL's (its
dataset_formats page); text stays text and lists of messages take the model's chat template.
Not read: tool calls, images, ShareGPT's `from`/`value`, step-wise labels, rows that are token ids already.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from trimtab.formats.dialogues import READ_DIALOGUE, Dialogues, is_dialogue
from trimtab.formats.implicit import read_implicit_chat, read_implicit_text
from trimtab.formats.instructions import read_instances, read_instruction
from trimtab.formats.own_record import read_comparison
from trimtab.formats.rows import R, RawRow, Record, RowError, excerpt, prompt_of
from trimtab.formats.values import (
    chat_prompt,
    check_not_blank,
    check_reply,
    decided_pair,
    keywords_of,
    messages_of,
    prompt_of_value,
    response_of_value,
    split_chat,
    text_of,
)
from trimtab.records import Comparison, Demonstration, Prompt, Rating

S = TypeVar("S")
SIMILAR = 0.75
"""difflib's ratio from which a field name counts as a misspelling of another."""


@dataclass(frozen=True)
class Shape(Generic[R]):
    """How one kind of row is recognised, by its fields or by a closer look, and read."""

    fields: tuple[str, ...]
    """All must be there; named in this order when they are missing."""
    read: Callable[[RawRow], R]
    recognise: Callable[[RawRow], bool] = lambda row: True

    def fits(self, row: RawRow) -> bool:
        """Whether the row is of this shape."""
        return all(field in row for field in self.fields) and self.recognise(row)


def read_row(row: RawRow, shapes: Mapping[str, Shape[R]]) -> R:
    """The row as a record, by the first shape that recognises it.

    Raises:
        RowError: what is wrong with the row; a missing field when no shape recognises it.
    """
    for shape in shapes.values():
        if shape.fits(row):
            return shape.read(row)
    raise _missing_field(row, shapes)


def _missing_field(row: RawRow, shapes: Mapping[str, Shape[R]]) -> RowError:
    """Names what the nearest shape lacks, and the field that looks like a misspelling of it."""

    def distance(shape: Shape[R]) -> tuple[int, int]:
        there = sum(field in row or _misspelled(field, row) is not None for field in shape.fields)
        return -there, len(shape.fields) - there

    fields = min(shapes.values(), key=distance).fields
    field = next(field for field in fields if field not in row)
    near = _misspelled(field, row)
    wanted = " + ".join(f"`{name}`" for name in fields)
    return RowError(
        "missing field",
        f"the row has no `{field}`",
        field=field,
        found=f"the fields {', '.join(row) or 'of an empty object'}",
        fix=f"rename `{near}` to `{field}`" if near else f"give the row {wanted}",
    )


def _misspelled(field: str, row: RawRow) -> str | None:
    """The field of `row` that was probably meant to be `field`."""
    names = {name.lower().strip(): name for name in row if name != field}
    near = difflib.get_close_matches(field, names, n=1, cutoff=SIMILAR)
    return names[near[0]] if near else None


def read_explicit(row: RawRow) -> Comparison:
    """`prompt` + `chosen` + `rejected`; a chat on either side may repeat the prompt before its reply."""
    prompt = prompt_of_value(row["prompt"], "prompt")
    sides = (row["chosen"], row["rejected"])
    if not any(isinstance(side, list) for side in sides):
        return decided_pair(prompt, text_of(sides[0], "chosen"), text_of(sides[1], "rejected"))
    chat = chat_prompt(prompt)
    chosen = response_of_value(sides[0], "chosen", chat)
    return decided_pair(chat, chosen, response_of_value(sides[1], "rejected", chat))


def read_messages(row: RawRow) -> Demonstration:
    """`messages`: a whole chat; its last message is the response, of the assistant. `keywords` if known."""
    prompt, response = split_chat(messages_of(row["messages"], "messages"), "messages")
    check_reply(response, "messages")
    check_not_blank(prompt, "messages")
    return Demonstration(prompt=prompt, response=response, keywords=keywords_of(row))


def read_completion(row: RawRow) -> Demonstration:
    """`prompt` + `completion`, plain or as chats; `keywords` if known."""
    for field in ("label", "grade"):
        if field in row:
            raise RowError(
                "wrong value",
                "a rated response is not a demonstration",
                field=field,
                found=excerpt(row[field]),
                fix=f"keep the rows that are rated good, without the `{field}`",
            )
    prompt, response = _prompt_and_completion(row)
    return Demonstration(prompt=prompt, response=response, keywords=keywords_of(row))


def read_rating(row: RawRow) -> Rating:
    """`prompt` + `completion` + `label`, true for a good response."""
    prompt, response = _prompt_and_completion(row)
    label = row["label"]
    if not isinstance(label, bool):
        raise RowError(
            "wrong value",
            "`label` must be true or false",
            field="label",
            found=excerpt(label),
            fix="write true for a good response, false for a bad one",
        )
    return Rating(prompt=prompt, response=response, label=label)


def read_grade(row: RawRow) -> Rating:
    """`prompt` + `completion` + `grade`, a whole number from 1, bad, to 7, good."""
    prompt, response = _prompt_and_completion(row)
    grade = row["grade"]
    if isinstance(grade, bool) or not isinstance(grade, int) or grade not in range(1, 8):
        raise RowError(
            "wrong value",
            "`grade` must be a whole number from 1 to 7",
            field="grade",
            found=excerpt(grade),
            fix="write 1 for the worst and 7 for the best response",
        )
    return Rating(prompt=prompt, response=response, grade=grade)


def _prompt_and_completion(row: RawRow) -> tuple[Prompt, str]:
    prompt = prompt_of_value(row["prompt"], "prompt")
    if isinstance(row["completion"], list):
        prompt = chat_prompt(prompt)
        response = response_of_value(row["completion"], "completion", prompt)
    else:
        response = text_of(row["completion"], "completion")
    check_reply(response, "completion")
    return prompt, response


def demonstrate(comparison: Comparison) -> Demonstration:
    """The preferred answer as something to imitate."""
    if not comparison.decided:
        preferred = comparison.verdict.preferred if comparison.verdict else "no verdict"
        raise RowError(
            "no winner",
            "the comparison names no winner, so there is nothing to imitate",
            field="verdict",
            found=preferred,
            fix="judge it first, or let it be left out",
        )
    return Demonstration(prompt=comparison.prompt, response=comparison.chosen)


def comparison_shapes(dialogues: Dialogues) -> Mapping[str, Shape[Comparison]]:
    """Every shape that holds two responses."""
    pair = ("chosen", "rejected")
    return {
        "trimtab": Shape(("prompt", "a", "b"), read_comparison),
        "explicit prompt": Shape(("prompt", *pair), read_explicit),
        "HH-RLHF dialogue": Shape(pair, READ_DIALOGUE[dialogues], is_dialogue),
        "implicit prompt, chat": Shape(pair, read_implicit_chat, _has_chat),
        "implicit prompt, text": Shape(pair, read_implicit_text),
    }


def _has_chat(row: RawRow) -> bool:
    return isinstance(row["chosen"], list) or isinstance(row["rejected"], list)


RATINGS: Mapping[str, Shape[Rating]] = {
    "rating": Shape(("prompt", "completion", "label"), read_rating),
    "grade": Shape(("prompt", "completion", "grade"), read_grade),
}
PLAIN_DEMONSTRATIONS: Mapping[str, Shape[Demonstration]] = {
    "messages": Shape(("messages",), read_messages),
    "completion": Shape(("prompt", "completion"), read_completion),
    "instances": Shape(("instruction", "instances"), read_instances),
    "instruction": Shape(("instruction", "output"), read_instruction),
}


def demonstration_shapes(dialogues: Dialogues) -> Mapping[str, Shape[Demonstration]]:
    """Demonstrations as such, and the preferred answers of comparisons."""
    preferred = _then(comparison_shapes(dialogues), demonstrate)
    return {**PLAIN_DEMONSTRATIONS, **preferred}


def prompt_shapes(dialogues: Dialogues) -> Mapping[str, Shape[Prompt]]:
    """The prompts of all other shapes, and prompts alone."""
    alone = Shape(("prompt",), lambda row: prompt_of_value(row["prompt"], "prompt"))
    return {**_then(_answered_shapes(dialogues), prompt_of), "prompt alone": alone}


def all_shapes(dialogues: Dialogues) -> Mapping[str, Shape[Record]]:
    """Every shape. A prompt stands alone only where no other field hints at a pair or a response."""
    alone: Shape[Record] = Shape(
        ("prompt",), lambda row: prompt_of_value(row["prompt"], "prompt"), lambda row: not _answered(row)
    )
    return {**_answered_shapes(dialogues), "prompt alone": alone}


def _answered_shapes(dialogues: Dialogues) -> Mapping[str, Shape[Record]]:
    return {
        **_then(comparison_shapes(dialogues), _as_record),
        **_then(RATINGS, _as_record),
        **_then(PLAIN_DEMONSTRATIONS, _as_record),
    }


def _then(shapes: Mapping[str, Shape[R]], finish: Callable[[R], S]) -> Mapping[str, Shape[S]]:
    """The same shapes, with one more step after reading."""

    def finished(read: Callable[[RawRow], R]) -> Callable[[RawRow], S]:
        return lambda row: finish(read(row))

    return {
        name: Shape(shape.fields, finished(shape.read), shape.recognise) for name, shape in shapes.items()
    }


def _as_record(record: Comparison | Rating | Demonstration) -> Record:
    """Widens the type, so that tables of different records can be joined."""
    return record


def _answered(row: RawRow) -> bool:
    fields = ("a", "b", "chosen", "rejected", "completion")
    return any(field in row or _misspelled(field, row) is not None for field in fields)
