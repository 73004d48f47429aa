"""Comparisons whose prompt is implicit: `chosen` and `rejected` both begin with it.

Edge cases that a bare longest common prefix gets wrong, each reported here instead: the texts differ from
the first character on, one is the beginning of the other, or both are the same.
"""

from __future__ import annotations

import unicodedata
from itertools import takewhile

from trimtab.formats.rows import RawRow, RowError, excerpt
from trimtab.formats.values import (
    check_different,
    check_not_blank,
    check_reply,
    decided_pair,
    messages_of,
    split_chat,
    text_of,
)
from trimtab.records import Comparison, Message


def read_implicit_chat(row: RawRow) -> Comparison:
    """`chosen` + `rejected`, whole chats: all before the last reply is the prompt, equal on both sides."""
    prompt, chosen = split_chat(messages_of(row["chosen"], "chosen"), "chosen")
    other, rejected = split_chat(messages_of(row["rejected"], "rejected"), "rejected")
    if prompt != other:
        raise _differing_chats(prompt, other)
    check_not_blank(prompt, "chosen")
    return decided_pair(prompt, chosen, rejected)


def _differing_chats(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> RowError:
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    shown = [excerpt(side[same].content) if same < len(side) else "the reply" for side in (chosen, rejected)]
    return RowError(
        "differing prompts",
        "the chats differ before the last reply",
        field=f"rejected[{same}]",
        found=f"{shown[1]} where `chosen` has {shown[0]}",
        fix="give both sides the same messages before the reply, or drop the row",
    )


def read_implicit_text(row: RawRow) -> Comparison:
    """`chosen` + `rejected`, whole texts: the prompt is what they share from the start, whole words only."""
    chosen, rejected = text_of(row["chosen"], "chosen"), text_of(row["rejected"], "rejected")
    check_reply(chosen, "chosen")
    check_reply(rejected, "rejected")
    check_different(chosen, rejected, ("chosen", "rejected"))
    cut = shared_prompt(chosen, rejected)
    prompt = chosen[:cut]
    if not prompt.strip():
        raise RowError(
            "differing prompts",
            "the texts share no prompt",
            field="rejected",
            found=f"{excerpt(rejected)} where `chosen` has {excerpt(chosen)}",
            fix="begin both with the same prompt, or give it in a `prompt` field",
        )
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not text[cut:].strip():
            raise RowError(
                "empty reply",
                f"`{field}` is the beginning of the other side: nothing is left of it as a reply",
                field=field,
                found=excerpt(text),
                fix="give the prompt in a `prompt` field",
            )
    return decided_pair(prompt, chosen[cut:], rejected[cut:])


def shared_prompt(chosen: str, rejected: str) -> int:
    """Length in characters of the prompt two texts share: their common beginning, whole words only.

    A word that both begin alike belongs to the replies ("12" and "13" after "is "), and so does one
    space before them, as tokenizers join it to the word that follows. Where one text is the beginning of
    the other, all of it counts as prompt: how much of it was the reply cannot be known.
    """
    pairs = zip(chosen, rejected, strict=False)
    cut = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if cut == min(len(chosen), len(rejected)):
        return cut
    while cut and _within_word(chosen, cut, rejected):
        cut -= 1
    return cut - 1 if cut and chosen[cut - 1] == " " else cut


def _within_word(chosen: str, cut: int, rejected: str) -> bool:
    """Whether cutting here would leave the end of a word to a reply; accents are part of a word."""
    after = (chosen[cut], rejected[cut])
    if any(_is_mark(character) for character in after):
        return True
    before = chosen[cut - 1]
    return (before.isalnum() or _is_mark(before)) and any(character.isalnum() for character in after)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
