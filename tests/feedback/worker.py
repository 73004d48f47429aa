"""Another process that uses a store: run as a script by the tests of races and of kills.

Its first line of output says that it is ready; it begins when it reads a line. Each further line is a JSON
value: what was acknowledged.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from trimtab.errors import FeedbackError
from trimtab.feedback.records import Compared, Draft
from trimtab.feedback.store.facts import Task
from trimtab.feedback.store.store import Store, open_store


def main() -> None:
    act, place, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    if act == "open":
        _begin()
        with open_store(place) as store:
            say(len(store.projects()))
        return
    with open_store(place, clock=lambda: datetime(2026, 1, 31, 12, 0, tzinfo=UTC)) as store:
        _begin()
        {"claim": claim, "save": save, "write": write}[act](store, **arguments)


def _begin() -> None:
    say("ready")
    sys.stdin.readline()


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def claim(store: Store, project: int, person: int, count: int) -> None:
    say([task.item for task in store.claim(project, person, count)])


def save(store: Store, **draft: Any) -> None:
    outcome = Compared(preferred=draft.pop("preferred"))
    try:
        say(store.save(Draft(outcome=outcome, shown=(0, 1), blind=True, guidelines=0, seconds=1, **draft)).id)
    except FeedbackError as error:
        say(type(error).__name__)


def write(store: Store, project: int, person: int, prefix: str) -> None:
    """Judge without end; a key is said when its judgment has been acknowledged."""
    number = 0
    while tasks := store.claim(project, person, 5):
        for task in tasks:
            key = f"{prefix} {number}"
            store.save(_draft(task, person, key))
            say(key)
            number += 1


def _draft(task: Task, person: int, key: str) -> Draft:
    return Draft(
        item=task.item,
        person=person,
        outcome=Compared(preferred="b"),
        shown=task.shown,
        blind=True,
        guidelines=0,
        seconds=1.0,
        key=key,
    )


main()
