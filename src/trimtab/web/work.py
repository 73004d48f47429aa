"""The pages of a person's own work: the projects, the judging page, the guidelines, what was said."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query
from starlette.responses import RedirectResponse, Response

from trimtab.errors import NotFoundError
from trimtab.feedback.records import Judgment
from trimtab.feedback.store.facts import Project
from trimtab.feedback.store.store import Store
from trimtab.web.judging import HISTORY, own_judgment
from trimtab.web.judging import take_back as withdraw
from trimtab.web.rendering import PagesOf
from trimtab.web.sessions import AnyVisitor, FormSender, StoreOf
from trimtab.web.shown import in_words

router = APIRouter()
LAST = 50
SNIPPET = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Mine:
    """How far one person is in one project."""

    project: Project
    judged: int
    left: int
    seconds: float
    """Time on task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One judgment in a list."""

    judgment: Judgment
    words: str
    about: str


@router.get("/")
def home(visitor: AnyVisitor, store: StoreOf, pages: PagesOf) -> Response:
    mine = [_mine(store, project, visitor.person.id) for project in store.projects()]
    return pages.page("home.html", visitor, mine=mine)


@router.get("/projects/{project:int}")
def judge(
    project: int,
    visitor: AnyVisitor,
    store: StoreOf,
    pages: PagesOf,
    change: Annotated[int | None, Query()] = None,
) -> Response:
    found = store.project(project)
    if change is not None:
        own_judgment(store, project, change, visitor.person.id)
    return pages.page(
        "judge.html",
        visitor,
        mine=_mine(store, found, visitor.person.id),
        project=found,
        change=change,
        shelf=_shelf(found),
    )


@router.get("/projects/{project:int}/guidelines")
def guidelines(
    project: int, visitor: AnyVisitor, store: StoreOf, pages: PagesOf, version: int | None = None
) -> Response:
    found = store.project(project)
    wanted = found.guidelines if version is None else version
    if version is not None and not 1 <= version <= found.guidelines:
        raise NotFoundError("no such version of the guidelines", where=f"version {version}")
    text = store.guidelines(project, wanted) if wanted else None
    return pages.page("guidelines.html", visitor, project=found, guidelines=text)


@router.get("/mine/{project:int}")
def mine(
    project: int,
    visitor: AnyVisitor,
    store: StoreOf,
    pages: PagesOf,
    most: Annotated[int, Query(ge=1, le=HISTORY)] = LAST,
) -> Response:
    found = store.project(project)
    history = store.history(project, visitor.person.id, most)
    said = [_said(store, judgment) for judgment in history]
    more = min(HISTORY, 2 * most) if len(said) == most < HISTORY else None
    return pages.page(
        "mine.html", visitor, project=found, said=said, more=more, new_key=lambda: secrets.token_urlsafe(16)
    )


@router.post("/mine/{project:int}/{judgment:int}/undo")
def take_back(
    project: int, judgment: int, sender: FormSender, store: StoreOf, key: Annotated[str, Form(max_length=100)]
) -> Response:
    own_judgment(store, project, judgment, sender.person.id)
    withdraw(store, judgment, sender.person.id, key=key, client="page of own judgments")
    return RedirectResponse(f"/mine/{project}", 303)


def _shelf(project: Project) -> str:
    """Names the project among all stores that were ever served under one address, where numbers repeat."""
    return hashlib.sha256(f"shelf {project.seed}".encode()).hexdigest()[:16]


def _mine(store: Store, project: Project, person: int) -> Mine:
    own = [one for one in store.progress(project.id) if one.person == person]
    return Mine(
        project=project,
        judged=sum(one.judged for one in own),
        left=store.left(project.id, person),
        seconds=sum(one.seconds for one in own),
    )


def _said(store: Store, judgment: Judgment) -> Said:
    prompt = store.item(judgment.item).content.prompt
    text = " ".join((prompt if isinstance(prompt, str) else prompt[-1].content).split())
    about = text if len(text) <= SNIPPET else f"{text[:SNIPPET]} ..."
    return Said(judgment=judgment, words=in_words(judgment.outcome, judgment.shown), about=about)
