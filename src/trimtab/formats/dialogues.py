"""Raw HH-RLHF rows: `chosen` and `rejected` hold whole dialogues, turns marked "Human:" and "Assistant:".

The prompt ends with the last "\\n\\nAssistant:". A few rows of the set are damaged: their histories differ,
a reply is empty, or the writer typed "Human:" inside a reply so that nobody can say where it ends. These are
reported with the reason; slicing them blindly trains on the wrong text.

Source: Bai et al. 2022, arXiv:2204.05862; github.com/anthropics/hh-rlhf.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Literal

from trimtab.formats.rows import RawRow, RowError, excerpt
from trimtab.formats.values import check_not_blank, check_reply, decided_pair
from trimtab.records import Comparison, Message, Role

Dialogues = Literal["chat", "raw"]
"""What becomes of a raw dialogue: messages that take the model's chat template, or text as it stands."""

TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
MARKER = re.compile(r"\b(?:Human|Assistant):")
ROLES: Mapping[str, Role] = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One dialogue, cut after its last role marker."""

    history: str
    """Raw text up to and including the last "Assistant:"."""
    turns: tuple[tuple[str, str], ...]
    """(Human or Assistant, raw text) of every turn in the history but the open one."""
    reply: str
    """Raw text after the last marker, the leading space included."""


def is_dialogue(row: RawRow) -> bool:
    """Whether `chosen` or `rejected` begins with "Human:" and goes on with "Assistant:"."""
    sides = [row.get("chosen"), row.get("rejected")]
    return all(isinstance(side, str) for side in sides) and any(_looks_like(str(side)) for side in sides)


def _looks_like(text: str) -> bool:
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def read_chat(row: RawRow) -> Comparison:
    """Messages, each stripped of the white space around it."""
    chosen, rejected = _checked_pair(row)
    prompt = tuple(Message(ROLES[speaker], text.strip()) for speaker, text in chosen.turns)
    check_not_blank(prompt, "chosen")
    return decided_pair(prompt, chosen.reply.strip(), rejected.reply.strip())


def read_raw(row: RawRow) -> Comparison:
    """Text as it stands: prompt + response is the dialogue again, character by character."""
    chosen, rejected = _checked_pair(row)
    return decided_pair(chosen.history, chosen.reply, rejected.reply)


READ_DIALOGUE: Mapping[Dialogues, Callable[[RawRow], Comparison]] = {"chat": read_chat, "raw": read_raw}


def _checked_pair(row: RawRow) -> tuple[Dialogue, Dialogue]:
    chosen = _cut(str(row["chosen"]), "chosen")
    rejected = _cut(str(row["rejected"]), "rejected")
    _check_histories(chosen, rejected)
    _check_order(chosen)
    for side, field in ((chosen, "chosen"), (rejected, "rejected")):
        check_reply(side.reply, field)
        _check_markers(side.reply, field)
    return chosen, rejected


def _cut(text: str, field: str) -> Dialogue:
    check_reply(text, field)
    marks = list(TURN.finditer(text))
    if not marks or marks[0].start() != 0:
        raise RowError(
            "differing prompts",
            f"`{field}` is not a dialogue, the other side is one",
            field=field,
            found=excerpt(text),
            fix="give both sides the same history, or drop the row",
        )
    if marks[-1][1] != "Assistant":
        raise RowError(
            "empty reply",
            f"the dialogue in `{field}` does not end with the assistant's turn",
            field=field,
            found=excerpt(text[marks[-1].start() :].strip()),
            fix="add the reply, or drop the row",
        )
    turns = tuple((mark[1], text[mark.end() : following.start()]) for mark, following in pairwise(marks))
    return Dialogue(text[: marks[-1].end()], turns, text[marks[-1].end() :])


def _check_histories(chosen: Dialogue, rejected: Dialogue) -> None:
    if chosen.history == rejected.history:
        return
    pairs = zip(chosen.history, rejected.history, strict=False)
    place = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    shown = [
        excerpt(side.history[place:], longest=30) if side.history[place:] else "the reply"
        for side in (rejected, chosen)
    ]
    raise RowError(
        "differing prompts",
        "the dialogues differ before the last reply, or a reply holds a role marker of its own",
        field="rejected",
        found=f"{shown[0]} where `chosen` has {shown[1]}",
        fix="give both sides the same history, or drop the row",
    )


def _check_order(dialogue: Dialogue) -> None:
    """Turns alternate from Human to the open Assistant turn; two in a row hide a marker typed into a turn."""
    speakers = [speaker for speaker, _ in dialogue.turns] + ["Assistant"]
    expected = ["Human", "Assistant"] * (len(speakers) // 2 + 1)
    for number, (speaker, right) in enumerate(zip(speakers, expected, strict=False), start=1):
        if speaker != right:
            raise RowError(
                "role marker",
                f"turn {number} should be the {right}'s: a marker was probably typed inside a turn",
                field="chosen",
                found=f"the turns {', '.join(speakers[:number])}",
                fix="take the stray marker out, or drop the row",
            )


def _check_markers(reply: str, field: str) -> None:
    mark = MARKER.search(reply)
    if mark is not None:
        raise RowError(
            "role marker",
            f"the reply in `{field}` holds a role marker: it is not certain where the reply ends",
            field=field,
            found=excerpt(reply[max(0, mark.start() - 15) : mark.end() + 25]),
            fix="take the marker out, or drop the row",
        )
