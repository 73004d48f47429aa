"""Which items a person could be given: the queries behind a claim.

They are built once, because to build one takes longer than to run it; what they need is in `Asked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Select, bindparam, false, func, select

from trimtab.feedback.store.facts import Project
from trimtab.feedback.store.standing import done, live
from trimtab.feedback.store.tables import Moment, Number, items, judgments, leases

REPEAT_AFTER = 10
"""Judgments between the first time and the repeat of an item."""

_project = bindparam("project", type_=Number)
_person = bindparam("person", type_=Number)
_now = bindparam("now", type_=Moment)
_overlap = bindparam("overlap", type_=Integer)
_count = bindparam("count", type_=Integer)
_not_held = items.c.id.not_in(bindparam("held", expanding=True))
_mine = (judgments.c.project == _project, judgments.c.person == _person)


@dataclass(frozen=True)
class Asked:
    """Whose work it is, in which project, and when."""

    connection: Connection
    project: Project
    person: int
    now: datetime

    def rows(self, query: Select[Any], **more: object) -> Sequence[Any]:
        """The rows of a query, given all that the queries here name."""
        known = {"project": self.project.id, "person": self.person, "now": self.now}
        values = {"overlap": self.project.settings.overlap, **known, **more}
        return self.connection.execute(query, values).all()


def held(asked: Asked) -> list[tuple[int, int]]:
    """Item and round of what the person holds and should still judge, in the order in which it was given.

    What others judged beside a lease may have completed the item. Others' leases do not count here, or two
    who hold the last place after the overlap was lowered would both have to wait.
    """
    return [(row.item, row.round) for row in asked.rows(_HELD)]


def fresh(asked: Asked, count: int, held: Sequence[int]) -> list[int]:
    """Items short of answers; those with the most come first, so that they become complete."""
    return [row.id for row in asked.rows(_FRESH, count=count, held=held)]


def fresh_left(asked: Asked) -> int:
    """How many such items there are, those in hand included."""
    return int(asked.rows(_FRESH_LEFT)[0].number)


def gold(asked: Asked, count: int, held: Sequence[int]) -> list[int]:
    """Gold items that the person has not judged; how many others have does not matter."""
    return [row.id for row in asked.rows(_GOLD, count=count, held=held)] if count else []


def repeatable(asked: Asked, held: Sequence[int]) -> list[int]:
    """Items that the person answered, once, and at least `REPEAT_AFTER` judgments ago."""
    recent = asked.rows(_RECENT, count=REPEAT_AFTER)
    if len(recent) < REPEAT_AFTER:
        return []
    return [row.item for row in asked.rows(_REPEATABLE, before=recent[-1].id, held=held)]


def begun(asked: Asked) -> int:
    """How many tasks the person has ever answered, skipped or flagged."""
    return int(asked.rows(_BEGUN)[0].number)


def all_gold(asked: Asked) -> bool:
    """Whether the project has gold items alone."""
    return not asked.rows(_ANY_FRESH)


_held_by_others = (
    select(leases.c.item, func.count().label("number"))
    .where(
        leases.c.project == _project,
        leases.c.expires_at > _now,
        leases.c.person != _person,
        leases.c.round == 0,
    )
    .group_by(leases.c.item)
    .subquery()
)
_OPEN = (
    select(items.c.id)
    .outerjoin(_held_by_others, _held_by_others.c.item == items.c.id)
    .where(
        items.c.project == _project,
        items.c.gold == false(),
        items.c.judged < _overlap,
        items.c.judged + func.coalesce(_held_by_others.c.number, 0) < _overlap,
        ~done(0),
    )
)
_FRESH = _OPEN.where(_not_held).order_by(items.c.judged.desc(), items.c.id).limit(_count)
_FRESH_LEFT = select(func.count().label("number")).select_from(_OPEN.subquery())
_HELD = (
    select(leases.c.item, leases.c.round)
    .join(items, items.c.id == leases.c.item)
    .where(
        leases.c.project == _project,
        leases.c.person == _person,
        leases.c.expires_at > _now,
        items.c.gold | (leases.c.round > 0) | (items.c.judged < _overlap),
        ((leases.c.round == 0) & ~done(0)) | ((leases.c.round == 1) & done(0) & ~done(1)),
    )
    .order_by(leases.c.id)
)
_GOLD = (
    select(items.c.id)
    .where(items.c.project == _project, items.c.gold, _not_held, ~done(0))
    .order_by(items.c.id)
    .limit(_count)
)
_RECENT = select(judgments.c.id).where(*_mine, live).order_by(judgments.c.id.desc()).limit(_count)
_REPEATABLE = (
    select(judgments.c.item)
    .join(items, items.c.id == judgments.c.item)
    .where(
        *_mine,
        live,
        judgments.c.counts,
        judgments.c.round == 0,
        judgments.c.id < bindparam("before", type_=Integer),
        _not_held,
        ~done(1),
    )
)
_BEGUN = select(func.count().label("number")).where(*_mine, judgments.c.supersedes.is_(None))
_ANY_FRESH = select(items.c.id).where(items.c.project == _project, items.c.gold == false()).limit(1)
