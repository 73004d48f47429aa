"""A task as the browser gets it: what is to be seen, in the order in which it is shown, and nothing else.

Not in it: who or what wrote the answers, with which policy, whether the item is gold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from trimtab.feedback.records import Kind
from trimtab.feedback.store.facts import Task
from trimtab.hidden import visible
from trimtab.records import Prompt
from trimtab.web.differences import differences
from trimtab.web.markdown import to_html


def task_json(task: Task) -> dict[str, Any]:
    """The task for `judge.js`."""
    kind = task.project.settings.kind
    texts = [task.content.answers[index].text for index in task.shown]
    return {
        "item": task.item,
        "round": task.round,
        "kind": kind,
        "prompt": prompt_json(task.content.prompt),
        "answers": _answers(kind, texts),
        "context": [dict(text_json(text)) for text in task.content.context],
        "lease_until": task.expires.isoformat(),
        "guidelines_version": task.project.guidelines,
    }


@lru_cache(maxsize=1024)
def text_json(text: str) -> Mapping[str, str]:
    """A text as HTML, and as it was written with signs for what cannot be seen."""
    return MappingProxyType({"html": to_html(text), "raw": visible(text)})


def prompt_json(prompt: Prompt) -> list[dict[str, str]]:
    """The turns of a prompt; one without a role where it is plain text."""
    if isinstance(prompt, str):
        return [{"role": "", **text_json(prompt)}]
    return [{"role": turn.role, **text_json(turn.content)} for turn in prompt]


def _answers(kind: Kind, texts: list[str]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = [{**text_json(text), "spans": None} for text in texts]
    # In the order of the texts, not of the screen: they are compared once, and all see the same words marked.
    in_order = sorted(answers, key=lambda answer: answer["raw"])
    if len(texts) == 2 and (found := differences(*(answer["raw"] for answer in in_order))):
        for answer, spans in zip(in_order, found, strict=True):
            answer["spans"] = spans
    if kind == "edit":
        # What is edited is the text itself: signs would end in what is trained on.
        for answer, text in zip(answers, texts, strict=True):
            answer["text"] = text
    return answers
