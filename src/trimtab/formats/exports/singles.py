"""Demonstrations and ratings as TRL's prompt-completion, language modeling chats and unpaired preference.

Source: TRL's docs/source/dataset_formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimtab.formats.exports.left_out import check_prompt_filled
from trimtab.formats.exports.shape import ColumnKind, LeftOut
from trimtab.formats.own_record import answer_json, prompt_json
from trimtab.formats.rows import RawRow
from trimtab.records import Demonstration, Message, Rating

PROMPT_COMPLETION: Mapping[str, ColumnKind] = {
    "prompt": "prompt",
    "completion": "answer",
    "keywords": "texts",
}
MESSAGES: Mapping[str, ColumnKind] = {"messages": "messages", "keywords": "texts"}
NO_KEYWORDS: Mapping[str, object] = {"keywords": []}

RATINGS: Mapping[str, ColumnKind] = {
    "prompt": "prompt",
    "completion": "answer",
    "label": "truth",
    "grade": "whole",
    "judge": "text",
}
RATINGS_UNKNOWN: Mapping[str, object] = {"label": None, "grade": None, "judge": ""}


def prompt_completion(demonstration: Demonstration, number: int) -> list[RawRow]:
    """`prompt` and `completion`."""
    check_prompt_filled(demonstration.prompt)
    prompt = demonstration.prompt
    row = {"prompt": prompt_json(prompt), "completion": answer_json(prompt, demonstration.response)}
    return [row | _keywords(demonstration)]


def messages(demonstration: Demonstration, number: int) -> list[RawRow]:
    """The whole chat. A text to continue is none: as a chat it would be another thing to learn."""
    check_prompt_filled(demonstration.prompt)
    if isinstance(demonstration.prompt, str):
        raise LeftOut("text prompt")
    chat = (*demonstration.prompt, Message("assistant", demonstration.response))
    return [{"messages": prompt_json(chat)} | _keywords(demonstration)]


def unpaired_preference(rating: Rating, number: int) -> list[RawRow]:
    """`prompt`, `completion`, `label`. A grade is no label: where good begins is not for an export to say."""
    check_prompt_filled(rating.prompt)
    if rating.label is None:
        raise LeftOut("no label")
    return [_rating(rating)]


def ratings(rating: Rating, number: int) -> list[RawRow]:
    """`prompt`, `completion`, and the `grade` from 1 to 7 or the `label` that somebody gave."""
    check_prompt_filled(rating.prompt)
    return [_rating(rating)]


def _rating(rating: Rating) -> dict[str, object]:
    known = {"label": rating.label, "grade": rating.grade, "judge": rating.judge or None}
    return {
        "prompt": prompt_json(rating.prompt),
        "completion": answer_json(rating.prompt, rating.response),
        **{name: value for name, value in known.items() if value is not None},
    }


def _keywords(demonstration: Demonstration) -> dict[str, object]:
    return {"keywords": list(demonstration.keywords)} if demonstration.keywords else {}
