"""Taking down what people said. Nothing that was accepted is ever lost, changed or counted twice.

A person who was given an item may judge it, however late: the lease keeps others away for a while, it is not
a permission that ends. What comes beyond the overlap is kept too, as extra.
Saves and claims of one person queue behind each other, and so do saves about one item.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Row, Table, bindparam, delete, select, update

from trimtab.errors import ConflictError, FeedbackError, NotFoundError
from trimtab.feedback.records import Draft, Item, Judgment, Withdrawn, check_outcome, counts, said
from trimtab.feedback.store.accounts import lock_person
from trimtab.feedback.store.claiming import LEASE
from trimtab.feedback.store.facts import Project
from trimtab.feedback.store.projects import as_columns, project_of
from trimtab.feedback.store.standing import newest
from trimtab.feedback.store.tables import items, judgments, leases, projects
from trimtab.feedback.store.texts import dump, dump_outcome, load_item, load_outcome


@dataclass(frozen=True)
class _Task:
    """What is judged, and what stands about it from this person."""

    project: Project
    item: int
    content: Item
    gold: bool
    judged: int
    before: Row[Any] | None


def _of_task(table: Table) -> tuple[ColumnElement[bool], ...]:
    return tuple(table.c[name] == bindparam(f"its_{name}") for name in ("item", "person", "round"))


# Built once: to build a statement takes as long as to run it.
_BY_KEY = select(judgments).where(
    judgments.c.person == bindparam("person"), judgments.c.key == bindparam("key")
)
_ITEM = (
    select(items.c.body, items.c.gold, items.c.judged, *as_columns)
    .join(projects, projects.c.id == items.c.project)
    .where(items.c.id == bindparam("item"))
    .with_for_update(key_share=True, of=items)
)
_NEWEST = select(judgments).where(*_of_task(judgments), newest)
_END_LEASE = delete(leases).where(*_of_task(leases))
_INSERT = judgments.insert().returning(judgments)
_COUNT = (
    update(items)
    .where(items.c.id == bindparam("its_item"))
    .values(judged=items.c.judged + bindparam("change", type_=Integer))
)


def save(connection: Connection, draft: Draft, now: datetime) -> Judgment:
    lock_person(connection, draft.person)
    if stored := _by_key(connection, draft.person, draft.key):
        return _same(stored, draft)
    if isinstance(draft.outcome, Withdrawn):
        raise FeedbackError("a judgment is taken back by undo, not saved", where=f"item {draft.item}")
    task = _task(connection, draft)
    _check(task, draft)
    return _append(connection, task, draft, now)


def undo(
    connection: Connection, person: int, judgment: int, key: str, client: str, now: datetime
) -> Judgment:
    """Withdraw a judgment, and give its item back into the person's hands."""
    lock_person(connection, person)
    row = connection.execute(
        select(judgments).where(judgments.c.id == judgment, judgments.c.person == person)
    ).one_or_none()
    if row is None:
        raise NotFoundError("no such judgment of yours", where=f"judgment {judgment}")
    draft = Draft(
        item=row.item,
        person=person,
        outcome=Withdrawn(),
        shown=tuple(json.loads(row.shown)),
        blind=row.blind,
        guidelines=row.guidelines,
        seconds=0.0,
        key=key,
        client=client,
        round=row.round,
        supersedes=judgment,
    )
    if stored := _by_key(connection, person, key):
        return _same(stored, draft)
    if row.said == "withdrawn":
        raise ConflictError(
            "this was taken back already", where=f"judgment {judgment}", fix="judge the item anew"
        )
    task = _task(connection, draft)
    withdrawal = _append(connection, task, draft, now)
    connection.execute(
        leases.insert().values(
            project=row.project, item=row.item, person=person, round=row.round, expires_at=now + LEASE
        )
    )
    return withdrawal


def judgment_of(row: Row[Any], extra: bool) -> Judgment:
    """A row of the table as a record."""
    return Judgment(
        id=row.id,
        item=row.item,
        project=row.project,
        person=row.person,
        outcome=load_outcome(row.outcome),
        shown=tuple(json.loads(row.shown)),
        blind=row.blind,
        guidelines=row.guidelines,
        seconds=float(row.seconds),  # SQLite may give 1 for 1.0
        policies=tuple(json.loads(row.policies)),
        client=row.client,
        key=row.key,
        round=row.round,
        extra=extra,
        supersedes=row.supersedes,
        at=row.at.isoformat(),
    )


def _by_key(connection: Connection, person: int, key: str) -> Judgment | None:
    row = connection.execute(_BY_KEY, {"person": person, "key": key}).one_or_none()
    return None if row is None else judgment_of(row, row.extra)


def _same(stored: Judgment, draft: Draft) -> Judgment:
    """What was stored under this key, if it says the same. Time on task and client are not compared."""
    names = ("item", "round", "outcome", "shown", "blind", "guidelines")
    draft = replace(draft, outcome=load_outcome(dump_outcome(draft.outcome)))  # as it would have been kept
    differing = [name for name in names if getattr(stored, name) != getattr(draft, name)]
    if draft.supersedes not in (None, stored.supersedes):
        differing.append("supersedes")
    if differing:
        raise ConflictError(
            "this key was used for another judgment",
            where=f"judgment {stored.id}",
            found=f"another {differing[0]}",
            fix="give each judgment a key of its own",
        )
    return stored


def _task(connection: Connection, draft: Draft) -> _Task:
    """The item, locked, if the person was ever given it in this round. It leaves the person's hands.

    Raises:
        NotFoundError: it was not: no such item, or it is another person's.
    """
    this = _key(draft)
    row = connection.execute(_ITEM, {"item": draft.item}).one_or_none()
    before = connection.execute(_NEWEST, this).one_or_none()
    held = connection.execute(_END_LEASE, this).rowcount
    if row is None or (before is None and not held):
        raise NotFoundError(
            "this item was not given to this person", where=f"item {draft.item}", fix="claim items first"
        )
    if draft.supersedes is not None and (before is None or before.id != draft.supersedes):
        raise ConflictError(
            "the judgment was changed meanwhile",
            where=f"item {draft.item}",
            found=f"judgment {before.id if before else 'none'} is the newest, not {draft.supersedes}",
            fix="look at it again",
        )
    return _Task(project_of(row), draft.item, load_item(row.body), row.gold, row.judged, before)


def _check(task: _Task, draft: Draft) -> None:
    answers = len(task.content.answers)
    try:
        check_outcome(task.project.settings.kind, answers, draft.outcome)
        if len(draft.shown) != answers:
            raise ValueError(f"{answers} answers were shown, not {len(draft.shown)}")
        if not 0 <= draft.guidelines <= task.project.guidelines:
            raise ValueError(f"there is no version {draft.guidelines} of the guidelines")
    except ValueError as error:
        raise FeedbackError(
            "the judgment does not fit the item",
            where=f"item {draft.item} of {task.project.name!r}",
            found=str(error),
        ) from error


def _append(connection: Connection, task: _Task, draft: Draft, now: datetime) -> Judgment:
    """Write the new end of the chain, and keep the item's count."""
    before = task.before
    counted = before is not None and before.counts
    counting = counts(draft.outcome)
    change = (counting - counted) if draft.round == 0 else 0
    values = {
        "project": task.project.id,
        "item": task.item,
        "person": draft.person,
        "round": draft.round,
        "said": said(draft.outcome),
        "counts": counting,
        "outcome": dump_outcome(draft.outcome),
        "shown": dump(draft.shown),
        "blind": draft.blind,
        "guidelines": draft.guidelines,
        "seconds": float(draft.seconds),
        "policies": dump([answer.policy_hash for answer in task.content.answers]),
        "client": draft.client,
        "key": draft.key,
        "extra": _extra(task, draft, counted),
        "supersedes": None if before is None else before.id,
        "at": now,
    }
    row = connection.execute(_INSERT, values).one()
    if change:
        connection.execute(_COUNT, {"its_item": task.item, "change": change})
    return judgment_of(row, row.extra)


def _extra(task: _Task, draft: Draft, counted: bool) -> bool:
    """Whether the answers of others reach the overlap. An edit of one that was none becomes none."""
    if task.gold or draft.round or not counts(draft.outcome):
        return False
    if counted and task.before is not None and not task.before.extra:
        return False
    return task.judged - counted >= task.project.settings.overlap


def _key(draft: Draft) -> dict[str, int]:
    return {"its_item": draft.item, "its_person": draft.person, "its_round": draft.round}
