"""Comparisons with whatever the verdict was: trimtab's own record, and FastChat's battles.

Source: FastChat's fastchat/serve/monitor/clean_battle_data.py, which writes battles, and elo_analysis.py,
which reads them with `pandas.read_json`, keeps those whose `anony` is true, and sorts them by `tstamp`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from trimtab.errors import DataError
from trimtab.formats.exports.left_out import check_observation, verdict_of
from trimtab.formats.exports.shape import ColumnKind, LeftOut
from trimtab.formats.own_record import comparison_json, prompt_json
from trimtab.formats.rows import RawRow, excerpt
from trimtab.formats.values import chat_prompt
from trimtab.records import Comparison, Message, Preferred

OWN: Mapping[str, ColumnKind] = {
    "prompt": "prompt",
    "a": "text",
    "b": "text",
    "verdict": "verdict",
    "source_a": "text",
    "source_b": "text",
    "stopped_a": "truth",
    "stopped_b": "truth",
    "group": "text",
}
OWN_UNKNOWN: Mapping[str, object] = {
    "verdict": None,
    "source_a": "",
    "source_b": "",
    "stopped_a": True,
    "stopped_b": True,
    "group": "",
}

FASTCHAT: Mapping[str, ColumnKind] = {
    "question_id": "text",
    "model_a": "text",
    "model_b": "text",
    "winner": "text",
    "judge": "text",
    "conversation_a": "messages",
    "conversation_b": "messages",
    "turn": "whole",
    "anony": "truth",
    "language": "text",
    "tstamp": "number",
}
WINNERS: Mapping[Preferred, str] = {
    "a": "model_a",
    "b": "model_b",
    "tie": "tie",
    "both_bad": "tie (bothbad)",
}


def own(comparison: Comparison, number: int) -> list[RawRow]:
    """All that is known, unjudged pairs included; every part of the verdict, so that columns are even."""
    check_observation(comparison)
    row = comparison_json(comparison)
    if comparison.verdict is not None:
        # Null, not "": `datasets` takes a column of ISO 8601 in JSON for one of times.
        row = {**row, "verdict": asdict(comparison.verdict) | {"at": comparison.verdict.at or None}}
    return [row]


def fastchat(comparison: Comparison, number: int) -> list[RawRow]:
    """A battle, called anonymous as trimtab shows no names; a record does not say so itself.

    Votes on the same pair share their `question_id`; `language` is "unknown"; `tstamp` is null where nobody
    knows the time.

    Raises:
        LeftOut: not judged, or a response without a source.
        DataError: the time of the verdict is none.
    """
    verdict = verdict_of(comparison)
    if not comparison.source_a or not comparison.source_b:
        raise LeftOut("no source")
    check_observation(comparison)
    conversations = [_conversation(comparison, answer) for answer in (comparison.a, comparison.b)]
    return [
        {
            "question_id": _question_id(comparison),
            "model_a": comparison.source_a,
            "model_b": comparison.source_b,
            "winner": WINNERS[verdict.preferred],
            "judge": verdict.judge,
            "conversation_a": conversations[0],
            "conversation_b": conversations[1],
            "turn": sum(turn["role"] == "user" for turn in conversations[0]),
            "anony": True,
            "language": "unknown",
            "tstamp": seconds(verdict.at, f"record {number}, verdict.at"),
        }
    ]


def _conversation(comparison: Comparison, answer: str) -> list[dict[str, str]]:
    turns = (*chat_prompt(comparison.prompt), Message("assistant", answer))
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _question_id(comparison: Comparison) -> str:
    """32 hexadecimal digits, as FastChat's conversation ids have; of the texts alone."""
    texts = [prompt_json(comparison.prompt), comparison.a, comparison.b]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:32]


def seconds(at: str, where: str) -> float | None:
    """ISO 8601 as seconds since 1970 in UTC; None where no time is known.

    Raises:
        DataError: the text is not a time.
    """
    if not at:
        return None
    try:
        time = datetime.fromisoformat(at)
    except ValueError as error:
        raise DataError(
            "the time of a verdict is not ISO 8601",
            where=where,
            found=excerpt(at),
            fix="write it like 2026-01-31T12:00:00Z",
        ) from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
