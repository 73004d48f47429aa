"""Sharing out work: who gets which items, and for how long.

An item is wanted by a person who has said nothing that stands about it, while the answers of others and the
unexpired leases of others are fewer than the overlap. One person's claims queue behind each other, and so do
all claims of one project: each sees every lease that was given before, and leases never exceed the overlap.
(Rows locked one by one and skipped when locked are not enough: leases that were given meanwhile would not be
counted, and a person who meets a locked last item would be told that nothing is left.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, update

from trimtab.errors import FeedbackError
from trimtab.feedback.records import Item
from trimtab.feedback.store import choosing
from trimtab.feedback.store.accounts import lock_person
from trimtab.feedback.store.choosing import Asked
from trimtab.feedback.store.contents import contents
from trimtab.feedback.store.facts import Task
from trimtab.feedback.store.projects import lock_project
from trimtab.feedback.store.tables import Moment, leases

LEASE = timedelta(minutes=10)
MOST = 100
"""Tasks in one claim."""

_these = (
    leases.c.person == bindparam("its_person"),
    leases.c.round == bindparam("its_round"),
    leases.c.item.in_(bindparam("its_items", expanding=True)),
)
_END = delete(leases).where(*_these)
_RENEW = update(leases).where(*_these).values(expires_at=bindparam("until", type_=Moment))


def claim(connection: Connection, project: int, person: int, count: int, now: datetime) -> list[Task]:
    if not 1 <= count <= MOST:
        raise FeedbackError(
            f"a claim is for 1 to {MOST} tasks", where="count", found=str(count), fix="claim more often"
        )
    lock_person(connection, person)
    asked = Asked(connection, lock_project(connection, project), person, now)
    held = choosing.held(asked)
    chosen = _chosen(asked, count - len(held), [item for item, _ in held])
    _renew(asked, held[:count])
    _lease(asked, chosen)
    tasks = [*held[:count], *chosen]
    bodies = contents(connection, [item for item, _ in tasks])
    return [_task(asked, item, round, bodies[item]) for item, round in tasks]


def shown_order(seed: int, item: int, person: int, round: int, answers: int) -> tuple[int, ...]:
    """A random order of the answers, the same whenever it is asked for."""
    return tuple(sorted(range(answers), key=lambda index: _random(seed, "shown", item, person, round, index)))


def _random(*key: object) -> float:
    """A number from [0, 1) that depends on the key alone."""
    digest = hashlib.sha256(" ".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _chosen(asked: Asked, count: int, held: Sequence[int]) -> list[tuple[int, int]]:
    """Item and round of up to `count` more tasks.

    A slot for a gold item or a repeat takes a fresh one where there is none. Where no fresh one is left, the
    person has finished: gold items are mixed in, never poured out at the end.
    """
    if count <= 0:
        return []
    fresh = choosing.fresh(asked, count, held)
    if not fresh and choosing.all_gold(asked):
        return [(item, 0) for item in choosing.gold(asked, count, held)]
    slots = list(_slots(asked, count, len(held)))
    gold = choosing.gold(asked, slots.count("gold"), held)
    repeats = _repeats(asked, slots.count("repeat"), held)
    chosen = []
    for slot in slots:
        if slot == "gold" and gold:
            chosen.append((gold.pop(0), 0))
        elif slot == "repeat" and repeats:
            chosen.append((repeats.pop(0), 1))
        elif fresh:
            chosen.append((fresh.pop(0), 0))
        else:
            break
    return chosen


def _slots(asked: Asked, count: int, held: int) -> Iterator[str]:
    """What each of the next tasks is: by a hash of the person and of how many tasks there were before."""
    settings = asked.project.settings
    if not settings.gold_share + settings.repeat_share:
        yield from ["fresh"] * count  # without counting all that the person has done
        return
    first = choosing.begun(asked) + held
    for number in range(first, first + count):
        draw = _random(asked.project.seed, "slot", asked.person, number)
        if draw < settings.gold_share:
            yield "gold"
        else:
            yield "repeat" if draw < settings.gold_share + settings.repeat_share else "fresh"


def _repeats(asked: Asked, count: int, held: Sequence[int]) -> list[int]:
    """Drawn by hash from all that can be repeated, or people would repeat their first attempts alone."""
    if not count:
        return []
    return sorted(
        choosing.repeatable(asked, held),
        key=lambda item: _random(asked.project.seed, "repeat", asked.person, item),
    )[:count]


def _lease(asked: Asked, tasks: Sequence[tuple[int, int]]) -> None:
    """Give these to the person, in this order. An expired lease of the same task makes room."""
    for key in _keys(asked, tasks):
        asked.connection.execute(_END, key)
    rows = [
        {
            "project": asked.project.id,
            "item": item,
            "person": asked.person,
            "round": round,
            "expires_at": asked.now + LEASE,
        }
        for item, round in tasks
    ]
    if rows:
        asked.connection.execute(leases.insert(), rows)


def _renew(asked: Asked, tasks: Sequence[tuple[int, int]]) -> None:
    for key in _keys(asked, tasks):
        asked.connection.execute(_RENEW, {**key, "until": asked.now + LEASE})


def _keys(asked: Asked, tasks: Sequence[tuple[int, int]]) -> Iterator[dict[str, object]]:
    for round in sorted({round for _, round in tasks}):
        numbers = [item for item, its_round in tasks if its_round == round]
        yield {"its_person": asked.person, "its_round": round, "its_items": numbers}


def _task(asked: Asked, item: int, round: int, content: Item) -> Task:
    return Task(
        item=item,
        project=asked.project,
        round=round,
        content=content,
        shown=shown_order(asked.project.seed, item, asked.person, round, len(content.answers)),
        expires=asked.now + LEASE,
    )
