"""Backup while people work, and restore. A backup has its SHA-256 beside it, as `sha256sum` writes it.

SQLite: its own online backup, into a file that needs no other. PostgreSQL: pg_dump and pg_restore, which must
be installed; the password goes to them by environment, where a list of processes does not show it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, inspect, select

from trimtab.errors import FeedbackError, StoreError
from trimtab.feedback.store.address import Address
from trimtab.feedback.store.engine import Database
from trimtab.feedback.store.migrating import VERSION_TABLE, refuse_foreign
from trimtab.feedback.store.tables import judgments

_ANOTHER = "use another backup"


def write_backup(address: Address, path: Path) -> str:
    """Write a backup and its checksum; gives the SHA-256.

    Raises:
        FeedbackError: `path` exists, or cannot be written.
    """
    if path.exists():
        raise FeedbackError("the backup exists already", where=str(path), fix="write to another name")
    temporary = path.with_name(f".{path.name}.tmp")
    with _translated(path, "written"):
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            if address.file is not None:
                _copy_sqlite(address.file, temporary)
            else:
                _program(address, "pg_dump", "--format=custom", f"--file={temporary}")
            _sync(temporary)
            digest = _sha256(temporary)
            checksum_file(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return digest


def read_backup(path: Path, address: Address) -> None:
    """Put a backup in the place of a store that holds no judgments.

    Raises:
        FeedbackError: the backup is missing, changed, broken or of another kind; the store holds judgments.
    """
    _check_backup(path, address)
    database = Database(address)
    try:
        _refuse_to_overwrite(database)
    finally:
        database.close()
    if address.file is None:
        options = ("--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction")
        _program(address, "pg_restore", *options, "--exit-on-error", str(path))
        return
    with _translated(path, "restored"):
        _refuse_broken(path)
        _copy_sqlite(path, address.file)


def checksum_file(path: Path) -> Path:
    """Where the checksum of a backup stands."""
    return path.with_name(f"{path.name}.sha256")


def _check_backup(path: Path, address: Address) -> None:
    with _translated(path, "read"):
        expected = checksum_file(path).read_text(encoding="utf-8", errors="replace").split()[:1]
        found = _sha256(path)
        with open(path, "rb") as file:
            head = file.read(16)
    if expected != [found]:
        raise FeedbackError(
            "the backup was changed, or is not whole",
            where=str(path),
            found=f"SHA-256 {found}, expected {' '.join(expected) or 'one'}",
            fix=_ANOTHER,
        )
    if not head.startswith(b"SQLite format 3\x00" if address.file else b"PGDMP"):
        raise FeedbackError(
            "the backup is of another kind of database",
            where=str(path),
            fix="restore a SQLite backup to a file, a PostgreSQL one to a postgresql:// address",
        )


def _refuse_broken(path: Path) -> None:
    # Its own checksum fits, and still: it may have been taken from a store that was broken already.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as backup:
        said = [row[0] for row in backup.execute("PRAGMA integrity_check(1)")]
        tables = {row[0] for row in backup.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if said != ["ok"] or VERSION_TABLE not in tables:
        found = said[0] if said != ["ok"] else "a database of something else"
        raise FeedbackError("the backup is no whole store", where=str(path), found=found, fix=_ANOTHER)


def _refuse_to_overwrite(database: Database) -> None:
    with database.reading() as connection:
        if VERSION_TABLE not in inspect(connection).get_table_names():
            refuse_foreign(connection, database.address.name)
        elif connection.execute(select(judgments.c.id).limit(1)).first():
            raise FeedbackError(
                "the store holds judgments, and a restore would replace them",
                where=database.address.name,
                fix="restore to a new file or database",
            )


def _copy_sqlite(source: Path, target: Path) -> None:
    # In one transaction of the target: it is there whole, or not at all.
    with closing(sqlite3.connect(source)) as origin, closing(sqlite3.connect(target)) as copy:
        origin.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file holds all of it


def _program(address: Address, program: str, *options: str) -> None:
    """Run one of PostgreSQL's programs on the database."""
    connection, secrets = _connection(address.url)
    try:
        done = subprocess.run(
            [program, f"--dbname={connection}", "--no-password", *options],
            env={**os.environ, **secrets},
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise StoreError(
            "a program of PostgreSQL is not installed",
            where=address.name,
            found=f"no {program}",
            fix="install PostgreSQL's client programs: apt-get install postgresql-client",
        ) from None
    if done.returncode:
        _tell(address, program, done.stderr.strip().splitlines())


def _connection(url: URL) -> tuple[str, dict[str, str]]:
    """What PostgreSQL's programs are told on their command line, and what by environment."""
    from psycopg.conninfo import make_conninfo  # not there where SQLite is enough

    named = {"host": url.host, "port": url.port, "user": url.username, "password": url.password}
    given: dict[str, Any] = {**named, "dbname": url.database, **url.query}
    password = given.pop("password") or ""
    known = {name: value for name, value in given.items() if value is not None}
    return make_conninfo(**known), {"PGPASSWORD": str(password)} if password else {}


def _tell(address: Address, program: str, lines: Sequence[str]) -> None:
    found = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
    raise StoreError(f"{program} failed", where=address.name, found=found, fix="put that right; try again")


@contextmanager
def _translated(path: Path, act: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the backup cannot be {act}",
            where=str(path),
            found=str(error),
            fix="see that the folder is there, may be written to, and has room",
        ) from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
