"""Files and folders are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from trimtab.errors import ResourceError
from trimtab.runs import files
from trimtab.runs.files import file_hash, new_folder, replace_file, require_room, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_write_text_replaces(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old, and longer")
    write_text(tmp_path / "a.txt", "néw\n")
    assert (tmp_path / "a.txt").read_bytes() == "néw\n".encode()
    assert names(tmp_path) == ["a.txt"]


def test_write_json_is_for_people_and_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"é": [1, None]}
    assert text == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text


def test_the_old_text_stands_until_the_new_one_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_replace_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with replace_file(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"new")
        assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_replace_file_after_an_error(
    tmp_path: Path, error: type[BaseException], before: bytes | None
) -> None:
    path = tmp_path / "a.bin"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), replace_file(path) as temporary:
        temporary.write_bytes(b"half of it")
        raise error
    assert names(tmp_path) == ([] if before is None else ["a.bin"])
    assert before is None or path.read_bytes() == before


def test_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    with new_folder(path) as temporary:
        (temporary / "a.txt").write_text("one")
        (temporary / "inner").mkdir()
        (temporary / "inner" / "b.txt").write_text("two")
        assert not path.exists()
    assert names(tmp_path) == [
        "deep",
        "deep/model",
        "deep/model/a.txt",
        "deep/model/inner",
        "deep/model/inner/b.txt",
    ]
    assert (path / "inner" / "b.txt").read_text() == "two"


def test_new_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("old.txt", "new.txt"):
        with new_folder(path) as temporary:
            assert list(temporary.iterdir()) == []
            (temporary / name).write_text(name)
    assert names(tmp_path) == ["model", "model/new.txt"]


def test_new_folder_starts_afresh_after_a_kill(tmp_path: Path) -> None:
    left = tmp_path / ".model.tmp"
    left.mkdir()
    (left / "half.txt").write_text("half")
    with new_folder(tmp_path / "model") as temporary:
        (temporary / "whole.txt").write_text("whole")
    assert names(tmp_path) == ["model", "model/whole.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("there_before", [False, True])
def test_new_folder_after_an_error(tmp_path: Path, error: type[BaseException], there_before: bool) -> None:
    path = tmp_path / "model"
    if there_before:
        path.mkdir()
        (path / "old.txt").write_text("old")
    with pytest.raises(error), new_folder(path) as temporary:
        (temporary / "half.txt").write_text("half")
        raise error
    assert names(tmp_path) == (["model", "model/old.txt"] if there_before else [])


def test_every_file_is_on_disk_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []
    sync, replace = os.fsync, os.replace

    def watch_sync(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", watch_sync)
    monkeypatch.setattr(files.os, "replace", watch_replace)
    with new_folder(tmp_path / "model") as temporary:
        (temporary / "inner").mkdir()
        written = [temporary / "a.txt", temporary / "inner" / "b.txt"]
        for file in written:
            file.write_text("x")
        inodes = {file.stat().st_ino for file in written}
    renamed = events.index("rename")
    assert set(events[:renamed]) == inodes
    assert events[renamed + 1 :] == [tmp_path.stat().st_ino]


class RustError(Exception):
    """As safetensors raises them: no OSError, and the number only in the text."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RustError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_an_error_for_people(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "model"
    with pytest.raises(ResourceError, match="the disk is full") as caught, new_folder(path):
        raise error
    assert caught.value.where == str(path)
    assert caught.value.__cause__ is error
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), RustError("I/O error (os error 5)")])
def test_other_errors_pass_through(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, new_folder(tmp_path / "model"):
        raise error
    assert caught.value is error


def test_room_is_asked_for_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000_000))
    require_room(tmp_path, 1_500_000_000, "the model")
    with pytest.raises(ResourceError) as caught:
        require_room(tmp_path, 1_500_000_001, "the model")
    assert str(caught.value).startswith(
        f"{tmp_path}: the disk has too little room for the model\n  found: 1.5 GB needed, 1.5 GB free\n"
    )


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"content" * 50_000)
    assert file_hash(tmp_path / "a.bin") == hashlib.sha256(b"content" * 50_000).hexdigest()
