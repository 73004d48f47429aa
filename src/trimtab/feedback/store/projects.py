"""Projects and their guidelines."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, update

from trimtab.errors import ConflictError, FeedbackError, NotFoundError
from trimtab.feedback.store.engine import insert
from trimtab.feedback.store.facts import Guidelines, Project, Settings
from trimtab.feedback.store.tables import guidelines, projects
from trimtab.feedback.store.texts import check_guidelines, check_name, folded

_CHANGEABLE = {"overlap", "gold_share", "repeat_share"}

_newest = (
    select(func.coalesce(func.max(guidelines.c.version), 0))
    .where(guidelines.c.project == projects.c.id)
    .scalar_subquery()
)
as_columns = (*projects.c, _newest.label("version"))
"""All that `project_of` reads."""
_PROJECTS = select(*as_columns)
_ONE = _PROJECTS.where(projects.c.id == bindparam("project"))
_LOCK = select(projects.c.id).where(projects.c.id == bindparam("project")).with_for_update(key_share=True)


def create_project(
    connection: Connection, name: str, settings: Settings, seed: int | None, now: datetime
) -> Project:
    name = check_name(name, "project")
    made = connection.execute(
        insert(connection, projects)
        .values(
            name=name,
            folded=folded(name),
            kind=settings.kind,
            overlap=settings.overlap,
            gold_share=settings.gold_share,
            repeat_share=settings.repeat_share,
            seed=secrets.randbits(62) if seed is None else seed,
            created_at=now,
        )
        .on_conflict_do_nothing()
        .returning(projects.c.id)
    ).scalar_one_or_none()
    if made is None:
        raise ConflictError(
            "there is a project of this name", where="name", found=repr(name), fix="write another name"
        )
    return one_project(connection, made)


def all_projects(connection: Connection) -> list[Project]:
    return [project_of(row) for row in connection.execute(_PROJECTS.order_by(projects.c.id))]


def one_project(connection: Connection, project: int) -> Project:
    row = connection.execute(_ONE, {"project": project}).one_or_none()
    if row is None:
        raise _no_project(project)
    return project_of(row)


def project_named(connection: Connection, name: str) -> Project | None:
    row = connection.execute(_PROJECTS.where(projects.c.folded == folded(name))).one_or_none()
    return None if row is None else project_of(row)


def lock_project(connection: Connection, project: int) -> Project:
    """Let nobody else share out work of this project, or change how, until the unit ends."""
    if connection.execute(_LOCK, {"project": project}).first() is None:
        raise _no_project(project)
    return one_project(connection, project)


def change_project(connection: Connection, project: int, changes: dict[str, Any]) -> Project:
    """Replace settings; what is not named stays."""
    before = lock_project(connection, project)
    try:
        if unknown := sorted(changes.keys() - _CHANGEABLE):
            raise ValueError(f"{unknown[0]} is none of {', '.join(sorted(_CHANGEABLE))}")
        after = replace(before.settings, **changes)
    except ValueError as error:
        raise FeedbackError(
            "the settings cannot be changed like this", where=f"project {before.name!r}", found=str(error)
        ) from error
    connection.execute(
        update(projects)
        .where(projects.c.id == project)
        .values(overlap=after.overlap, gold_share=after.gold_share, repeat_share=after.repeat_share)
    )
    return replace(before, settings=after)


def set_guidelines(connection: Connection, project: int, text: str, now: datetime) -> int:
    check_guidelines(text)
    newest = lock_project(connection, project).guidelines
    if newest and one_version(connection, project, newest).text == text:
        return newest
    connection.execute(guidelines.insert().values(project=project, version=newest + 1, text=text, at=now))
    return newest + 1


def one_version(connection: Connection, project: int, version: int) -> Guidelines:
    row = connection.execute(
        select(guidelines).where(guidelines.c.project == project, guidelines.c.version == version)
    ).one_or_none()
    if row is None:
        raise NotFoundError(
            "no such version of the guidelines", where=f"project {project}", found=f"version {version}"
        )
    return Guidelines(version=row.version, text=row.text, at=row.at)


def _no_project(project: int) -> NotFoundError:
    return NotFoundError("no such project", where=f"project {project}", fix="look at the list of projects")


def project_of(row: Row[Any]) -> Project:
    """A row with `as_columns` as a record."""
    settings = Settings(
        kind=row.kind, overlap=row.overlap, gold_share=row.gold_share, repeat_share=row.repeat_share
    )
    return Project(
        id=row.id,
        name=row.name,
        settings=settings,
        guidelines=row.version,
        seed=row.seed,
        created_at=row.created_at,
    )
