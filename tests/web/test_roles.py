"""Every route for everybody: a table that must name each route of the application."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount

from trimtab.feedback.records import Candidate, Compared, Draft, Item
from trimtab.feedback.store.facts import Settings
from trimtab.feedback.store.store import open_store

if TYPE_CHECKING:
    from conftest import Browser, Make, Site

GO_AND_SIGN_IN = 303
"""To /sign-in; whether it goes there is checked too."""


@dataclass(frozen=True)
class Row:
    """What a route answers nobody, an annotator and an admin who do it right."""

    method: str
    path: str
    nobody: int
    annotator: int
    admin: int
    json: dict[str, Any] | None = None
    form: dict[str, str] | None = None
    file: bool = False
    query: str = ""


def vote(**more: Any) -> dict[str, Any]:
    body = {"item": 1, "kind": "compared", "outcome": {"preferred": "first"}, "seconds": 1.0, "guidelines": 1}
    return {**body, "key": "a new key", **more}


TABLE = [
    Row("GET", "/sign-in", 200, 303, 303),
    Row("POST", "/sign-in", 403, 403, 403, form={"name": "x", "password": "wrong"}),
    Row("GET", "/enter/{token}", 200, 200, 200),
    Row("POST", "/enter/{token}", 403, 403, 403, form={}),
    Row("POST", "/sign-out", GO_AND_SIGN_IN, 303, 303, form={}),
    Row("GET", "/account", GO_AND_SIGN_IN, 200, 200),
    Row("POST", "/account/password", GO_AND_SIGN_IN, 303, 303, form={"password": "a long password"}),
    Row("GET", "/", GO_AND_SIGN_IN, 200, 200),
    Row("GET", "/projects/{project:int}", GO_AND_SIGN_IN, 200, 200),
    Row("GET", "/projects/{project:int}/guidelines", GO_AND_SIGN_IN, 200, 200),
    Row("GET", "/mine/{project:int}", GO_AND_SIGN_IN, 200, 200),
    Row("POST", "/mine/{project:int}/{judgment:int}/undo", GO_AND_SIGN_IN, 303, 404, form={"key": "undo"}),
    Row("POST", "/api/projects/{project:int}/claim", 401, 200, 200, json={"count": 2}),
    Row("POST", "/api/judgments", 401, 200, 404, json=vote()),
    Row("POST", "/api/judgments/{judgment:int}/undo", 401, 200, 404, json={"key": "undo"}),
    Row("GET", "/api/projects/{project:int}/judgments/{judgment:int}", 401, 200, 404),
    Row("GET", "/api/projects/{project:int}/guidelines", 401, 200, 200),
    Row("GET", "/admin", GO_AND_SIGN_IN, 403, 200),
    Row("GET", "/admin/projects/new", GO_AND_SIGN_IN, 403, 200),
    Row("POST", "/admin/projects", GO_AND_SIGN_IN, 403, 303, form={"name": "new", "kind": "rate"}),
    Row("GET", "/admin/projects/{project:int}", GO_AND_SIGN_IN, 403, 200),
    Row("GET", "/admin/projects/{project:int}/standing", GO_AND_SIGN_IN, 403, 200),
    Row("GET", "/admin/projects/{project:int}/quality", GO_AND_SIGN_IN, 403, 200),
    Row(
        "POST",
        "/admin/projects/{project:int}/settings",
        GO_AND_SIGN_IN,
        403,
        303,
        form={"overlap": "2", "gold_percent": "5", "repeat_percent": "0"},
    ),
    Row("POST", "/admin/projects/{project:int}/guidelines", GO_AND_SIGN_IN, 403, 303, form={"text": "new"}),
    Row("POST", "/admin/projects/{project:int}/items", GO_AND_SIGN_IN, 403, 303, form={}, file=True),
    Row("GET", "/admin/projects/{project:int}/export", GO_AND_SIGN_IN, 403, 200, query="?shape=trimtab"),
    Row("GET", "/admin/people", GO_AND_SIGN_IN, 403, 200),
    Row("POST", "/admin/people", GO_AND_SIGN_IN, 403, 200, form={"name": "somebody"}),
    Row("POST", "/admin/people/{person:int}/link", GO_AND_SIGN_IN, 403, 200, form={}),
    Row("POST", "/admin/people/{person:int}/deactivate", GO_AND_SIGN_IN, 403, 303, form={}),
    Row("POST", "/admin/people/{person:int}/reactivate", GO_AND_SIGN_IN, 403, 303, form={}),
]
OPEN_TO_ALL = {"/sign-in", "/enter/{token}"}


@dataclass
class Stage:
    """An annotator (person 1) with one judgment (1) of one item (1) in one project (1), and an admin."""

    site: Site
    nobody: Browser
    annotator: Browser
    admin: Browser


Tokens = tuple[str, str]


@pytest.fixture(scope="module")
def prepared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokens]:
    """The stage's store, made once, and the sessions in it."""
    path = tmp_path_factory.mktemp("stage") / "feedback.sqlite"
    shutil.copy(template, path)
    with open_store(path) as store:
        annotator, admin = store.add_person("annotator"), store.add_person("admin", "admin")
        project = store.create_project("project", Settings(kind="compare", overlap=2), guidelines="be fair")
        answers = (Candidate(text="one"), Candidate(text="two"))
        store.add_items(project.id, [Item(prompt=f"question {n}", answers=answers) for n in range(3)])
        (task,) = store.claim(project.id, annotator.id, 1)
        store.save(
            Draft(
                item=task.item,
                person=annotator.id,
                outcome=Compared(preferred="a"),
                shown=task.shown,
                blind=True,
                guidelines=1,
                seconds=2.0,
                key="first",
            )
        )
        return path, (store.start_session(annotator.id), store.start_session(admin.id))


@pytest.fixture
def stage(prepared: tuple[Path, Tokens], make_site: Make) -> Stage:
    path, (annotator, admin) = prepared
    site = make_site(path)
    return Stage(site, site.browser(), site.browser_with(annotator), site.browser_with(admin))


def routes(given: Any) -> Iterator[tuple[str, str]]:
    """Method and path of every route; FastAPI keeps those of a router within the router."""
    for route in given:
        if isinstance(route, Mount):
            assert route.path == "/static"
        elif hasattr(route, "original_router"):
            yield from routes(route.original_router.routes)
        else:
            assert isinstance(route, APIRoute), route
            yield from ((method, route.path) for method in route.methods)


def ask(browser: Browser, row: Row, csrf: str | None = None) -> Any:
    path = row.path.replace("{token}", "no-such-token") + row.query
    for name in ("project", "judgment", "person"):
        path = path.replace(f"{{{name}:int}}", "1")
    secret = browser.csrf if csrf is None else csrf
    if row.json is not None:
        return browser.request(row.method, path, json=row.json, headers={"x-csrf-token": secret})
    if row.form is None:
        return browser.request(row.method, path)
    files = (
        {"file": ("items.jsonl", BytesIO(b'{"prompt": "p", "answers": ["x", "y"]}\n'))} if row.file else None
    )
    return browser.request(row.method, path, data={"csrf": secret, **row.form}, files=files)


def row_name(row: Row) -> str:
    return f"{row.method} {row.path}"


def test_the_table_names_every_route(site: Site) -> None:
    assert sorted(routes(site.app.routes)) == sorted((row.method, row.path) for row in TABLE)


@pytest.mark.parametrize("row", TABLE, ids=row_name)
def test_nobody(stage: Stage, row: Row) -> None:
    answer = ask(stage.nobody, row)
    assert answer.status_code == row.nobody
    if row.nobody == GO_AND_SIGN_IN:
        assert answer.headers["location"].startswith("/sign-in?next=/")


@pytest.mark.parametrize("row", TABLE, ids=row_name)
def test_annotator(stage: Stage, row: Row) -> None:
    assert ask(stage.annotator, row).status_code == row.annotator


@pytest.mark.parametrize("row", TABLE, ids=row_name)
def test_admin(stage: Stage, row: Row) -> None:
    assert ask(stage.admin, row).status_code == row.admin


CLOSED = [row for row in TABLE if row.path not in OPEN_TO_ALL]
CHANGING = [row for row in TABLE if row.method != "GET"]


def refused(answers: Iterator[tuple[Row, int]], expected: Callable[[Row], int]) -> None:
    """Refusals change nothing, so that all rows can be asked on one stage."""
    wrong = [f"{row_name(row)} gave {status}" for row, status in answers if status != expected(row)]
    assert not wrong, "\n".join(wrong)


def test_a_forged_session_is_nobody(stage: Stage) -> None:
    forged = stage.site.browser_with("x" * 43)
    refused(((row, ask(forged, row).status_code) for row in CLOSED), lambda row: row.nobody)


def test_an_ended_session_is_nobody(stage: Stage) -> None:
    stage.site.store.end_session(stage.admin.token)
    refused(((row, ask(stage.admin, row).status_code) for row in CLOSED), lambda row: row.nobody)


def test_a_deactivated_person_is_nobody(stage: Stage) -> None:
    stage.site.store.deactivate(1)
    refused(((row, ask(stage.annotator, row).status_code) for row in CLOSED), lambda row: row.nobody)


@pytest.mark.parametrize("csrf", ["", "0" * 64, "x" * 64, "of another session"])
def test_without_the_second_secret(stage: Stage, csrf: str) -> None:
    given = stage.annotator.csrf if csrf == "of another session" else csrf
    rows = [row for row in CHANGING if row in CLOSED]
    assert len(rows) > 10
    refused(((row, ask(stage.admin, row, given).status_code) for row in rows), lambda row: 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8765"},
        {"origin": "http://localhost:8765"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
    ids=str,
)
def test_from_another_site(stage: Stage, headers: dict[str, str]) -> None:
    stage.admin.headers.update(headers)
    for row in CHANGING:
        answer = ask(stage.admin, row)
        assert (answer.status_code, answer.text) == (403, "Only these pages themselves may ask for this.\n")


def test_who_does_not_say_where_it_comes_from(stage: Stage) -> None:
    for name in ("origin", "sec-fetch-site"):
        del stage.admin.headers[name]
    refused(((row, ask(stage.admin, row).status_code) for row in CHANGING), lambda row: 403)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::2]"])
def test_under_another_name(stage: Stage, host: str) -> None:
    stage.admin.headers["host"] = host
    refused(((row, ask(stage.admin, row).status_code) for row in TABLE), lambda row: 421)
