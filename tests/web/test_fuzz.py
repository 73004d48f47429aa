"""Random requests to every route, as nobody, annotator and admin: no 500, no change of what is others'.

What is sent is mostly nearly right: random bytes alone would seldom pass the first check. An exception in a
route is raised by the test client, with its own traceback.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.feedback.records import OUTCOMES, Compared, Draft
from trimtab.formats.exports.table import EXPORTS

if TYPE_CHECKING:
    from conftest import Browser, Make, Site
    from trimtab.feedback.store.facts import Person, Task

EXAMPLES = 250
QUICK = settings(
    max_examples=EXAMPLES,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
OWN = "of the annotator"


@dataclass(frozen=True)
class Attack:
    """One request. `{csrf}` in a field stands for the sender's own second secret."""

    route: tuple[str, str]
    ids: tuple[str, ...] = ("1", "1", "1")
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    json: Any = None
    form: dict[str, str] | None = None
    file: bytes | None = None
    content: bytes | None = None

    def send(self, browser: Browser) -> Any:
        method, path = self.route
        for name, value in zip(("project:int", "judgment:int", "person:int"), self.ids, strict=True):
            path = path.replace(f"{{{name}}}", value)
        path = path.replace("{token}", self.ids[0])
        headers = {name: value.encode("latin-1") for name, value in self.headers.items()}
        options: dict[str, Any] = {"params": self.query, "headers": {"x-csrf-token": browser.csrf, **headers}}
        if self.content is not None:
            options["content"] = self.content
        elif self.form is not None:
            options["data"] = {
                name: browser.csrf if value == "{csrf}" else value for name, value in self.form.items()
            }
            if self.file is not None:
                options["files"] = {"file": (self.ids[1], self.file)}
        elif self.json is not None:
            # As JavaScript would: with what is no JSON too, such as NaN.
            options["content"] = json.dumps(self.json).encode()
            options["headers"] = {"content-type": "application/json", **options["headers"]}
        return browser.request(method, path, **options)


DEEP_ROUTE = st.just(("POST", "/api/judgments"))
TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "",
            " ",
            "\x00",
            "\ud800",
            "\u202e",
            "0",
            "-1",
            "1e400",
            "nan",
            "true",
            "null",
            "[]",
            "{}",
            "a" * 3000,
        ]
    ),
    st.sampled_from(
        ["annotator", "admin", "compare", "rate", "//evil.example", "/\\evil", "/mine/1", *EXPORTS]
    ),
)
# A form and a header are bytes of UTF-8 and of Latin-1: halves of surrogate pairs have none.
SENDABLE = TEXT.map(lambda text: text.encode("utf-8", "replace").decode())
LATIN = TEXT.map(lambda text: text.encode("latin-1", "replace").decode("latin-1")).map(
    lambda text: "".join(character for character in text if character.isprintable())
)
NUMBERS = st.one_of(
    st.integers(-2, 12),
    st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**63), 10**30, 10**4000]),
    st.floats(),
    st.booleans(),
)
IDS = st.one_of(
    st.sampled_from(["1", "2", "3", "4"]),
    st.sampled_from(
        ["0", "00001", "2147483648", "9" * 30, "9" * 5000, "-1", "1.0", "%00", "%31", "１", "a", "..", " "]
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
OUTCOME = st.dictionaries(
    st.one_of(
        st.sampled_from(
            ["preferred", "strength", "reason", "comment", "places", "grade", "response", "kind"]
        ),
        TEXT,
    ),
    st.one_of(st.sampled_from(["first", "second", "tie", "both_bad", 1, 2, 3, [1, 2], [2, 1]]), JSON),
    max_size=4,
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "item": st.one_of(st.integers(1, 6), JSON),
        "round": st.one_of(st.just(0), JSON),
        "kind": st.one_of(st.sampled_from([*OUTCOMES]), JSON),
        "outcome": st.one_of(OUTCOME, JSON),
        "seconds": st.one_of(st.just(1.5), JSON),
        "guidelines": st.one_of(st.just(1), JSON),
        "key": st.one_of(st.uuids().map(str), st.sampled_from(["of the other", OWN]), JSON),
        "client": JSON,
        "supersedes": st.one_of(st.integers(1, 6), JSON),
        "count": st.one_of(st.integers(1, 20), JSON),
    },
)
VOTE = st.fixed_dictionaries(
    {
        "item": st.integers(1, 8),
        "kind": st.sampled_from([*OUTCOMES]),
        "outcome": OUTCOME,
        "seconds": st.floats(0, 1e7),
        "guidelines": st.integers(0, 2),
        "key": st.uuids().map(str),
    }
)
FIELDS = [
    *("name", "role", "kind", "overlap", "gold_percent", "repeat_percent", "guidelines", "text", "key"),
    *("password", "current", "next", "csrf"),
]
FORM = st.builds(
    lambda right, wrong: {"csrf": "{csrf}", **right, **wrong},
    st.fixed_dictionaries(
        {},
        optional={
            "name": SENDABLE,
            "role": st.sampled_from(["annotator", "admin"]),
            "kind": st.sampled_from(["compare", "rank", "rate", "edit", "demonstrate"]),
            "overlap": st.sampled_from(["1", "3"]),
            "gold_percent": st.sampled_from(["0", "50"]),
            "repeat_percent": st.sampled_from(["0", "12.5"]),
            "text": SENDABLE,
            "key": SENDABLE,
        },
    ),
    st.dictionaries(
        st.one_of(st.sampled_from(FIELDS), SENDABLE), st.one_of(SENDABLE, NUMBERS.map(str)), max_size=3
    ),
)
ROWS = st.dictionaries(
    st.sampled_from(
        ["prompt", "answers", "context", "gold", "keywords", "a", "b", "chosen", "rejected", "preferred"]
    ),
    st.one_of(JSON, st.lists(TEXT, min_size=2, max_size=2), st.just([{"role": "user", "content": "hello"}])),
    max_size=6,
)
FILE = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=20).map(lambda rest: b"\x1f\x8b\x08\x00" + rest),
    st.lists(ROWS, max_size=3).map(lambda rows: "\n".join(json.dumps(row) for row in rows).encode()),
)
QUERY = st.dictionaries(
    st.sampled_from(["next", "change", "version", "most", "new", "known", "shape", "file_kind", "x"]),
    st.one_of(st.sampled_from(["1", "3", "jsonl", "json", "parquet", *EXPORTS]), SENDABLE, NUMBERS.map(str)),
    max_size=3,
)
TYPES = [
    *("application/json", "application/json; charset=bogus", "text/plain", "x", "multipart/form-data"),
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x; charset=bogus"),
]
HEADERS = st.dictionaries(
    st.sampled_from(
        ["content-type", "accept", "cookie", "x-csrf-token", "range", "if-none-match", "x-forwarded-for"]
    ),
    st.one_of(st.sampled_from(TYPES), LATIN),
    max_size=1,
)
BYTES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"[" * 5000,
            b'{"count":' * 900,
            b'--x\r\nContent-Disposition: form-data; name="file"',
            b"a=%ff&b=%",
            b"\xff",
        ]
    ),
)


DEEP = st.builds(
    lambda place, depth, opening, closing: (
        b'{"item":1,"kind":"compared","seconds":1,"guidelines":1,"key":"deep",'
        + place
        + opening * depth
        + closing * depth
    ),
    st.sampled_from([b'"outcome":', b'"outcome":{"preferred":', b'"outcome":{"strength":', b'"client":']),
    st.integers(1, 1100),
    st.sampled_from([b"[", b'{"a":']),
    st.sampled_from([b"]", b"}", b""]),
)


def attacks(routes: Sequence[tuple[str, str]]) -> st.SearchStrategy[Attack]:
    """Requests to these routes: JSON, forms, forms with a file, bytes."""
    common = {"route": st.sampled_from(routes), "ids": st.tuples(IDS, IDS, IDS), "query": QUERY}
    return st.one_of(
        st.builds(Attack, **common, json=st.one_of(VOTE, BODY, JSON)),
        st.builds(Attack, **common, form=FORM),
        st.builds(Attack, **common, form=FORM, file=FILE),
        st.builds(Attack, **common, headers=HEADERS, content=BYTES),
    )


def routes(given: Any) -> Iterator[tuple[str, str]]:
    """Method and path of every route; FastAPI keeps those of a router within the router."""
    for route in given:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router.routes)
        elif isinstance(route, APIRoute):
            yield from ((method, route.path) for method in sorted(route.methods))


@dataclass
class Stage:
    """Projects of every kind, in which an annotator and another one have said and hold something."""

    site: Site
    place: Path
    annotator: Person
    other: Person
    admin: Person

    def browser(self, person: Person | None) -> Browser:
        if person and not self.site.store.person(person.id).active:
            self.site.store.reactivate(person.id)
        return self.site.browser(person)

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Everything that the store holds: table and row."""
        with closing(sqlite3.connect(self.place)) as connection:
            connection.row_factory = sqlite3.Row
            for table in TABLES:
                for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):
                    yield table, dict(row)


TABLES = ("people", "sign_ins", "sessions", "projects", "guidelines", "items", "leases", "judgments")


@pytest.fixture
def stage(make_site: Make, tmp_path: Path) -> Stage:
    site = make_site(attempts=10**9, attempts_by_address=10**9)
    annotator, other, admin = site.person(), site.person(), site.person("admin")
    for kind in ("compare", "rank", "rate", "edit", "demonstrate"):
        project = site.project(kind, items=4, overlap=2)
        for person in (annotator, other):
            task = site.store.claim(project.id, person.id, 2)[0]
            if kind == "compare":
                key = OWN if person == annotator else "of the other"
                site.store.save(draft(task, person, key))
    return Stage(site, tmp_path / "feedback0.sqlite", annotator, other, admin)


def draft(task: Task, person: Person, key: str) -> Draft:
    return Draft(
        item=task.item,
        person=person.id,
        outcome=Compared(preferred="a"),
        shown=task.shown,
        blind=True,
        guidelines=1,
        seconds=1.0,
        key=key,
    )


def run(stage: Stage, person: Person | None, kept: Callable[[], object]) -> None:
    """Attack as a person; `kept` gives what no attack may change."""
    before = kept()
    found: Counter[int] = Counter()
    browser = stage.browser(person)

    @QUICK
    @given(attacks(sorted(set(routes(stage.site.app.routes)))) | st.builds(Attack, DEEP_ROUTE, content=DEEP))
    def attack(one: Attack) -> None:
        nonlocal browser
        if person and (browser.cookies.get("trimtab") != browser.token or not find(stage, browser)):
            browser = stage.browser(person)
        status = one.send(browser).status_code
        found[status] += 1
        assert status < 500
        assert kept() == before

    attack()
    assert sum(found[status] for status in (200, 303)) > EXAMPLES / 20, found


def find(stage: Stage, browser: Browser) -> Person | None:
    return stage.site.store.find_session(browser.token)


def test_nobody_changes_nothing(stage: Stage) -> None:
    run(stage, None, lambda: list(stage.rows()))


def test_an_annotator_changes_only_what_is_theirs(stage: Stage) -> None:
    def others() -> list[Any]:
        return [
            (table, {name: value for name, value in row.items() if (table, name) != ("items", "judged")})
            for table, row in stage.rows()
            if stage.annotator.id not in (row.get("person"), row["id"] if table == "people" else None)
        ]

    run(stage, stage.annotator, others)


def test_an_admin_changes_no_judgment_and_no_password_of_others(stage: Stage) -> None:
    def others() -> list[Any]:
        judged = [row for table, row in stage.rows() if table == "judgments"]
        people = [(row["id"], row["password"]) for table, row in stage.rows() if table == "people"]
        known = (stage.annotator.id, stage.other.id)
        return [
            [row for row in judged if row["person"] in known],
            [password for number, password in people if number in known],
        ]

    run(stage, stage.admin, others)
