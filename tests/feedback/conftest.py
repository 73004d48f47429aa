"""One suite, two databases: a SQLite file, and a real PostgreSQL server that the tests start."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from trimtab.feedback.records import Candidate, Compared, Draft, Item, Outcome
from trimtab.feedback.store.facts import Person, Project, Settings, Task
from trimtab.feedback.store.store import Store, open_store

Places = Callable[[], str]


class Clock:
    """A time that only a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def ahead(self, **amount: float) -> None:
        self.now += timedelta(**amount)


def compare_item(name: object) -> Item:
    answers = (
        Candidate(text=f"first to {name}", source="runs/ppo", policy_hash="p1"),
        Candidate(text=f"second to {name}", source="runs/dpo", policy_hash="p2", stopped=False),
    )
    return Item(prompt=f"question {name}", answers=answers)


@dataclass
class World:
    """A store with short ways to fill it."""

    place: str
    store: Store
    clock: Clock
    _numbers: Iterator[int] = field(default_factory=count)

    def person(self, name: str | None = None) -> Person:
        return self.store.add_person(name or f"person {next(self._numbers)}")

    def project(self, items: int = 3, **settings: Any) -> Project:
        project = self.store.create_project(
            f"project {next(self._numbers)}", Settings(**{"kind": "compare", **settings}), seed=7
        )
        self.store.add_items(project.id, [compare_item(number) for number in range(items)])
        return project

    def draft(self, task: Task, person: Person, outcome: Outcome | None = None, **more: Any) -> Draft:
        values: dict[str, Any] = {
            "item": task.item,
            "person": person.id,
            "outcome": outcome or Compared(preferred="a", strength=2),
            "shown": task.shown,
            "blind": True,
            "guidelines": 0,
            "seconds": 4.5,
            "key": f"key {next(self._numbers)}",
            "client": "browser",
            "round": task.round,
        }
        return Draft(**{**values, **more})

    def task(self, project: Project, person: Person) -> Task:
        (task,) = self.store.claim(project.id, person.id, 1)
        return task


class Server:
    """PostgreSQL in a folder of its own, on a Unix socket; it refuses to run as root."""

    def __init__(self, binaries: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="trimtab-pg-", dir="/tmp"))
        user = next((name for name in ("postgres", "nobody") if _is_user(name)), None)
        self._as: dict[str, Any] = {"cwd": self.folder, "stdout": subprocess.DEVNULL}
        if os.geteuid() == 0:
            shutil.chown(self.folder, user)
            self._as.update(user=user, extra_groups=[])
        data = self.folder / "data"
        common = ["-D", str(data), "-U", "trimtab", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run([binaries / "initdb", *common], check=True, **self._as)
        options = (
            "fsync=off",  # the tests kill clients, never the machine
            "listen_addresses=",
            f"unix_socket_directories={self.folder}",
            "shared_buffers=16MB",
        )
        flags = [part for option in options for part in ("-c", option)]
        self._process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *flags], stderr=subprocess.DEVNULL, **self._as
        )
        self._wait()
        self._numbers = count()

    def url(self, database: str) -> str:
        return f"postgresql://trimtab@/{database}?host={self.folder}"

    def new(self) -> str:
        """The URL of a new database."""
        name = f"feedback{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # type: ignore[arg-type]
        return self.url(name)

    def drop(self, url: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {_database(url)} WITH (FORCE)")  # type: ignore[arg-type]

    def empty(self, url: str) -> None:
        """Take all rows out of a store; as a replica, so that no trigger refuses."""
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("TRUNCATE people, projects RESTART IDENTITY CASCADE")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=30)
        shutil.rmtree(self.folder)

    def _wait(self) -> None:
        for _ in range(300):
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise AssertionError("PostgreSQL does not answer")


def _database(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _binaries() -> Path | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    return versions[-1] if versions else Path(on_path).resolve().parent if on_path else None


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine: apt-get install postgresql")
    running = Server(binaries)
    yield running
    running.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Places]:
    """Gives places where no store is yet."""
    if kind == "sqlite":
        numbers = count()
        yield lambda: str(tmp_path / f"feedback{next(numbers)}.sqlite")
        return
    running: Server = request.getfixturevalue("server")
    made: list[str] = []

    def new() -> str:
        made.append(running.new())
        return made[-1]

    yield new
    for url in made:
        running.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "feedback.sqlite"
    open_store(path).close()
    return path


@pytest.fixture(scope="session")
def postgresql_store(server: Server) -> str:
    url = server.new()
    open_store(url).close()
    return url


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where an empty store is: a copy, or one that is emptied, because to make one takes longer."""
    if kind == "sqlite":
        return str(shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "feedback.sqlite"))
    url = str(request.getfixturevalue("postgresql_store"))
    request.getfixturevalue("server").empty(url)
    return url


@pytest.fixture
def world(place: str) -> Iterator[World]:
    clock = Clock()
    with open_store(place, clock=clock) as store:
        yield World(place, store, clock)
