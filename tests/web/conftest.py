"""A site over a store of its own, and browsers of people who are signed in to it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from trimtab.feedback.records import ANSWERS, Candidate, Item, Kind
from trimtab.feedback.store.facts import Person, Project, Settings
from trimtab.feedback.store.store import Store, open_store
from trimtab.web.app import make_app
from trimtab.web.settings import WebSettings

BASE = "http://127.0.0.1:8765"
SECRETS = ("planted-source", "planted-hash", "planted-keyword", "planted-gold")
"""Words in what nobody may see before the vote."""


def csrf_of(token: str) -> str:
    return hashlib.sha256(f"csrf {token}".encode()).hexdigest()


class Browser(TestClient):
    """A browser of one person: it says where requests come from, and follows nothing by itself."""

    def __init__(self, app: FastAPI, token: str = "") -> None:
        super().__init__(
            app,
            base_url=BASE,
            headers={"origin": BASE, "sec-fetch-site": "same-origin"},
            follow_redirects=False,
            raise_server_exceptions=True,
        )
        self.token = token
        self.csrf = csrf_of(token)
        if token:
            self.cookies.set("trimtab", token)

    def post_json(self, path: str, body: Mapping[str, Any]) -> Any:
        """JSON, as judge.js sends it."""
        return self.post(path, json=body, headers={"x-csrf-token": self.csrf})

    def post_form(self, path: str, **fields: str) -> Any:
        """A form of a page."""
        return self.post(path, data={"csrf": self.csrf, **fields})


def secret_item(kind: Kind, number: int, answers: int | None = None, gold: Any = None) -> Item:
    wanted = ANSWERS[kind][0] if answers is None else answers
    return Item(
        prompt=f"question {number}",
        answers=tuple(
            Candidate(
                text=f"answer {'abcdefghi'[index]} to {number}",
                source=f"planted-source-{index}",
                policy_hash=f"planted-hash-{index}",
            )
            for index in range(wanted)
        ),
        context=("a passage",),
        gold=gold,
        keywords=("planted-keyword",),
    )


@dataclass
class Site:
    store: Store
    app: FastAPI
    _numbers: Iterator[int] = field(default_factory=count)
    secrets = SECRETS
    secret_item = staticmethod(secret_item)

    def browser(self, person: Person | None = None) -> Browser:
        return self.browser_with(self.store.start_session(person.id) if person else "")

    def browser_with(self, token: str) -> Browser:
        return Browser(self.app, token)

    def person(self, role: Any = "annotator") -> Person:
        return self.store.add_person(f"person {next(self._numbers)}", role)

    def project(
        self, kind: Kind = "compare", items: int = 3, answers: int | None = None, **more: Any
    ) -> Project:
        made = self.store.create_project(
            f"project {next(self._numbers)}",
            Settings(kind=kind, **more),
            guidelines="be **fair**",
            seed=7_111_222_333,
        )
        self.store.add_items(made.id, [secret_item(kind, number, answers) for number in range(items)])
        return made


Make = Callable[..., Site]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "feedback.sqlite"
    open_store(path).close()
    return path


@pytest.fixture
def make_site(template: Path, tmp_path: Path) -> Iterator[Make]:
    stores: list[Store] = []

    def make(start: Path = template, **settings: Any) -> Site:
        store = open_store(shutil.copy(start, tmp_path / f"feedback{len(stores)}.sqlite"))
        stores.append(store)
        return Site(store, make_app(store, WebSettings(**settings)))

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def site(make_site: Make) -> Site:
    return make_site()
