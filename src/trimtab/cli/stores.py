"""Opening feedback stores and finding projects in them, with errors that say what to do."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from trimtab.feedback.store.facts import Project
    from trimtab.feedback.store.store import Store

DEFAULT_STORE = "feedback.sqlite"

StorePlace = Annotated[
    str, typer.Option("--store", help="The store: a file, or postgresql://user:password@host/database.")
]
ProjectName = Annotated[
    str | None,
    typer.Option(
        "--project", help="The project's name; not needed where the store has one.", show_default=False
    ),
]


def require_feedback() -> None:
    """Raise ConfigError unless the packages that only people's judgments need are installed."""
    try:
        import trimtab.feedback.store.store  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package(error) from error


def missing_package(error: ModuleNotFoundError) -> ConfigError:
    """What to tell people of a package that they have not installed."""
    return ConfigError(
        "a package that people's judgments need is not installed",
        found=f"no {error.name}",
        fix="pip install 'trimtab[feedback]' (and trimtab[postgresql] for a postgresql:// store)",
    )


def make_or_open(place: str) -> Store:
    """The store, made where there is none."""
    require_feedback()
    from trimtab.feedback.store.store import open_store

    return open_store(place)


def exists(place: str) -> bool:
    """Whether there is such a file; of a server, opening it tells."""
    return "://" in place or Path(place).expanduser().is_file()


def open_existing(place: str) -> Store:
    """The store.

    Raises:
        NotFoundError: there is no such file; nothing is made.
    """
    if not exists(place):
        raise NotFoundError(
            "there is no store",
            where=place,
            fix="name it with --store; trimtab feedback import or serve makes one",
        )
    return make_or_open(place)


def find_project(store: Store, name: str | None) -> Project:
    """The project of this name, or the only one.

    Raises:
        NotFoundError: there is none of this name, or no name and not exactly one.
    """
    projects = store.projects()
    if name is None:
        if len(projects) == 1:
            return projects[0]
        raise NotFoundError(
            "which project is meant?" if projects else "the store has no project",
            where=store.name,
            found=", ".join(repr(project.name) for project in projects),
            fix=f"--project {projects[0].name!r}" if projects else "trimtab feedback import FILE makes one",
        )
    found = store.project_named(name)
    if found is None:
        raise no_project(store, name, projects)
    return found


def no_project(store: Store, name: str, projects: list[Project]) -> NotFoundError:
    """There is no project of this name; the nearest one is named."""
    near = difflib.get_close_matches(name, [project.name for project in projects], n=1)
    return NotFoundError(
        "there is no such project",
        where=f"--project {name}",
        found=", ".join(repr(project.name) for project in projects) or "no projects",
        fix=f"did you mean {near[0]!r}?" if near else f"trimtab feedback projects --store {store.name}",
    )
