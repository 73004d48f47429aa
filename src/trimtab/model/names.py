"""From what a person writes for a model to the folder, GGUF file or hub id that is meant.

Never reads a weight and never imports torch. Nothing is downloaded here: a bundle that has not been
obtained is an error that names the command.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from trimtab.errors import ModelError
from trimtab.model import bundles

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(name: str) -> Path | str:
    """The model meant by `name`.

    Tried in this order: a folder (a model, or a finished run's `model/`), a `.gguf` file, a model that the
    package carries, a bundle that `trimtab models get` has obtained, a hub id.

    Returns:
        A Path for what lies on this machine, text for a hub id.
    Raises:
        ModelError: an unfinished run, a folder without a model, a bundle not obtained yet, or a
            name that is none of these; a likely typo is answered with the nearest name.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path)
    if name in bundles.CARRIED:
        return bundles.CARRIED[name].folder
    if name in bundles.BUNDLES:
        return _obtained(name)
    if _is_meant_as_path(name, path) or not _HUB_ID.fullmatch(name):
        raise ModelError("no such file or folder", where=name, fix=_suggestion(_siblings(path), path.name))
    if "/" not in name and (near := _nearest([*bundles.CARRIED, *bundles.BUNDLES], name)):
        raise ModelError("no such model", where=name, fix=f"did you mean {near}?")
    return name


def _folder(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    if (path / "run.json").is_file() or (path / "config.yaml").is_file() or (path / "model").is_dir():
        return _run(path)
    files = sorted(path.glob("*.gguf"))
    raise ModelError(
        "the folder holds no model",
        where=str(path),
        found="no config.json" + (f", but {files[0].name}" if files else ""),
        fix=f"name the file: {files[0]}" if files else "name a folder with config.json and *.safetensors",
    )


def _run(path: Path) -> Path:
    if not (path / "DONE").is_file():
        raise ModelError(
            "the run is not finished",
            where=str(path),
            found="no DONE in the run folder",
            fix="finish it with --resume, or name a finished run",
        )
    if not (path / "model" / "config.json").is_file():
        raise ModelError(
            "the run made no model",
            where=str(path),
            found="no model/config.json in the run folder",
            fix="name a run of sft, reward, dpo or ppo",
        )
    return path / "model"


def _file(path: Path) -> Path:
    if path.suffix == ".gguf":
        return path
    raise ModelError(
        "a model is a folder or a .gguf file",
        where=str(path),
        found=f"a file named {path.name}",
        fix=f"name its folder: {path.parent}",
    )


def _obtained(name: str) -> Path:
    path = bundles.location(name)
    if (path / "config.json").is_file():
        return path
    raise ModelError(
        "this model has not been obtained yet",
        where=name,
        found=f"nothing at {path}",
        fix=f"run `trimtab models get {name}`",
    )


def _is_meant_as_path(name: str, path: Path) -> bool:
    """Whether the spelling says path: `./x`, `~/x`, `a/b/c`, `x.gguf`, or a folder `a` exists for `a/b`."""
    spelled = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".gguf"
    return spelled or ("/" in name and path.parent.is_dir())


def _siblings(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []


def _nearest(names: Iterable[str], name: str, *, likeness: float = 0.75) -> str | None:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=likeness)
    return near[0] if near else None


def _suggestion(names: list[str], name: str) -> str:
    near = _nearest(
        [*names, *bundles.CARRIED, *bundles.BUNDLES], name, likeness=0.6
    )  # swapped letters in a short name
    return (
        f"did you mean {near}?" if near else "name a model folder, a .gguf file, a finished run or a hub id"
    )
