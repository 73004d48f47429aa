"""From what a person writes for a model to the folder, GGUF file or hub id that is meant.

Never reads a weight and never imports torch. Nothing is downloaded here: a bundle that has not been
obtained is an error that names the command.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from trimtab.errors import ModelError
from trimtab.model import bundles
from trimtab.runs.run import MEMBERS, members_of

ADAPTER_CONFIG = "adapter_config.json"
"""By this file a folder is known to hold an adapter to another model."""
MERGED_CONFIG = "merged_config.json"
"""Beside it, from trimtab: the config of the model that base and adapter make."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(name: str) -> Path | str:
    """The model meant by `name`.

    Tried in this order: a folder (a model, an adapter, or a finished run's `model/`), a `.gguf` file, a model
    that the package carries, a bundle that `trimtab models get` has obtained, a hub id.

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


def base_of(resolved: Path | str) -> Path | str | None:
    """The model that an adapter's folder belongs to, resolved; None for what is no adapter.

    Raises:
        ModelError: the adapter names no base model, one that is not there, or one that is an adapter itself.
    """
    path = Path(resolved) / ADAPTER_CONFIG
    if isinstance(resolved, str) or not path.is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        found = resolve(str(base))
    except (OSError, ValueError, LookupError, TypeError, ModelError) as error:
        raise ModelError(
            "the base model of this adapter cannot be found",
            where=str(path),
            found=" ".join(str(error).split()),
            fix="set base_model_name_or_path there to where the base model is now",
        ) from error
    if isinstance(found, Path) and (found / ADAPTER_CONFIG).is_file():
        raise ModelError(
            "the base model of this adapter is an adapter itself",
            where=str(path),
            found=str(base),
            fix="merge that one first: trimtab merge",
        )
    return found


def _folder(path: Path) -> Path:
    if _holds_model(path):
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
    if members := members_of(path):
        raise ModelError(
            "the run is an ensemble, and one model is needed here",
            where=str(path),
            found=f"{len(members)} reward models in {path / MEMBERS}",
            fix=f"name one of them: {members[0]}",
        )
    if not _holds_model(path / "model"):
        raise ModelError(
            "the run made no model",
            where=str(path),
            found="no model/config.json in the run folder",
            fix="name a run of sft, reward, dpo or ppo",
        )
    return path / "model"


def _holds_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / ADAPTER_CONFIG).is_file()


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
