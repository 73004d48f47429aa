"""Items into projects: from files, from two models that answer prompts, and from what the package carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trimtab.cli.stores import exists, make_or_open, no_project, open_existing
from trimtab.cli.text import visible
from trimtab.errors import ConfigError, NotFoundError
from trimtab.feedback.records import Item, Kind
from trimtab.formats import Defect

if TYPE_CHECKING:
    from trimtab.feedback.store.facts import Added, Project

DEFAULT_KIND: Kind = "compare"
DEMO_PROJECT = "demo"
DEMO_GUIDELINES = (
    "Each is the beginning of a sentence about a film, with two endings that a small model wrote.\n\n"
    "Which ending is **kinder to the film**? Say a tie where you see no difference."
)


@dataclass(frozen=True, slots=True)
class Found:
    """Items, and the rows that nobody can judge."""

    items: Sequence[Item]
    left_out: Sequence[Defect] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two models that answer the same prompts."""

    models: tuple[str, str]
    prompts: str
    count: int | None
    max_new: int
    temperature: float
    top_p: float
    seed: int
    device: str

    @property
    def name(self) -> str:
        """Of a project made for it."""
        return " and ".join(Path(model).name for model in self.models)

    def read(self, kind: Kind) -> Found:
        """Both answer; where they say the same there is nothing to compare."""
        from trimtab import formats
        from trimtab.arena.matches import play_matches
        from trimtab.feedback.incoming import items_of
        from trimtab.model.names import resolve
        from trimtab.rollout.types import Sampling
        from trimtab.train.models import weights_hash

        if kind not in ("compare", "edit"):
            raise ConfigError(
                "two models give pairs of answers",
                where="--play",
                found=f"a project of kind {kind}",
                fix="import into a project of kind compare or edit",
            )
        rows = formats.usable(formats.read_prompts(self.prompts))[: self.count]
        sampling = Sampling(max_new=self.max_new, temperature=self.temperature, top_p=self.top_p)
        played = play_matches(*self.models, rows, sampling, seed=self.seed, device=self.device)
        hashes = {model: weights_hash(resolve(model)) for model in self.models}
        different = [one for one in played if one.a.strip() != one.b.strip()]
        same = [
            formats.Defect(
                kind="identical pair",
                file=row.file,
                line=row.line,
                field="",
                what="both models gave the same answer",
                found="",
                fix="",
            )
            for row, one in zip(rows, played, strict=True)
            if one.a.strip() == one.b.strip()
        ]
        return Found(items_of(different, hashes), same)


def read_files(files: Sequence[str], kind: Kind) -> Found:
    """The items of all files, in order."""
    from trimtab.feedback.incoming import read_incoming

    found = [read_incoming(file, kind) for file in files]
    return Found(
        [item for one in found for item in one.items],
        [defect for one in found for defect in one.left_out],
    )


def fill(
    place: str,
    name: str | None,
    kind: Kind | None,
    overlap: int | None,
    default: str,
    read: Callable[[Kind], Found],
    *,
    as_json: bool,
) -> None:
    """Read items and put them into a project; nothing is made where they cannot be read.

    Args:
        name: of the project; None: the only one, or in a store without any, `default`.
    Raises:
        NotFoundError: the store has projects, and none of this name, and no kind says that one is to be made.
        ConfigError: the project is of another kind, or has another overlap.
    """
    found = _existing(place, name, kind, overlap)
    given = read(found.settings.kind if found else kind or DEFAULT_KIND)
    if not given.items:
        raise ConfigError("there is nothing to judge", found=f"{len(given.left_out)} rows were left out")
    with make_or_open(place) as store:
        if found is None:
            from trimtab.feedback.store.facts import Settings

            settings = Settings(kind=kind or DEFAULT_KIND, overlap=overlap or 1)
            project, is_new = store.create_project(name or default, settings), True
        else:
            project, is_new = found, False
        added = store.add_items(project.id, given.items)
        _tell(place, project, added, given, is_new=is_new, as_json=as_json)


def _existing(place: str, name: str | None, kind: Kind | None, overlap: int | None) -> Project | None:
    """The project that is meant, if it is there already."""
    if not exists(place):
        return None
    with open_existing(place) as store:
        projects = store.projects()
        if name is None and len(projects) > 1:
            raise NotFoundError(
                "which project is meant?",
                where=store.name,
                found=", ".join(repr(project.name) for project in projects),
                fix=f"--project {projects[0].name!r}, or a new name with --kind",
            )
        found = store.project_named(name) if name is not None else projects[0] if projects else None
        if found is None and projects and kind is None:
            missing = no_project(store, name or "", projects)
            raise NotFoundError(
                missing.what,
                where=missing.where,
                found=missing.found,
                fix=f"{missing.fix}; --kind compare makes a new one",
            )
    if found is not None:
        _check_same(found, kind, overlap)
    return found


def _check_same(project: Project, kind: Kind | None, overlap: int | None) -> None:
    settings = project.settings
    if kind is not None and kind != settings.kind:
        raise ConfigError(
            "the project is of another kind",
            where=f"project {project.name!r}",
            found=settings.kind,
            fix="give another --project, which is made",
        )
    if overlap is not None and overlap != settings.overlap:
        raise ConfigError(
            "the project has another overlap",
            where=f"project {project.name!r}",
            found=f"overlap {settings.overlap}",
            fix=f"trimtab feedback change --project {project.name!r} --overlap {overlap}",
        )


def _tell(place: str, project: Project, added: Added, given: Found, *, is_new: bool, as_json: bool) -> None:
    there = len(given.items) - added.new
    if as_json:
        result = {
            "project": project.name,
            "kind": project.settings.kind,
            "made": is_new,
            "new": added.new,
            "there already": there,
            "left out": [{"where": one.where, "reason": f"{one.kind}: {one.what}"} for one in given.left_out],
        }
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    for one in given.left_out:
        typer.echo(visible(f"left out {one.where}: {one.kind}: {one.what}"), err=True)
    made = f"made the project {project.name!r} ({project.settings.kind})\n" if is_new else ""
    before = f", {there:,} were there already" if there else ""
    typer.echo(visible(f"{made}{added.new:,} new items in {project.name!r}{before}"))
    typer.echo(visible(f"judge them: trimtab feedback serve --store {place}"))


def add_demo(place: str) -> None:
    """The carried pairs, into a store that has no project yet."""
    from trimtab.demo.assets import PAIRS
    from trimtab.feedback.store.facts import Settings

    with make_or_open(place) as store:
        if store.projects():
            return
        items = read_files([str(PAIRS)], "compare").items
        project = store.create_project(DEMO_PROJECT, Settings(kind="compare"), guidelines=DEMO_GUIDELINES)
        store.add_items(project.id, items)
    typer.echo(f"The store has no project: {len(items)} pairs to try are in the project {DEMO_PROJECT!r}.")
