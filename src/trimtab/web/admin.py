"""The pages of admins about projects: what is asked, of how many, how far it is, how good it is."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Form, Query, Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, RedirectResponse, Response

from trimtab.errors import DataError, FeedbackError
from trimtab.feedback.incoming import read_items
from trimtab.feedback.outgoing import export
from trimtab.feedback.quality import project_quality
from trimtab.feedback.records import Flagged, Item, Judgment, Kind
from trimtab.feedback.store.facts import Added, Counts, Progress, Project, Settings
from trimtab.feedback.store.store import Store
from trimtab.formats.exports.shape import FileKind
from trimtab.formats.exports.table import EXPORTS
from trimtab.records import Comparison, Demonstration, Rating
from trimtab.web.rendering import PagesOf
from trimtab.web.sessions import Admin, AdminSender, StoreOf

router = APIRouter(prefix="/admin")
MOST_FLAGGED = 50

_GIVES: dict[Kind, tuple[type, ...]] = {
    "demonstrate": (Demonstration,),
    "compare": (Comparison,),
    "rank": (Comparison,),
    "rate": (Rating,),
    "edit": (Comparison, Demonstration),
}
"""Records that the judgments of a kind become."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An item that somebody flagged."""

    judgment: Judgment
    said: Flagged
    who: str
    item: Item


@router.get("")
def projects(visitor: Admin, store: StoreOf, pages: PagesOf) -> Response:
    found = [(project, store.counts(project.id)) for project in store.projects()]
    return pages.page("admin_projects.html", visitor, projects=found)


@router.get("/projects/new")
def new_project(visitor: Admin, pages: PagesOf) -> Response:
    return pages.page("admin_new.html", visitor)


@router.post("/projects")
def create_project(
    sender: AdminSender,
    store: StoreOf,
    name: Annotated[str, Form()],
    kind: Annotated[Kind, Form()],
    overlap: Annotated[int, Form()] = 1,
    gold_percent: Annotated[float, Form()] = 0.0,
    repeat_percent: Annotated[float, Form()] = 0.0,
    guidelines: Annotated[str, Form()] = "",
) -> Response:
    try:
        settings = Settings(
            kind=kind, overlap=overlap, gold_share=gold_percent / 100, repeat_share=repeat_percent / 100
        )
    except ValueError as error:
        raise FeedbackError(
            "a project cannot have these settings", where=repr(name), found=str(error), fix="change them"
        ) from error
    project = store.create_project(name, settings, guidelines=_text(guidelines))
    return RedirectResponse(f"/admin/projects/{project.id}", 303)


@router.get("/projects/{project:int}")
def project_page(
    project: int,
    visitor: Admin,
    store: StoreOf,
    pages: PagesOf,
    new: Annotated[int | None, Query(ge=0)] = None,
    known: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    found = store.project(project)
    version = found.guidelines
    return pages.page(
        "admin_project.html",
        visitor,
        project=found,
        guidelines=store.guidelines(project, version).text if version else "",
        flags=_flags(store, project),
        shapes=[(name, shape.what) for name, shape in EXPORTS.items() if shape.holds in _gives(found)],
        new=new,
        known=known,
        **_standing(store, project),
    )


@router.get("/projects/{project:int}/standing")
def standing(project: int, visitor: Admin, store: StoreOf, pages: PagesOf) -> Response:
    """How far the project is, alone: its page asks for this again and again."""
    found = store.project(project)
    return pages.page(
        "piece.html",
        visitor,
        project=found,
        heading="Progress",
        piece="standing.html",
        **_standing(store, project),
    )


@router.get("/projects/{project:int}/quality")
def quality(project: int, visitor: Admin, store: StoreOf, pages: PagesOf) -> Response:
    """How good the judgments are, alone: it takes seconds, so that the project's page asks for it later."""
    found = store.project(project)
    return pages.page(
        "piece.html",
        visitor,
        project=found,
        heading="Agreement and quality",
        piece="quality.html",
        quality=project_quality(store, project),
    )


@router.post("/projects/{project:int}/settings")
def change_settings(
    project: int,
    sender: AdminSender,
    store: StoreOf,
    overlap: Annotated[int, Form()],
    gold_percent: Annotated[float, Form()],
    repeat_percent: Annotated[float, Form()],
) -> Response:
    store.change_project(
        project, overlap=overlap, gold_share=gold_percent / 100, repeat_share=repeat_percent / 100
    )
    return RedirectResponse(f"/admin/projects/{project}#settings", 303)


@router.post("/projects/{project:int}/guidelines")
def change_guidelines(
    project: int, sender: AdminSender, store: StoreOf, text: Annotated[str, Form()]
) -> Response:
    store.set_guidelines(project, _text(text))
    return RedirectResponse(f"/admin/projects/{project}#guidelines", 303)


@router.post("/projects/{project:int}/items")
async def import_items(project: int, visitor: Admin, store: StoreOf, request: Request) -> Response:
    """Reads the form itself: a stranger's 64 MB are refused before they are read."""
    async with request.form(max_files=1, max_fields=5) as form:
        visitor.check(str(form.get("csrf", "")))
        given = form.get("file")
        if not isinstance(given, UploadFile) or not given.filename:
            raise DataError("no file was chosen", where="import", fix="choose a JSONL file")
        added = await run_in_threadpool(_import, store, project, given)
    known = len(set(added.ids)) - added.new
    return RedirectResponse(f"/admin/projects/{project}?new={added.new}&known={known}#items", 303)


@router.get("/projects/{project:int}/export")
def download(
    project: int,
    visitor: Admin,
    store: StoreOf,
    shape: Annotated[str, Query(max_length=50)],
    file_kind: FileKind = "jsonl",
) -> Response:
    """The export as a zip file: its splits and the manifest."""
    store.project(project)
    name = f"project-{project}-{shape}.zip" if shape in EXPORTS else "export.zip"
    file = _zipped(store, project, shape, file_kind)
    return FileResponse(
        file,
        media_type="application/zip",
        filename=name,
        background=BackgroundTask(file.unlink),
    )


def _standing(store: Store, project: int) -> dict[str, Any]:
    names = {person.id: person.name for person in store.people()}
    counts: Counts = store.counts(project)
    progress: list[tuple[str, Progress]] = [(names[one.person], one) for one in store.progress(project)]
    return {"counts": counts, "progress": progress}


def _flags(store: Store, project: int) -> list[Flag]:
    names = {person.id: person.name for person in store.people()}
    return [
        Flag(
            judgment=one,
            said=cast(Flagged, one.outcome),
            who=names[one.person],
            item=store.item(one.item).content,
        )
        for one in store.flagged(project)[:MOST_FLAGGED]
    ]


def _gives(project: Project) -> Sequence[type]:
    return _GIVES[project.settings.kind]


def _text(typed: str) -> str:
    """What was typed into a form, which sends line breaks of its own."""
    return typed.replace("\r\n", "\n").strip()


def _import(store: Store, project: int, given: UploadFile) -> Added:
    kind = store.project(project).settings.kind
    with tempfile.TemporaryDirectory(prefix="trimtab-import-") as folder:
        # The ending says whether it is packed; nothing else of the name is used.
        path = Path(folder) / ("items.jsonl.gz" if str(given.filename).endswith(".gz") else "items.jsonl")
        with path.open("wb") as file:
            while piece := given.file.read(1 << 20):
                file.write(piece)
        try:
            items = read_items(path, kind)
        except DataError as error:
            where = error.where.replace(str(path), "the file")
            raise DataError(error.what, where=where, found=error.found, fix=error.fix) from error
    return store.add_items(project, items)


def _zipped(store: Store, project: int, shape: str, file_kind: FileKind) -> Path:
    with tempfile.TemporaryDirectory(prefix="trimtab-export-") as folder:
        place = Path(folder) / "export"
        export(store, project, place, shape=shape, file_kind=file_kind)
        with tempfile.NamedTemporaryFile(prefix="trimtab-", suffix=".zip", delete=False) as packed:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(place.iterdir()):
                    archive.write(file, file.name)
            return Path(packed.name)
