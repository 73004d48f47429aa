"""Rows to test a reward model with: RewardBench's two shapes, and comparisons of any other.

    {"prompt": "..." or [messages], "chosen": "...", "rejected": "...", "subset": "hep-go", "id": 7}
    {"prompt": "...", "chosen": ["...", ...], "rejected": ["...", ...], "subset": "Ties", "id": "ref:3",
     "num_correct": 1, "total_completions": 4}

In the first, `chosen` and `rejected` may be whole chats: the prompt is then all but their last turn.
A plain-text prompt stays text; a judge is told with it whether a person asked it (`BenchmarkRow.asked`).
Unlike data to train on, a benchmark keeps empty and identical responses: a benchmark's score is over
all of its rows, and a model that scores both sides of such a pair alike has it wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trimtab.formats.dialogues import Dialogues
from trimtab.formats.reading import read_shapes
from trimtab.formats.rows import RawRow, Reading, RowError, excerpt
from trimtab.formats.shapes import Shape, comparison_shapes
from trimtab.formats.values import messages_of, prompt_of_value, split_chat, text_of
from trimtab.records import Comparison, Message, Prompt

Form = Literal["pair", "best of n"]
"""pair: RewardBench and comparisons, a tie is wrong; best of n: RewardBench 2, a tie shares the credit."""

FORMS = get_args(Form)

WHOLE = "all"
"""The subset of rows that name none."""

OWN = "trimtab"
"""The shape, of those in `comparison_shapes`, in which either response may be the preferred one."""

TIES_ID = re.compile(r"(ref|tied):\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRow:
    """A prompt with correct and incorrect responses, and the subset it counts towards."""

    prompt: Prompt
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    form: Form
    subset: str = WHOLE
    id: str = ""
    chosen_stood: Literal["first", "second"] | None = None
    """Where the preferred of two responses stood in the file; None where the file puts it first always."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if not self.chosen or not self.rejected:
            raise ValueError("a row has at least one correct and one incorrect response")
        if self.form == "pair" and len(self.responses) != 2:
            raise ValueError(f"a pair has two responses, got {len(self.responses)}")

    @property
    def responses(self) -> tuple[str, ...]:
        """All of them, in the order in which scores are expected: correct ones first."""
        return self.chosen + self.rejected

    @property
    def asked(self) -> bool:
        """Whether it is RewardBench's own, whose plain-text prompts are what a person asked.

        A pair without a subset may as well be a text with two continuations.
        """
        return self.form == "best of n" or self.subset != WHOLE

    @property
    def of_ties(self) -> bool:
        """Whether it belongs to RewardBench 2's subset of questions with many right answers."""
        return self.form == "best of n" and self.subset.lower() == "ties"


def read_benchmark(source: str | Path, *, dialogues: Dialogues = "chat") -> Reading[BenchmarkRow]:
    """RewardBench's rows, or the decided comparisons of any other file.

    Args:
        source: as `read_comparisons` takes it.
        dialogues: raw HH-RLHF dialogues become messages (chat), or stay text (raw).
    Raises:
        DataError: there is no such file or data set.
    """
    return read_shapes(source, benchmark_shapes(dialogues))


def benchmark_shapes(dialogues: Dialogues) -> Mapping[str, Shape[BenchmarkRow]]:
    """RewardBench's shapes, and each of `comparison_shapes` that they leave."""
    pair = ("prompt", "chosen", "rejected")
    own: dict[str, Shape[BenchmarkRow]] = {
        "RewardBench 2": Shape(pair, read_best_of, _has_lists_of_text),
        "RewardBench": Shape(pair, read_pair),
        "RewardBench, prompt in the chats": Shape(("chosen", "rejected"), read_pair, _has_chats),
    }
    others = {
        name: Shape(shape.fields, _compared(name, shape), shape.recognise)
        for name, shape in comparison_shapes(dialogues).items()
    }
    return own | others


def _has_lists_of_text(row: RawRow) -> bool:
    # One side is enough: a row whose other side is no list is then told so, not read as something else.
    return any(
        isinstance(side, list) and all(isinstance(text, str) for text in side)
        for side in (row["chosen"], row["rejected"])
    )


def _has_chats(row: RawRow) -> bool:
    return isinstance(row["chosen"], list) and isinstance(row["rejected"], list)


def read_pair(row: RawRow) -> BenchmarkRow:
    """One correct and one incorrect response, as text or as the last turn of a chat.

    Raises:
        RowError: a wrong value, an empty prompt, or chats that differ before the last turn.
    """
    (before, chosen), (other, rejected) = (_reply(row[side], side) for side in ("chosen", "rejected"))
    if before != other:
        raise RowError(
            "differing prompts",
            "the chats differ before the last turn",
            field="rejected",
            found=f"{len(other)} messages where `chosen` has {len(before)}, or others",
            fix="give both sides the same messages before the reply, or drop the row",
        )
    chat = row["chosen"]
    if isinstance(chat, list) and before:
        # RewardBench reads the prompt from the chats where they hold one, whatever stands in `prompt`.
        prompt = prompt_of_value(chat[:-1], "chosen")
    else:
        prompt = prompt_of_value(row.get("prompt", ""), "prompt")
    return BenchmarkRow(
        prompt=prompt, chosen=(chosen,), rejected=(rejected,), form="pair", subset=_subset(row), id=_id(row)
    )


def _reply(value: object, field: str) -> tuple[tuple[Message, ...], str]:
    """The turns before the response, and the response."""
    return (
        split_chat(messages_of(value, field), field)
        if isinstance(value, list)
        else ((), text_of(value, field))
    )


def read_best_of(row: RawRow) -> BenchmarkRow:
    """One or more correct responses and several incorrect ones: RewardBench 2.

    Raises:
        RowError: a wrong value or an empty prompt; counts that are not those of the lists; in the subset
            Ties, an id that does not say which question it belongs to.
    """
    chosen, rejected = _texts(row["chosen"], "chosen"), _texts(row["rejected"], "rejected")
    _check_count(row, "num_correct", len(chosen), "`chosen` has")
    _check_count(row, "total_completions", len(chosen) + len(rejected), "`chosen` and `rejected` have")
    read = BenchmarkRow(
        prompt=prompt_of_value(row["prompt"], "prompt"),
        chosen=chosen,
        rejected=rejected,
        form="best of n",
        subset=_subset(row),
        id=_id(row),
    )
    if read.of_ties and not TIES_ID.fullmatch(read.id):
        raise RowError(
            "wrong value",
            "a row of the subset Ties must say which question it belongs to",
            field="id",
            found=excerpt(read.id),
            fix='write "ref:3" for question 3 with one right answer, "tied:3" for the same with many',
        )
    return read


def _texts(value: object, field: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise RowError(
            "wrong value",
            f"`{field}` must be a list of one or more responses",
            field=field,
            found=excerpt(value),
            fix='write ["...", "..."]',
        )
    return tuple(text_of(text, f"{field}[{index}]") for index, text in enumerate(value))


def _check_count(row: RawRow, field: str, count: int, whose: str) -> None:
    """Raise RowError when the row states a count that its lists do not have."""
    if row.get(field, count) != count:
        raise RowError(
            "wrong value",
            f"`{field}` is not the number of responses",
            field=field,
            found=f"{excerpt(row[field])}, but {whose} {count}",
            fix=f"write {count}, or put the missing responses back",
        )


def _compared(name: str, shape: Shape[Comparison]) -> Callable[[RawRow], BenchmarkRow]:
    """Reads a row as the shape does, and keeps which response won."""

    def read(row: RawRow) -> BenchmarkRow:
        comparison = shape.read(row)
        if not comparison.decided:
            preferred = comparison.verdict.preferred if comparison.verdict else "no verdict"
            raise RowError(
                "no winner",
                "the comparison names no winner, so no response is the correct one",
                field="verdict",
                found=preferred,
                fix="judge it first, or let it be left out",
            )
        first = comparison.a == comparison.chosen
        return BenchmarkRow(
            prompt=comparison.prompt,
            chosen=(comparison.chosen,),
            rejected=(comparison.b if first else comparison.a,),
            form="pair",
            subset=_subset(row),
            id=_id(row),
            chosen_stood=("first" if first else "second") if name == OWN else None,
        )

    return read


def _subset(row: RawRow) -> str:
    name = text_of(row.get("subset", WHOLE), "subset")
    return name.strip() or WHOLE


def _id(row: RawRow) -> str:
    value = row.get("id", "")
    return str(value) if isinstance(value, int) else text_of(value, "id")
