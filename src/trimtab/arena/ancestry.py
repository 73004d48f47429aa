"""Which runs and models a run was made from, as their run.json files say."""

from __future__ import annotations

from pathlib import Path

from trimtab.runs.run import is_done, read_facts


def identity(source: str) -> str:
    """What two names of one model have in common: the resolved path; the name of what is not on this disk."""
    path = Path(source).expanduser()
    if not path.exists():
        return source
    if path.name == "model" and is_done(path.parent):  # a run's result, named without the run
        path = path.parent
    return str(path.resolve())


def lineage(source: str) -> dict[str, str]:
    """A model and all that it was made from, by identity: each once, as it was first named, itself first."""
    found: dict[str, str] = {}
    waiting = [source]
    while waiting:
        name = waiting.pop(0)
        if identity(name) in found:  # also what ends a circle
            continue
        found[identity(name)] = name
        waiting += [str(parent["source"]) for parent in parents(name).values()]
    return found


def parents(source: str) -> dict[str, dict[str, str]]:
    """Role -> what run.json says of it; nothing for a model that no run made."""
    folder = Path(identity(source))
    found: dict[str, dict[str, str]] = read_facts(folder).get("parents", {}) if is_done(folder) else {}
    return found


def stage_of(source: str) -> str:
    """The stage that made a model; empty for one that no finished run made."""
    folder = Path(identity(source))
    return str(read_facts(folder).get("stage", "")) if is_done(folder) else ""
