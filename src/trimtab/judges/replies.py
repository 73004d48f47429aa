"""One answer of an OpenAI-compatible endpoint, and how it is read from what came over the wire."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of the endpoint."""

    text: str
    finish: str
    """Why it ended, as the endpoint says: stop, length, content_filter ..."""
    input_tokens: int | None
    """None where the endpoint did not say."""
    output_tokens: int | None
    at: str
    """When it came, ISO 8601 in UTC."""


def read_reply(body: str) -> Reply:
    """The first choice of a chat completion. Half a surrogate pair becomes a question mark.

    Raises:
        ValueError: not JSON, no choices, or no message in the first.
    """
    try:
        tree = json.loads(body)
        choice = tree["choices"][0]
        content, finish = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error} in {body[:200]!r}") from None
    usage = tree.get("usage")
    return Reply(
        text=content.encode("utf-8", "replace").decode() if isinstance(content, str) else "",
        finish=finish if isinstance(finish, str) else "",
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def without_thoughts(text: str) -> str:
    """What a model says once it has thought: without the `<think>` block that its answer begins with.

    A block that is not closed is the whole answer. The last closing mark counts: thoughts may quote one.
    """
    if not re.match(r"\s*<think>", text):
        return text
    return text.rpartition("</think>")[2] if "</think>" in text else ""


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
