"""Backup while people work; restore, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from trimtab.errors import FeedbackError, StoreError
from trimtab.feedback.store.backup import _connection, checksum_file
from trimtab.feedback.store.store import open_store, restore

if TYPE_CHECKING:
    from conftest import Places, World


def filled(world: World) -> int:
    """The number of a project with three judgments."""
    project, ann = world.project(items=3, overlap=2), world.person("Ann")
    for task in world.store.claim(project.id, ann.id, 3):
        world.store.save(world.draft(task, ann))
    return project.id


def test_a_backup_is_restored(world: World, new_place: Places, tmp_path: Path) -> None:
    project = filled(world)
    path = tmp_path / "monday.backup"
    digest = world.store.backup(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checksum_file(path).read_text() == f"{digest}  monday.backup\n"
    assert path.stat().st_mode & 0o077 == 0
    before = world.store.audit(project)
    bob = world.person("Bob")
    world.store.save(world.draft(world.task(world.store.project(project), bob), bob))
    place = new_place()
    restore(path, place)
    with open_store(place, clock=world.clock) as store:
        assert store.audit(project) == before
        assert [person.name for person in store.people()] == ["Ann"]
        assert store.items(project)[0].judged == 1
        cleo = store.add_person("Cleo")
        assert len(store.claim(project, cleo.id, 9)) == 3, "numbers go on where they were"


def test_a_restored_store_still_refuses_changes(world: World, new_place: Places, tmp_path: Path) -> None:
    filled(world)
    world.store.backup(tmp_path / "b")
    place = new_place()
    restore(tmp_path / "b", place)
    with (
        open_store(place) as store,
        pytest.raises(Exception, match="append-only"),
        store._database.writing() as connection,
    ):
        connection.execute(text("DELETE FROM judgments"))


def test_a_backup_while_people_work_holds_a_moment_of_it(
    world: World, new_place: Places, tmp_path: Path
) -> None:
    project, ann = world.project(items=60), world.person()
    tasks = world.store.claim(project.id, ann.id, 60)
    halfway = threading.Event()

    def work() -> None:
        for number, task in enumerate(tasks):
            world.store.save(world.draft(task, ann))
            if number == 20:
                halfway.set()

    thread = threading.Thread(target=work)
    thread.start()
    halfway.wait()
    world.store.backup(tmp_path / "b")
    thread.join()
    assert len(world.store.audit(project.id)) == 60
    place = new_place()
    restore(tmp_path / "b", place)
    with open_store(place) as store:
        kept = store.audit(project.id)
        assert 21 <= len(kept) <= 60
        assert kept == world.store.audit(project.id)[: len(kept)]
        assert sum(item.judged for item in store.items(project.id)) == len(kept)


@pytest.mark.parametrize("place_of_byte", [0.1, 0.5, 0.99])
def test_a_flipped_byte_is_found(
    world: World, new_place: Places, tmp_path: Path, place_of_byte: float
) -> None:
    filled(world)
    path = tmp_path / "b"
    world.store.backup(path)
    content = bytearray(path.read_bytes())
    content[int(place_of_byte * len(content))] ^= 1
    path.write_bytes(content)
    place = new_place()
    with pytest.raises(FeedbackError, match="was changed, or is not whole"):
        restore(path, place)
    with open_store(place) as store:
        assert store.projects() == []


def test_a_backup_that_was_broken_before_it_was_summed(tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        store.backup(tmp_path / "b")
    content = bytearray((tmp_path / "b").read_bytes())
    content[5000:9000] = b"\xff" * 4000
    _sum(tmp_path / "b", bytes(content))
    with pytest.raises(FeedbackError, match=r"no whole store|cannot be restored"):
        restore(tmp_path / "b", tmp_path / "new")


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "b")) as other:
        other.execute("CREATE TABLE recipes (id)")
    _sum(tmp_path / "b", (tmp_path / "b").read_bytes())
    with pytest.raises(FeedbackError, match=r"no whole store\n.*something else"):
        restore(tmp_path / "b", tmp_path / "new")


def _sum(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    checksum_file(path).write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")


def test_a_store_with_judgments_is_never_overwritten(world: World, new_place: Places, tmp_path: Path) -> None:
    project = filled(world)
    world.store.backup(tmp_path / "b")
    before = world.store.audit(project)
    with pytest.raises(FeedbackError, match="holds judgments"):
        restore(tmp_path / "b", world.place)
    assert world.store.audit(project) == before
    begun = new_place()
    with open_store(begun) as store:
        store.add_person("Somebody else")
    restore(tmp_path / "b", begun)
    with open_store(begun) as store:
        assert store.audit(project) == before


def test_what_a_restore_refuses(world: World, new_place: Places, tmp_path: Path, kind: str) -> None:
    filled(world)
    path = tmp_path / "b"
    world.store.backup(path)
    with pytest.raises(FeedbackError, match="exists already"):
        world.store.backup(path)
    with pytest.raises(StoreError, match="cannot be written"):
        world.store.backup(tmp_path / "no" / "folder")
    with pytest.raises(StoreError, match="cannot be read"):
        restore(tmp_path / "missing", new_place())
    other = tmp_path / "other.sqlite" if kind == "postgresql" else "postgresql://ann@nowhere.invalid/db"
    with pytest.raises(FeedbackError, match="another kind of database"):
        restore(path, other)
    checksum_file(path).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        restore(path, new_place())
    checksum_file(path).write_text("")
    with pytest.raises(FeedbackError, match="expected one"):
        restore(path, new_place())


def test_a_failed_backup_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        world.store.backup(folder / "b")
    assert not (folder / "b").exists()
    assert not list(folder.glob(".*"))


def test_no_password_on_the_command_line() -> None:
    url = make_url("postgresql+psycopg://ann:hunter2@host:5433/db?sslmode=require")
    command, environment = _connection(url)
    assert "hunter2" not in command
    assert dict(part.split("=") for part in command.split()) == {
        "host": "host",
        "port": "5433",
        "user": "ann",
        "dbname": "db",
        "sslmode": "require",
    }
    assert environment == {"PGPASSWORD": "hunter2"}
    command, environment = _connection(make_url("postgresql+psycopg://ann@host/db?password=hunter2"))
    assert "hunter2" not in command
    assert environment == {"PGPASSWORD": "hunter2"}


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_programs_that_are_missing_or_fail(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_dump").write_text(
        "#!/bin/sh\necho 'pg_dump: error: server version mismatch' >&2\nexit 1\n"
    )
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(StoreError, match=r"pg_dump failed\n.*version mismatch"):
        world.store.backup(tmp_path / "b")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StoreError, match=r"not installed\n.*no pg_dump"):
        world.store.backup(tmp_path / "b")
    assert not (tmp_path / "b").exists()
