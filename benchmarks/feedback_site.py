"""What the measurements of the feedback server stand on: a store with people in it, and the real server.

PostgreSQL runs as it comes, with every commit on the disk before it is acknowledged; so does SQLite, because
the store sees to that.
"""

from __future__ import annotations

import http.client
import os
import platform
import pwd
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from trimtab.feedback.records import Candidate, Item
from trimtab.feedback.store.facts import Settings
from trimtab.feedback.store.store import open_store

STARTED_WITHIN = 60.0
_WORDS = (
    "because",
    "the",
    "river",
    "was",
    "high",
    "**that**",
    "year",
    "nobody",
    "had",
    "seen",
    "to",
    "it,",
    "and",
)


@dataclass(frozen=True)
class Seat:
    """A person who is signed in."""

    person: int
    token: str


def people(place: str, number: int) -> list[Seat]:
    """New annotators, each with a session."""
    with open_store(place) as store:
        made = [store.add_person(f"annotator {index}") for index in range(number)]
        return [Seat(person.id, store.start_session(person.id)) for person in made]


def project(place: str, name: str, items: int, overlap: int) -> int:
    """A new project of pairs as long as a small model's answers; its number."""
    with open_store(place) as store:
        settings = Settings(kind="compare", overlap=overlap)
        made = store.create_project(name, settings, guidelines="Be **fair**.")
        store.add_items(made.id, [_item(number) for number in range(items)])
        return made.id


def _item(number: int) -> Item:
    prompt = f"Question {number}: what came of it? {_text(number, 20)}"
    answers = tuple(
        Candidate(text=f"Answer {side}. {_text(number + 7 * place, 60 + number % 40)}", policy_hash=side)
        for place, side in enumerate("ab")
    )
    return Item(prompt=prompt, answers=answers)


def _text(seed: int, words: int) -> str:
    return " ".join(_WORDS[(seed + step * (1 + seed % 5)) % len(_WORDS)] for step in range(words)) + "."


class Server:
    """`trimtab feedback serve` in a process of its own, on one port through all its lives."""

    def __init__(self, place: str, log: Path) -> None:
        self._place, self._log = place, log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.launch()
        give_up = time.monotonic() + STARTED_WITHIN
        while not self.answers():
            if time.monotonic() > give_up or not self.runs:
                sys.exit(f"the server does not start: see {self._log}")
            time.sleep(0.05)

    def launch(self) -> None:
        """Start it, and do not wait."""
        command = [sys.executable, "-m", "trimtab", "feedback", "serve", "--store", self._place]
        command += ["--port", str(self.port), "--no-open", "--no-demo"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def answers(self) -> bool:
        """Whether it answers a request; its port takes connections before."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/sign-in")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the first of its processes."""
        assert self._process is not None
        return self._process.pid

    def wait(self) -> int:
        """Until it has ended; its exit status."""
        assert self._process is not None
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        """kill -9, of all its processes at once."""
        assert self._process is not None
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def stop(self) -> None:
        """As Ctrl-C does; nothing where it does not run."""
        if self._process is None or not self.runs:
            return
        self._process.send_signal(2)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()

    def used(self) -> tuple[float, int]:
        """Seconds of processor time so far, and bytes of memory now, of all its processes."""
        seconds, memory = 0.0, 0
        for process in self._family():
            times = process.cpu_times()
            seconds, memory = seconds + times.user + times.system, memory + process.memory_info().rss
        return seconds, memory

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def running(place: str, log: Path) -> Iterator[Server]:
    """A server that is started and, whatever happens, stopped."""
    server = Server(place, log)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def new_place(kind: str, folder: Path) -> Iterator[str]:
    """Where no store is yet; it is gone afterwards.

    Args:
        kind: sqlite or postgresql.
        folder: on the disk that is to be measured; PostgreSQL, which refuses root, has one under /tmp.
    """
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="store-", dir=folder) as inside:
            yield str(Path(inside) / "feedback.sqlite")
        return
    cluster = Cluster()
    try:
        yield cluster.new()
    finally:
        cluster.stop()


def postgresql_binaries() -> Path | None:
    """Where initdb and postgres lie, if they are installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    return versions[-1] if versions else Path(on_path).resolve().parent if on_path else None


class Cluster:
    """A PostgreSQL server in a folder of its own, on a Unix socket, with its own defaults."""

    def __init__(self) -> None:
        binaries = postgresql_binaries()
        if binaries is None:
            sys.exit("no PostgreSQL server on this machine: apt-get install postgresql")
        self._folder = Path(tempfile.mkdtemp(prefix="trimtab-pg-", dir="/tmp"))
        self._as: dict[str, Any] = {"cwd": self._folder, "stdout": subprocess.DEVNULL}
        if os.geteuid() == 0:
            user = next(name for name in ("postgres", "nobody") if _is_user(name))
            shutil.chown(self._folder, user)
            self._as |= {"user": user, "extra_groups": []}
        data = self._folder / "data"
        made = ["-D", str(data), "-U", "trimtab", "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run([binaries / "initdb", *made], check=True, **self._as)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self._folder}"]
        command = [binaries / "postgres", "-D", data, *options]
        # A group of its own: Ctrl-C stops the measurement, which then stops this.
        self._process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, start_new_session=True, **self._as
        )
        self._numbers = count()
        self._wait()

    def new(self) -> str:
        """The URL of a new database."""
        import psycopg

        name = f"feedback{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        return self._url(name)

    def stop(self) -> None:
        self._process.send_signal(2)
        self._process.wait(timeout=60)
        shutil.rmtree(self._folder)

    def _url(self, database: str) -> str:
        return f"postgresql://trimtab@/{database}?host={self._folder}"

    def _wait(self) -> None:
        import psycopg

        give_up = time.monotonic() + STARTED_WITHIN
        while True:
            try:
                psycopg.connect(self._url("postgres")).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def busy_seconds() -> float:
    """Seconds of processor time that the machine has spent, over all cores."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def machine(folder: Path) -> dict[str, object]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3, 1),
        "fsync_ms": round(_fsync_ms(folder), 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postgresql": _postgresql_version(),
        **{name: version(name) for name in ("trimtab", "uvicorn", "starlette", "fastapi", "sqlalchemy")},
    }


def _processor() -> str:
    flags = Path("/proc/cpuinfo")
    lines = flags.read_text(encoding="utf-8").splitlines() if flags.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _postgresql_version() -> str:
    binaries = postgresql_binaries()
    if binaries is None:
        return ""
    said = subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, text=True)
    return said.stdout.split()[2]


def _fsync_ms(folder: Path) -> float:
    """Median time of a write of 4 KiB and its fsync, in milliseconds: below that no save can be."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(50):
            begun = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)
