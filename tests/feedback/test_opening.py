"""Making, opening and refusing stores, and what errors say about where they are."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from trimtab.errors import StoreError
from trimtab.feedback.store import address, migrating
from trimtab.feedback.store.address import parse_address
from trimtab.feedback.store.engine import _keep_log
from trimtab.feedback.store.store import Store, open_store
from trimtab.feedback.store.tables import metadata

if TYPE_CHECKING:
    from conftest import Places, World

SECRET = "hunter2/x:y@z"


def execute(place: str, statement: str) -> None:
    """One statement, past everything that the store does."""
    if "://" in place:
        with psycopg.connect(place) as connection:
            connection.execute(statement)  # type: ignore[arg-type]
    else:
        with closing(sqlite3.connect(place, isolation_level=None)) as file:
            file.execute(statement)


def test_a_store_is_made_and_opened_again(new_place: Places) -> None:
    place = new_place()
    with open_store(place) as store:
        ann = store.add_person("Ann")
    with open_store(place) as store:
        assert store.people() == [ann]


def test_the_migrations_make_what_the_queries_expect(world: World) -> None:
    with world.store._database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": migrating.VERSION_TABLE}
        )
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_settings_of_sqlite(world: World) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 20000}
    with world.store._database.reading() as connection:
        found = {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in wanted}
    assert found == wanted


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_settings_of_postgresql(place: str) -> None:
    name = place.partition("@/")[2].partition("?")[0]
    execute(place, f"ALTER DATABASE {name} SET synchronous_commit = off")
    wanted = {
        "synchronous_commit": "on",
        "lock_timeout": "20s",
        "idle_in_transaction_session_timeout": "1min",
        "transaction_isolation": "read committed",
    }
    try:
        with open_store(place) as store, store._database.writing() as connection:
            found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in wanted}
            assert found == wanted
        execute(place, f"ALTER DATABASE {name} SET synchronous_commit = remote_apply")
        with open_store(place) as store, store._database.reading() as connection:
            found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in wanted}
            assert found["synchronous_commit"] == "remote_apply", "stricter than ours stays"
            assert found["transaction_isolation"] == "repeatable read"
    finally:
        execute(place, f"ALTER DATABASE {name} RESET synchronous_commit")


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with open_store(tmp_path / "new.sqlite") as store:
        store.add_person("Ann")
        files = list(tmp_path.iterdir())
        assert len(files) == 3, "the file, its log, its index"
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_newer_store_is_refused_and_left_alone(world: World) -> None:
    world.person("Ann")
    execute(world.place, f"UPDATE {migrating.VERSION_TABLE} SET version_num = '99'")
    with pytest.raises(StoreError, match=r"newer trimtab\n.*version 99, this trimtab knows \d"):
        open_store(world.place)
    assert [person.name for person in world.store.people()] == ["Ann"]
    execute(world.place, f"UPDATE {migrating.VERSION_TABLE} SET version_num = '1'")
    open_store(world.place).close()


def test_a_database_of_something_else_is_refused(new_place: Places) -> None:
    place = new_place()
    execute(place, "CREATE TABLE recipes (id integer)")
    with pytest.raises(StoreError, match=r"holds something else\n.*`recipes`"):
        open_store(place)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ann, " * 500)
    with pytest.raises(StoreError, match="not a database"):
        open_store(path)
    assert path.read_text().startswith("Dear Ann")


def test_places_that_cannot_be(tmp_path: Path) -> None:
    for place, complaint in [
        (tmp_path, "not a folder"),
        (tmp_path / "no" / "feedback.sqlite", "folder does not exist"),
        ("sqlite://", "memory forgets"),
        ("sqlite:///:memory:", "memory forgets"),
        (f"sqlite:///{tmp_path}/x.sqlite?mode=ro", "options of SQLite"),
        ("mysql://ann@host/db", "no such kind of database"),
    ]:
        with pytest.raises(StoreError, match=complaint):
            open_store(place)
    assert list(tmp_path.iterdir()) == []


def test_a_url_of_a_file_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite"
    with open_store(f"sqlite:///{path}") as store:
        assert store.name == str(path)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@nowhere.invalid/db",
        "postgresql://ann:hunter2@127.0.0.1:1/db",
        "postgresql://ann:hunter2@[::1/db",
        "postgresql://ann:hunter2@host:port/db",
        "postgresql://ann@127.0.0.1:1/db?password=hunter2",
        "postgres://ann:hunter2@127.0.0.1:1/db",
        "mysql://ann:hunter2@host/db",
        "hunter2://",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(StoreError) as refusal:
        open_store(url)
    shown = []
    error: BaseException | None = refusal.value
    while error is not None:  # a traceback would print all of these
        shown.append(f"{error} {error!r}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if not url.startswith("hunter2"):
        assert "hunter2" not in "".join(shown)
    assert "fix:" in shown[0]


def test_the_name_of_a_store_has_no_password() -> None:
    place = parse_address("postgresql://ann:hunter2@host:5433/db?password=hunter2&sslmode=require")
    assert place.name == "postgresql://host:5433/db"
    assert "hunter2" not in repr(place)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_server_that_was_restarted(world: World) -> None:
    world.store.people()
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(world.place) as connection:
        connection.execute(f"{cut} AND pid <> pg_backend_pid()")  # type: ignore[arg-type]
    assert world.store.people() == [], "a connection that was cut is made anew"


@pytest.mark.parametrize("kind_of", ["nfs4", "cifs", "fuse.sshfs", "9p", "smb3", "fuse.glusterfs"])
def test_network_file_systems_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind_of: str
) -> None:
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(tmp_path.parent), fstype="tmpfs"),
        SimpleNamespace(mountpoint=str(tmp_path), fstype=kind_of),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    with pytest.raises(StoreError, match=f"network file system\n.*kind {kind_of}"):
        open_store(tmp_path / "feedback.sqlite")
    assert address.file_system(tmp_path.parent / "elsewhere") == "tmpfs"
    assert address.file_system(Path("/")) == "ext4"


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written(public_folder: Path) -> None:
    with open_store(public_folder / "feedback.sqlite") as store:
        store.add_person("Ann")
    (public_folder / "feedback.sqlite").chmod(0o444)
    public_folder.chmod(0o555)
    said = {name: _open_as_nobody(public_folder / name) for name in ("feedback.sqlite", "new.sqlite")}
    (public_folder / "feedback.sqlite").chmod(0o666)
    said["feedback.sqlite "] = _open_as_nobody(public_folder / "feedback.sqlite")
    public_folder.chmod(0o755)
    for name, answer in said.items():
        assert answer.startswith(f"{public_folder / name.strip()}: the store cannot"), answer
        assert "fix:   let this user write to the file and to its folder" in answer


def _open_as_nobody(path: Path) -> str:
    """What is said to a user without rights; root may write anywhere, whatever the mode."""
    code = (
        "import sys\nfrom trimtab.feedback.store.store import open_store\n"
        "from trimtab.errors import StoreError\n"
        "import os\nuser = int(sys.argv[2])\n"
        "if user: os.setgroups([]); os.setgid(user); os.setuid(user)\n"
        "try: open_store(sys.argv[1])\nexcept StoreError as error: print(error)\nelse: print('opened')"
    )
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else 0
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(user)], capture_output=True, text=True, check=True
    )
    return done.stdout


class Contended:
    """A connection whose change to the log fails as it does when another process makes the same change."""

    def __init__(self, *errors: str) -> None:
        self.errors = list(errors)

    def execute(self, _: str) -> Contended:
        if self.errors:
            raise sqlite3.OperationalError(self.errors.pop(0))
        return self

    def fetchone(self) -> tuple[str]:
        return ("wal",)


def test_two_that_begin_a_log_at_once_wait_for_each_other() -> None:
    busy = Contended("database is locked", "database is locked")
    assert _keep_log(busy) == "wal"  # type: ignore[arg-type]
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        _keep_log(Contended("disk I/O error"))  # type: ignore[arg-type]


def test_a_store_ends_with_its_block(tmp_path: Path) -> None:
    with open_store(tmp_path / "feedback.sqlite") as store:
        assert isinstance(store, Store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["feedback.sqlite"], "its log is left behind"


def test_a_store_that_is_opened_twice_in_one_process_and_once_in_another(world: World) -> None:
    """To close any handle of a file drops all locks that the process has on it. The other process would then
    take the log away, as the last one that uses it, and this one would write to a file without a name."""
    open_store(world.place).close()
    assert _add_elsewhere(world.place, "there") == ["there"]
    world.store.add_person("here")
    assert [person.name for person in world.store.people()] == ["here", "there"]
    assert _add_elsewhere(world.place, "there again") == ["here", "there", "there again"]


def _add_elsewhere(place: str, name: str) -> list[str]:
    """Whom another process sees after it has added this person."""
    code = (
        "import json, sys\nfrom trimtab.feedback.store.store import open_store\n"
        "with open_store(sys.argv[1]) as store:\n"
        "    store.add_person(sys.argv[2])\n"
        "    print(json.dumps([person.name for person in store.people()]))"
    )
    done = subprocess.run([sys.executable, "-c", code, place, name], stdout=subprocess.PIPE, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_a_unit_that_fails_leaves_nothing(world: World) -> None:
    with pytest.raises(ZeroDivisionError), world.store._database.writing() as connection:
        connection.execute(text("DELETE FROM people"))
        connection.execute(
            text(
                "INSERT INTO people (name, folded, role, active, created_at) "
                "VALUES ('x', 'x', 'admin', TRUE, '2026-01-01 00:00:00')"
            )
        )
        raise ZeroDivisionError
    assert world.store.people() == []
