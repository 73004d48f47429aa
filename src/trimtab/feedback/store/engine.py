"""Connections and units of work. A unit is one short transaction: it happens wholly or not at all.

SQLite: write-ahead log, every commit on the disk before it is acknowledged (synchronous=FULL), and BEGIN
IMMEDIATE for every unit that writes: one that reads first and then writes would fail as soon as another
writer came between, however long it was ready to wait. Threads of one process queue at a lock, because
SQLite's own way of waiting is to sleep and look again.
PostgreSQL: READ COMMITTED, synchronous_commit; what writes locks a person, then a project or an item.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, DisconnectionError, IntegrityError, TimeoutError

from trimtab.errors import FeedbackError, StoreError
from trimtab.feedback.store.address import Address

WAIT_SECONDS = 20.0
"""How long a writer waits for another one: a judgment that is late is better than one that is refused."""
TRUSTED_SECONDS = 1.0
"""A connection to a server that was used so short a time ago is not tried first."""

_creating = threading.Lock()


class Database:
    """One database, open: hands out units of work."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._writers: threading.Lock | None
        if address.file:
            self._engine = self._snapshots = _sqlite_engine(address)
            self._questions = self._engine.execution_options(unit=None)
            self._writers = threading.Lock()
        else:
            self._engine = _postgresql_engine(address)
            self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ")
            self._questions = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            self._writers = None

    @contextmanager
    def asking(self) -> Iterator[Connection]:
        """For one question, which is a unit by itself: without BEGIN and COMMIT it takes half the time."""
        with self._translated(), self._questions.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A unit that only reads, from one state of the database."""
        with self._translated(), self._snapshots.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A unit that writes; when the block has ended without an error, it is on the disk."""
        with (
            self._translated(),
            self._turn(),
            self._engine.connect().execution_options(unit="BEGIN IMMEDIATE") as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._writers is None:
            yield
            return
        if not self._writers.acquire(timeout=WAIT_SECONDS):
            raise StoreError("the store is busy", where=self.address.name, fix="try again")
        try:
            yield
        finally:
            self._writers.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError):
            raise  # these, and errors of the other kinds, are mistakes of our own
        except (DBAPIError, TimeoutError) as error:
            raise _for_people(error, self.address) from error


def insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that knows ON CONFLICT, of the connection's own dialect."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _sqlite_engine(address: Address) -> Engine:
    assert address.file is not None
    _prepare_file(address)
    engine = create_engine(address.url, hide_parameters=True, pool_size=10, max_overflow=30)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # Python's own BEGIN comes too late, and is never IMMEDIATE
        for setting in (
            f"busy_timeout = {int(WAIT_SECONDS * 1000)}",
            "foreign_keys = ON",
            "synchronous = FULL",
        ):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        unit = connection.get_execution_options().get("unit", "BEGIN")
        if unit:
            connection.exec_driver_sql(unit)

    return engine


def _postgresql_engine(address: Address) -> Engine:
    if find_spec("psycopg") is None:
        raise StoreError(
            "PostgreSQL needs a package that is not installed",
            where=address.name,
            found="no psycopg",
            fix="pip install 'trimtab[postgresql]'",
        )
    engine = create_engine(
        address.url,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        pool_size=10,
        max_overflow=30,
        connect_args={"connect_timeout": 10},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # A server may be set to acknowledge what is not on its disk yet. Not here.
        now = "current_setting('synchronous_commit')"
        connection.execute(f"SELECT set_config('synchronous_commit', 'on', false) WHERE {now} = 'off'")
        connection.execute(f"SET lock_timeout = '{WAIT_SECONDS:.0f}s'")
        connection.execute("SET idle_in_transaction_session_timeout = '60s'")
        connection.commit()

    @event.listens_for(engine, "checkin")
    def note_time(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def see_that_it_lives(connection: Any, record: Any, _proxy: Any) -> None:
        # The server may have been restarted meanwhile. To ask before every unit would cost a tenth of it.
        idle = time.monotonic() - record.info.get("used", time.monotonic())
        if (idle > TRUSTED_SECONDS or _says_something(connection)) and not _answers(engine, connection):
            raise DisconnectionError  # the pool opens another one

    return engine


def _says_something(connection: Any) -> bool:
    """Whether the server sent what nobody asked for: mostly, that it is going."""
    with DefaultSelector() as selector:
        selector.register(connection.fileno(), EVENT_READ)
        return bool(selector.select(0))


def _answers(engine: Engine, connection: Any) -> bool:
    try:
        return engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error:
        return False


def _prepare_file(address: Address) -> None:
    assert address.file is not None
    try:
        _create_privately(address.file)
        with closing(sqlite3.connect(address.file, timeout=WAIT_SECONDS)) as connection:
            mode = _keep_log(connection)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            "the store cannot be opened",
            where=address.name,
            found=str(error),
            fix=_remedy(str(error).lower(), address),
        ) from error
    if mode != "wal":
        raise StoreError(
            "SQLite cannot keep a log here, and so not every judgment",
            where=address.name,
            found=f"journal mode {mode}",
            fix="put the file on a local disk",
        )


def _create_privately(file: Path) -> None:
    # For the owner alone: it holds password hashes. SQLite gives its log files the same mode.
    # A file that is there is never touched: to close any handle of it drops all locks that this process has
    # on it, and SQLite would throw away the log to which another connection still writes.
    with _creating:
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return


def _keep_log(connection: sqlite3.Connection) -> str:
    # The change of mode does not wait for another process that makes the same change.
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def _for_people(error: DBAPIError | TimeoutError, address: Address) -> FeedbackError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    found = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return StoreError(
        "the store cannot do this now", where=address.name, found=found, fix=_remedy(found, address)
    )


def _remedy(found: str, address: Address) -> str:
    if address.file is None:
        return "see that the server runs, and that user, password and database are right; then try again"
    remedies = {
        "locked": "another program is writing; try again",
        "denied": "let this user write to the file and to its folder",
        "read-only": "let this user write to the file and to its folder",
        "readonly": "let this user write to the file and to its folder",
        "unable to open": "let this user write to the file and to its folder",
        "disk": "free some space on the disk; try again",
        "full": "free some space on the disk; try again",
        "not a database": "choose another file, or restore a backup: trimtab feedback restore",
        "malformed": "restore a backup: trimtab feedback restore",
    }
    return next((remedy for sign, remedy in remedies.items() if sign in found), "try again")
