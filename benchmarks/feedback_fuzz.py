"""schemathesis against the feedback pages, as nobody, annotator and admin: no answer is a 5xx.

    pip install 'trimtab[fuzz]'
    python benchmarks/feedback_fuzz.py --examples 200

The application is asked directly, without a server, by its own OpenAPI schema, which it tells nobody else.
What passes as right and what passes as wrong are both sent. The first failures are printed; their cases are
repeated with the same `--seed`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from trimtab.feedback.records import ANSWERS, Candidate, Item, Kind
from trimtab.feedback.store.facts import Settings
from trimtab.feedback.store.store import Store, open_store
from trimtab.web.app import make_app
from trimtab.web.settings import WebSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ROLES = ("nobody", "annotator", "admin")
SCHEMA = "/openapi.json"
BASE = "http://127.0.0.1:8765"
SHOWN = 5
SECRET = "c" * 64
"""Stands for the session's second secret, and is as long."""
NUMBERED = ("project", "judgment", "person")
"""Parameters of paths that are numbers of rows; the first few rows are there."""


class As:
    """The application, as one person's browser reaches it, and what it answered."""

    def __init__(self, store: Store, role: str) -> None:
        self._app = make_app(store, WebSettings(attempts=10**9, attempts_by_address=10**9))
        self._store = store
        self._person = store.person_named(role)
        self._token = ""
        self._schema = json.dumps(_with_real_values(self._app.openapi())).encode()
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == SCHEMA:
            await _answer(send, self._schema)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._sign_in()
        scope["headers"] = self._headers(scope["headers"])
        try:
            await self._app(scope, self._knowing(receive), self._counting(scope, send))
        except Exception:  # answered with 500 already, by the application's own last resort
            self.failures.append(f"{_line(scope)}\n{traceback.format_exc(limit=-4)}")

    def _sign_in(self) -> None:
        """A session, if this person has lost theirs: some requests end it."""
        if self._person is None or self._store.find_session(self._token):
            return
        if not self._store.person(self._person.id).active:
            self._store.reactivate(self._person.id)
        self._token = self._store.start_session(self._person.id)

    @property
    def _csrf(self) -> bytes:
        return hashlib.sha256(f"csrf {self._token}".encode()).hexdigest().encode()

    def _knowing(self, receive: Receive) -> Receive:
        """The body, with the second secret where the schema could only give its place."""

        async def knowing() -> Message:
            message = await receive()
            if "body" in message:
                message["body"] = message["body"].replace(SECRET.encode(), self._csrf)
            return message

        return knowing

    def _headers(self, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """What a browser says by itself, in place of what was generated."""
        own = {b"host": BASE.removeprefix("http://"), b"origin": BASE, b"sec-fetch-site": "same-origin"}
        if self._token:
            own |= {b"cookie": f"trimtab={self._token}", b"x-csrf-token": self._csrf.decode()}
        kept = [(name, value) for name, value in given if name.lower() not in own]
        return kept + [(name, value.encode()) for name, value in own.items()]

    def _counting(self, scope: Message, send: Send) -> Send:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
                if message["status"] >= 500:
                    self.failures.append(f"{_line(scope)}: {message['status']}")
            await send(message)

        return counting


def _line(scope: Message) -> str:
    return f"{scope['method']} {scope['path'][:200]!r} ? {scope['query_string'][:200]!r}"


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_real_values(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what random values never hit: numbers of rows that are there, the second secret."""
    for operation in (one for path in schema["paths"].values() for one in path.values()):
        for parameter in operation.get("parameters", []):
            if parameter["name"] in NUMBERED:
                parameter["schema"] = {"anyOf": [{"enum": [1, 2, 3, 4]}, {"type": "integer"}]}
    for part in schema["components"]["schemas"].values():
        if "csrf" in part.get("properties", {}):
            part["properties"]["csrf"] = {"type": "string", "enum": [SECRET]}
            part["required"] = sorted({*part.get("required", []), "csrf"})
    return schema


def main() -> None:
    """Fuzz as each role, print what was answered; 1 where something broke."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=100, help="for each role, route and kind of value")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    _require_schemathesis()
    broken = 0
    for role in ROLES:
        with tempfile.TemporaryDirectory(prefix="trimtab-fuzz-") as folder:
            place = Path(folder) / "feedback.sqlite"
            _fill(place)
            with open_store(place) as store:
                found = As(store, role)
                fuzz(found, arguments.examples, arguments.seed)
        broken += len(found.failures)
        answered = ", ".join(f"{status}: {number}" for status, number in sorted(found.statuses.items()))
        print(f"{role}: {found.statuses.total()} requests ({answered}), {len(found.failures)} failures")
        for failure in found.failures[:SHOWN]:
            print(failure)
    sys.exit(broken > 0)


def _require_schemathesis() -> None:
    try:
        import schemathesis  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("schemathesis is not installed: pip install 'trimtab[fuzz]'")


def fuzz(found: As, examples: int, number: int) -> None:
    """Send `examples` right and as many wrong requests to each route."""
    import schemathesis

    schema = schemathesis.openapi.from_asgi(SCHEMA, found)
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)

            @seed(number)
            @settings(
                max_examples=examples,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(cases)
            def send(case: Any) -> None:
                case.call()

            # A route without parameters and body cannot be asked wrongly.
            with suppress(Unsatisfiable, SkipTest):
                send()


def _fill(place: Path) -> None:
    """A project of each kind, with items that the annotator holds."""
    with open_store(place) as store:
        store.add_person("admin", "admin")
        person = store.add_person("annotator")
        store.add_person("another")
        kinds: tuple[Kind, ...] = ("compare", "rank", "rate", "edit", "demonstrate")
        for kind in kinds:
            project = store.create_project(kind, Settings(kind=kind), guidelines="be fair")
            answers = tuple(Candidate(text=f"answer {index}") for index in range(ANSWERS[kind][0]))
            store.add_items(project.id, [Item(prompt=f"p {index}", answers=answers) for index in range(5)])
            store.claim(project.id, person.id, 3)


if __name__ == "__main__":
    main()
