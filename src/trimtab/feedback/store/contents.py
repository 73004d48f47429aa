"""The items of a project: added in bulk, found again by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from trimtab.errors import FeedbackError, NotFoundError
from trimtab.feedback.records import Item, check_item
from trimtab.feedback.store.facts import Project, StoredItem
from trimtab.feedback.store.projects import lock_project
from trimtab.feedback.store.tables import items, projects
from trimtab.feedback.store.texts import dump_item, load_item

CHUNK = 500
"""Items in one unit of an import, so that nobody's save waits for the whole of it."""


def rows_of(project: Project, given: Sequence[Item]) -> list[dict[str, Any]]:
    """The rows of all items, before any is written.

    Raises:
        FeedbackError: an item that the project's kind cannot ask about, by its number from 1.
    """
    rows = []
    for number, item in enumerate(given, start=1):
        try:
            check_item(project.settings.kind, item)
        except ValueError as error:
            raise FeedbackError(
                "an item does not fit the project",
                where=f"item {number} for {project.name!r}",
                found=str(error),
                fix="import it into a project of its own kind",
            ) from error
        row = {"digest": item.digest, "body": dump_item(item), "gold": item.gold is not None}
        rows.append({"project": project.id, "judged": 0, **row})
    return rows


def add_rows(connection: Connection, project: int, rows: Sequence[dict[str, Any]]) -> tuple[list[int], int]:
    """The numbers of these items in their order, and how many of them are new."""
    lock_project(connection, project)
    by_digest = {row["digest"]: row for row in rows}
    known = _ids(connection, project, by_digest)
    new = [row for digest, row in by_digest.items() if digest not in known]
    if new:
        connection.execute(items.insert(), new)
        known = _ids(connection, project, by_digest)
    return [known[row["digest"]] for row in rows], len(new)


def _ids(connection: Connection, project: int, digests: Iterable[str]) -> dict[str, int]:
    query = select(items.c.digest, items.c.id).where(items.c.project == project, items.c.digest.in_(digests))
    return {row.digest: row.id for row in connection.execute(query)}


def all_items(connection: Connection, project: int) -> list[StoredItem]:
    query = select(items).where(items.c.project == project).order_by(items.c.id)
    return [_stored(row) for row in connection.execute(query)]


def one_item(connection: Connection, item: int) -> StoredItem:
    row = connection.execute(select(items).where(items.c.id == item)).one_or_none()
    if row is None:
        raise _no_item(item)
    return _stored(row)


def order_of(connection: Connection, item: int) -> tuple[int, int]:
    """What the orders of the item's answers follow from: its project's seed, how many answers there are."""
    query = select(projects.c.seed, items.c.body).join(projects, projects.c.id == items.c.project)
    row = connection.execute(query.where(items.c.id == item)).one_or_none()
    if row is None:
        raise _no_item(item)
    return row.seed, len(load_item(row.body).answers)


def contents(connection: Connection, numbers: Sequence[int]) -> Mapping[int, Item]:
    """The items of these numbers."""
    query = select(items.c.id, items.c.body).where(items.c.id.in_(numbers))
    return {row.id: load_item(row.body) for row in connection.execute(query)}


def _no_item(item: int) -> NotFoundError:
    return NotFoundError("no such item", where=f"item {item}")


def _stored(row: Row[Any]) -> StoredItem:
    return StoredItem(id=row.id, project=row.project, content=load_item(row.body), judged=row.judged)
