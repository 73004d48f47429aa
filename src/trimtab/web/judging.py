"""What `judge.js` asks the server: tasks, saves, undo. JSON in and out, one small unit of the store each.

No answer says how far the person is: to count that takes longer than to save, and the page can count on.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from trimtab.errors import FeedbackError, NotFoundError
from trimtab.feedback.records import Draft, Judgment
from trimtab.feedback.store.claiming import LEASE
from trimtab.feedback.store.facts import Task
from trimtab.feedback.store.store import Store, utc_now
from trimtab.web.sessions import AnyVisitor, ScriptSender, StoreOf
from trimtab.web.shown import as_shown, in_item_order
from trimtab.web.tasks import task_json, text_json

router = APIRouter(prefix="/api")
MOST_CLAIMED = 20
HISTORY = 500
"""How far back a person can change what was said."""

Key = Annotated[str, Field(min_length=1, max_length=100)]
Client = Annotated[str, Field(max_length=200)]


class Claim(BaseModel):
    """How many tasks the page wants to hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    count: int = Field(ge=1, le=MOST_CLAIMED)


class Vote(BaseModel):
    """What a person said, in the terms of the screen; `shown.in_item_order` says which."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    item: int
    round: int = Field(default=0, ge=0, le=1)
    kind: str = Field(max_length=20)
    outcome: dict[str, Any] = {}
    seconds: float = Field(ge=0, le=1e7, allow_inf_nan=False)
    guidelines: int = Field(ge=0)
    """The version that the page showed."""
    key: Key
    client: Client = ""
    supersedes: int | None = None


class Undo(BaseModel):
    """Taking back has a key too: it may have to be sent again."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: Key
    client: Client = ""


class Json(JSONResponse):
    """Escapes all but ASCII: half a surrogate pair is no UTF-8, and JavaScript can hold it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


@router.post("/projects/{project:int}/claim")
def claim(project: int, wanted: Claim, sender: ScriptSender, store: StoreOf) -> Json:
    tasks = store.claim(project, sender.person.id, wanted.count)
    return Json({"tasks": [task_json(task) for task in tasks]})


@router.post("/judgments")
def save(vote: Vote, sender: ScriptSender, store: StoreOf) -> Json:
    # The order is not sent: it would tell which answers come from the same place in each item.
    shown = store.shown(vote.item, sender.person.id, vote.round)
    judgment = store.save(_draft(vote, sender.person.id, shown))
    return Json({"id": judgment.id, "extra": judgment.extra})


@router.post("/judgments/{judgment:int}/undo")
def undo(judgment: int, asked: Undo, sender: ScriptSender, store: StoreOf) -> Json:
    withdrawal = take_back(store, judgment, sender.person.id, key=asked.key, client=asked.client)
    return Json({"id": withdrawal.id, "task": _task_of(withdrawal, store)})


@router.get("/projects/{project:int}/judgments/{judgment:int}")
def one_judgment(project: int, judgment: int, visitor: AnyVisitor, store: StoreOf) -> Json:
    """A judgment of one's own, with its task, to change it."""
    said = own_judgment(store, project, judgment, visitor.person.id)
    outcome = as_shown(said.outcome, said.shown)
    return Json({"id": said.id, "outcome": outcome, "task": _task_of(said, store)})


@router.get("/projects/{project:int}/guidelines")
def guidelines(project: int, visitor: AnyVisitor, store: StoreOf) -> Json:
    version = store.project(project).guidelines
    text = store.guidelines(project, version).text if version else ""
    return Json({"version": version, **text_json(text)})


def own_judgment(store: Store, project: int, judgment: int, person: int) -> Judgment:
    """A live judgment of the person.

    Raises:
        NotFoundError: it is another person's, was superseded, or lies too far back.
    """
    for said in store.history(project, person, HISTORY):
        if said.id == judgment:
            return said
    raise NotFoundError("no such judgment of yours that still stands", where=f"judgment {judgment}")


def take_back(store: Store, judgment: int, person: int, *, key: str, client: str) -> Judgment:
    """`Store.undo`, with a refusal for a key or client that cannot be kept."""
    try:
        return store.undo(judgment, person, key=key, client=client)
    except ValueError as error:
        raise FeedbackError("this cannot be taken back like that", found=str(error)) from error


def _draft(vote: Vote, person: int, shown: tuple[int, ...]) -> Draft:
    try:
        return Draft(
            item=vote.item,
            person=person,
            outcome=in_item_order(vote.kind, vote.outcome, shown),
            shown=shown,
            blind=True,  # no page names who wrote an answer before the vote
            guidelines=vote.guidelines,
            seconds=vote.seconds,
            key=vote.key,
            client=vote.client,
            round=vote.round,
            supersedes=vote.supersedes,
        )
    except ValueError as error:
        raise FeedbackError(
            "this cannot be saved", where=f"item {vote.item}", found=str(error), fix="judge it again"
        ) from error


def _task_of(said: Judgment, store: Store) -> dict[str, Any]:
    """The task that a judgment was about, as it was shown."""
    now: datetime = utc_now()
    task = Task(
        item=said.item,
        project=store.project(said.project),
        round=said.round,
        content=store.item(said.item).content,
        shown=said.shown,
        expires=now + LEASE,
    )
    return task_json(task)
