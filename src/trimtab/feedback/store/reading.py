"""What was said so far: for exports, for checks of quality, for the person, for the admin."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Subquery, case, func, select

from trimtab.feedback.records import Judgment
from trimtab.feedback.store.choosing import Asked, fresh_left
from trimtab.feedback.store.facts import Counts, Progress
from trimtab.feedback.store.projects import one_project
from trimtab.feedback.store.saving import judgment_of
from trimtab.feedback.store.standing import live, live_judgments
from trimtab.feedback.store.tables import items, judgments, leases

LeftOut = Literal["extra", "skipped", "flagged", "repeat", "gold"]
"""What a reader of judgments can leave out."""

NO_VOTES: frozenset[LeftOut] = frozenset({"extra", "skipped", "flagged"})


def standing(connection: Connection, project: int, leave_out: Collection[LeftOut]) -> list[Judgment]:
    """Live judgments of a project in the order in which they were saved, without these kinds."""
    one_project(connection, project)
    table = live_judgments(judgments.c.project == project)
    query = select(table).where(*(~_is(table, kind) for kind in sorted(leave_out))).order_by(table.c.id)
    return [judgment_of(row, bool(row.beyond)) for row in connection.execute(query)]


def flagged(connection: Connection, project: int) -> list[Judgment]:
    """Live flags, newest first."""
    one_project(connection, project)
    table = live_judgments(judgments.c.project == project)
    query = select(table).where(_is(table, "flagged")).order_by(table.c.id.desc())
    return [judgment_of(row, bool(row.beyond)) for row in connection.execute(query)]


def history(connection: Connection, project: int, person: int, most: int) -> list[Judgment]:
    """A person's live judgments, newest first: what can be looked at again, changed or taken back."""
    mine = (
        select(judgments.c.id, judgments.c.item)
        .where(judgments.c.project == project, judgments.c.person == person, live)
        .order_by(judgments.c.id.desc())
        .limit(max(0, most))
    )
    rows = connection.execute(mine).all()
    table = live_judgments(judgments.c.item.in_([row.item for row in rows]))
    query = select(table).where(table.c.id.in_([row.id for row in rows])).order_by(table.c.id.desc())
    return [judgment_of(row, bool(row.beyond)) for row in connection.execute(query)]


def audit(connection: Connection, project: int) -> list[Judgment]:
    """Everything that was ever saved, what was superseded too; `extra` as it was then."""
    one_project(connection, project)
    query = select(judgments).where(judgments.c.project == project).order_by(judgments.c.id)
    return [judgment_of(row, row.extra) for row in connection.execute(query)]


def progress(connection: Connection, project: int) -> list[Progress]:
    """Everyone who has live judgments in a project, by number."""
    one_project(connection, project)
    table = live_judgments(judgments.c.project == project)
    query = (
        select(
            table.c.person,
            _number(table.c.counts).label("judged"),
            _number(table.c.counts & (table.c.round == 1)).label("repeats"),
            _number(table.c.counts & table.c.gold).label("gold"),
            _number(_is(table, "skipped")).label("skipped"),
            _number(_is(table, "flagged")).label("flagged"),
            func.sum(table.c.seconds).label("seconds"),
            func.max(table.c.id).label("last"),
        )
        .group_by(table.c.person)
        .order_by(table.c.person)
    )
    rows = connection.execute(query).all()
    times = _times(connection, [row.last for row in rows])
    return [Progress(**{**row._mapping, "last": times[row.last]}) for row in rows]


def left(connection: Connection, project: int, person: int, now: datetime) -> int:
    """Items that the person could still be given for a first judgment, gold items not counted."""
    return fresh_left(Asked(connection, one_project(connection, project), person, now))


def count(connection: Connection, project: int, now: datetime) -> Counts:
    overlap = one_project(connection, project).settings.overlap
    table = live_judgments(judgments.c.project == project)
    fresh = items.c.gold.is_(False)
    of_items = connection.execute(
        select(
            _number(fresh).label("items"),
            _number(items.c.gold).label("gold"),
            _number(fresh & (items.c.judged >= overlap)).label("complete"),
            _number(fresh & (items.c.judged > 0) & (items.c.judged < overlap)).label("begun"),
        ).where(items.c.project == project)
    ).one()
    of_judgments = connection.execute(
        select(
            _number(table.c.counts).label("judgments"),
            _number(table.c.beyond).label("extra"),
            _number(table.c.counts & (table.c.round == 1)).label("repeats"),
            _number(_is(table, "skipped")).label("skipped"),
            _number(_is(table, "flagged")).label("flagged"),
        )
    ).one()
    leased = select(func.count()).where(leases.c.project == project, leases.c.expires_at > now)
    return Counts(
        **of_items._mapping, **of_judgments._mapping, leased=connection.execute(leased).scalar_one()
    )


def _is(table: Subquery, kind: LeftOut) -> ColumnElement[bool]:
    conditions: dict[LeftOut, Any] = {
        "extra": table.c.beyond,
        "repeat": table.c.round == 1,
        "gold": table.c.gold,
        "skipped": table.c.said == "skipped",
        "flagged": table.c.said == "flagged",
    }
    condition: ColumnElement[bool] = conditions[kind]
    return condition


def _number(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _times(connection: Connection, numbers: Collection[int]) -> dict[int, datetime]:
    query = select(judgments.c.id, judgments.c.at).where(judgments.c.id.in_(numbers))
    return {row.id: row.at for row in connection.execute(query)}
