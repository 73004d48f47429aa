"""Records into the text columns and back, every character kept; and which texts are refused.

Prompts, answers and outcomes are kept as JSON, where NUL (which PostgreSQL's text cannot hold) and halves of
surrogate pairs (which are no UTF-8) are escapes: they come back as they went in. One exception, of JSON
itself: two halves that stand side by side come back as the character that they make.
Names and guidelines are plain text; there the same characters are refused.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trimtab.errors import FeedbackError
from trimtab.feedback.records import Candidate, Item, Outcome, outcome_json, outcome_of_json, prompt_json
from trimtab.hidden import visible
from trimtab.records import Message, Prompt

_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def dump(value: object) -> str:
    """JSON that every database can hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return _SURROGATES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def dump_item(item: Item) -> str:
    return dump(
        {
            "prompt": prompt_json(item.prompt),
            "answers": [asdict(answer) for answer in item.answers],
            "context": item.context,
            "gold": None if item.gold is None else outcome_json(item.gold),
            "keywords": item.keywords,
        }
    )


def load_item(text: str) -> Item:
    """The inverse of `dump_item`."""
    body: Mapping[str, Any] = json.loads(text)
    return Item(
        prompt=_prompt(body["prompt"]),
        answers=tuple(Candidate(**answer) for answer in body["answers"]),
        context=tuple(body["context"]),
        gold=None if body["gold"] is None else outcome_of_json(body["gold"]),
        keywords=tuple(body["keywords"]),
    )


def dump_outcome(outcome: Outcome) -> str:
    return dump(outcome_json(outcome))


def load_outcome(text: str) -> Outcome:
    return outcome_of_json(json.loads(text))


def _prompt(value: Any) -> Prompt:
    return value if isinstance(value, str) else tuple(Message(**turn) for turn in value)


def folded(name: str) -> str:
    """What must differ between two names. Safe to look up, whatever was typed."""
    return unicodedata.normalize(
        "NFKC", _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", name.strip())
    ).casefold()


def check_name(name: str, what: str) -> str:
    """The name without space around it, of a person or a project: one line of up to 80 visible characters.

    Raises:
        FeedbackError: it is something else.
    """
    name = name.strip()
    if not name or len(name) > 80 or not name.isprintable() or visible(name) != name:
        raise FeedbackError(
            f"the name of a {what} is one line of 1 to 80 visible characters",
            where=f"name of the {what}",
            found=repr(visible(name[:80])),
            fix="write another name",
        )
    return name


def check_guidelines(text: str) -> str:
    """The text of guidelines, if a database can hold it.

    Raises:
        FeedbackError: it has a NUL character or half a surrogate pair.
    """
    if bad := _UNSTORABLE.search(text):
        raise FeedbackError(
            "the guidelines hold a character that cannot be stored",
            where=f"guidelines, character {bad.start() + 1}",
            found=repr(bad[0]),
            fix="take it out",
        )
    return text
