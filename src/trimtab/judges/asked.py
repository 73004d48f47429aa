"""A comparison's two questions as requests to an endpoint, and what the answers to them say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from trimtab.errors import DataError
from trimtab.judges.both_orders import Outcome
from trimtab.judges.llm_report import Tokens, Traffic
from trimtab.judges.llm_settings import LLMJudgeSettings
from trimtab.judges.questions import Choice, Template, UnreadableAnswer, question, read_verdict
from trimtab.judges.replies import Reply, without_thoughts
from trimtab.judges.verdict_cache import VerdictCache
from trimtab.records import Comparison, ShownOrder, prompt_text

ATTEMPTS = 2
"""Questions at most until an answer can be read."""


class Ask(NamedTuple):
    """One question: where it comes from, and its attempts as (code, request)."""

    about: str
    attempts: tuple[tuple[str, dict[str, Any]], ...]

    @property
    def key(self) -> str:
        """Equal for the same question about another row."""
        return json.dumps(self.attempts[0][1], sort_keys=True)


def ask_about(
    comparison: Comparison, shown: ShownOrder, number: int, template: Template, settings: LLMJudgeSettings
) -> Ask:
    """The question about one comparison in one order.

    Args:
        number: of the comparison, for people.
    Raises:
        DataError: a text that UTF-8 cannot hold.
    """
    texts = (comparison.a, comparison.b) if shown == "ab" else (comparison.b, comparison.a)
    questions = [
        question(template, prompt_text(comparison.prompt), *texts, attempt=attempt)
        for attempt in range(ATTEMPTS)
    ]
    try:
        questions[0].text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "a comparison holds half of a surrogate pair, which UTF-8 cannot",
            where=f"comparison {number}",
            found=ascii(error.object[error.start]),
            fix="mend or drop the row",
        ) from None
    about = f"comparison {number} shown {shown}"
    return Ask(about, tuple((one.code, _request(one.text, template, settings)) for one in questions))


def _request(text: str, template: Template, settings: LLMJudgeSettings) -> dict[str, Any]:
    """All that an answer depends on: what is sent, where, and the template it was made from."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": "user", "content": text}],
        settings.max_tokens_name: settings.max_tokens,
    }
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    return {"base_url": settings.address, "template": template.text, "body": body}


def from_cache(ask: Ask, cache: VerdictCache) -> Outcome | None:
    """The verdict among the answers that are kept, or None."""
    replies = []
    for code, request in ask.attempts:
        reply = cache.get(request)
        if reply is None:
            return None
        replies.append(reply)
        choice, _ = read_answer(reply, code)
        if choice is not None:
            return Outcome(choice, "", tuple(replies), True)
    return None


def read_answer(reply: Reply, code: str) -> tuple[Choice | None, str]:
    """The verdict in an answer, or why it has none."""
    if reply.finish in ("length", "content_filter"):
        why = "max_tokens" if reply.finish == "length" else "the endpoint's content filter"
        return None, f"the answer was cut off by {why}"
    try:
        return read_verdict(without_thoughts(reply.text), code), ""
    except UnreadableAnswer as error:
        return None, str(error)


def traffic_of(outcomes: Sequence[Outcome], requests: int, retries: int) -> Traffic:
    """What the outcomes of all different questions needed."""
    new = [outcome for outcome in outcomes if not outcome.from_cache]
    return Traffic(
        questions=len(outcomes),
        from_cache=len(outcomes) - len(new),
        requests=requests,
        retries=retries,
        asked_again=sum(max(len(outcome.replies) - 1, 0) for outcome in new),
        tokens=Tokens.of(reply for outcome in outcomes for reply in outcome.replies),
        new_tokens=Tokens.of(reply for outcome in new for reply in outcome.replies),
    )
