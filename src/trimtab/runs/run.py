"""A run: one folder on disk holding all that a stage used and made.

NAME/config.yaml      every setting as used
     run.json         stage, versions, hardware, seeds, hashes of data and parents, cost
     metrics.jsonl    one object a step, flushed as written
     samples.jsonl    what the model said at each evaluation
     left_out.jsonl   rows that could be read but not used, with the reason
     checkpoints/     while the run is under way
     model/           the result; of an ensemble members/1, members/2, ..., each a run
     README.md        the model card
     DONE             written last
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from trimtab import __version__
from trimtab.config import Settings, differences, read_yaml, to_yaml
from trimtab.errors import RunError
from trimtab.runs import checkpoint
from trimtab.runs.checkpoint import Checkpoint, TensorGroups
from trimtab.runs.cost import Cost, Meter
from trimtab.runs.files import write_json, write_text

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
# Settings that say where and how often, not what is computed; a resumed run may change them.
_FREE_TO_CHANGE = ("checkpoint_every", "row_tokens", "memory_limit")
_LOGS = ("metrics.jsonl", "samples.jsonl")
MEMBERS = "members"
"""The folder of an ensemble's runs in its own run folder."""
_JUST_OPENED = (".lock", ".config.yaml.tmp", "config.yaml", "run.json", ".run.json.tmp", "left_out.jsonl")


class Run:
    """An open run folder. Use it as a context manager: it holds the folder's lock."""

    def __init__(self, folder: Path, stage: str, lock: IO[str], resumed_from: Checkpoint | None) -> None:
        self.folder = folder
        self.stage = stage
        self.resumed_from = resumed_from
        self.facts: dict[str, Any] = {}
        self._earlier = _read_json(folder / "run.json")
        before = resumed_from.state.get("cost") if resumed_from else None
        self.meter = Meter(Cost.from_json(before) if before else None)
        self._left_out: dict[str, None] = {}  # in order, each once
        self._lock = lock

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def step(self) -> int:
        """Steps that are already done: above 0 only in a resumed run."""
        return self.resumed_from.step if self.resumed_from else 0

    def describe(self, **facts: Any) -> None:
        """Add facts to run.json: data hashes, parents, device."""
        self.facts.update(facts)
        write_json(self.folder / "run.json", self.facts)

    def earlier_fact(self, name: str) -> Any:
        """What run.json said before this process opened the run; None in a new one."""
        return self._earlier.get(name)

    def describe_input(self, kind: str, name: str, fact: Mapping[str, Any]) -> None:
        """Add to run.json what the run is made from; in a resumed run it must be what it was.

        Args:
            kind: `parents` or `data`.
            name: which of them: model, reward_model; train, dev.

        Raises:
            RunError: it has changed since the run began.
        """
        before = self._earlier.get(kind, {}).get(name, fact)
        changed = differences(before, fact)
        if changed:
            raise RunError(
                f"what this run is made from has changed: {kind} {name}",
                where=str(self.folder),
                found="; ".join(changed[:4]),
                fix="put back what was there, or begin anew with another --out",
            )
        self.describe(**{kind: {**self.facts.get(kind, {}), name: fact}})

    def log(self, step: int, **values: float | int | str | None) -> None:
        """Append one object to metrics.jsonl."""
        known = {name: value if _is_json(value) else None for name, value in values.items()}
        self._append("metrics.jsonl", [{"step": step, "time": _now(), **known}])

    def sample(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append what the model said to samples.jsonl."""
        self._append("samples.jsonl", [{"step": step, **row} for row in rows])

    def leave_out(self, rows: Iterable[tuple[str, str]]) -> None:
        """Add rows that could be read but not used to their list: (where, reason)."""
        for where, reason in rows:
            self._left_out[json.dumps({"where": where, "reason": reason}, ensure_ascii=False)] = None
        if self._left_out:  # whole, so that a resumed run's list is its own
            write_text(self.folder / "left_out.jsonl", "\n".join(self._left_out) + "\n")

    def save(self, step: int, groups: TensorGroups, **state: Any) -> None:
        """Save a checkpoint after `step` steps."""
        cost = self.meter.total().as_json()
        rows = {name: len(_read_rows(self.folder / name)) for name in _LOGS}
        checkpoint.save(self.folder, {"step": step, "cost": cost, "rows": rows, **state}, groups)

    def finish(self) -> None:
        """Write the cost, mark the run as done, and then remove the checkpoints."""
        self.describe(finished=_now(), cost=self.meter.total().as_json())
        write_text(self.folder / "DONE", _now() + "\n")
        checkpoint.remove_all(self.folder)  # last: until DONE is there they are what resuming needs

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with open(self.folder / name, "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()


def open_run(folder: Path, stage: str, settings: Settings, *, resume: bool) -> Run:
    """Create a run folder, or open an interrupted one to go on.

    Args:
        folder: where; it must not exist, or be empty, or (with `resume`) hold an interrupted run.
        settings: what is used; a resumed run must have been started with the same ones.

    Raises:
        RunError: the folder holds a finished run, an interrupted one without `resume`, one with
            other settings, something that is no run, or is in use by another process.
    """
    _refuse_finished(folder)
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _locked(folder)
    try:
        _refuse_finished(folder)
        if not resume:
            _refuse_interrupted(folder)
        return _opened(folder, stage, settings, lock)
    except BaseException:
        lock.close()
        raise


def _opened(folder: Path, stage: str, settings: Settings, lock: IO[str]) -> Run:
    found = None
    if _has_begun(folder):
        _require_same(folder / "config.yaml", settings)
        found = checkpoint.latest(folder)
    else:
        (folder / "run.json").unlink(missing_ok=True)  # of an attempt that failed before it computed anything
    _cut_back(folder, found)
    write_text(folder / "config.yaml", to_yaml(settings))
    run = Run(folder, stage, lock, found)
    started = run.earlier_fact("started") or _now()
    run.describe(stage=stage, started=started, **_surroundings())
    return run


def is_done(folder: Path) -> bool:
    """Whether the folder holds a finished run."""
    return (folder / "DONE").exists()


def members_of(folder: Path) -> tuple[Path, ...]:
    """The runs of a finished ensemble, in order; none for any other folder."""
    found = (folder / MEMBERS).glob("*/DONE") if is_done(folder) else []
    return tuple(sorted((path.parent for path in found), key=lambda member: int(member.name)))


def finished(source: str) -> str:
    """When the run in this folder finished, which tells it from one made anew; empty for what is no run."""
    folder = Path(source)
    return str(read_facts(folder)["finished"]) if is_done(folder) else ""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that was cut off by a crash is passed over."""
    return _read_rows(folder / "metrics.jsonl")


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of run.json."""
    path = folder / "run.json"
    if not path.exists():
        raise RunError(
            "this is not a run folder", where=str(folder), found="no run.json", fix="name a run's folder"
        )
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def _refuse_foreign(folder: Path) -> None:
    if folder.is_file():
        raise RunError("a file is in the run folder's place", where=str(folder), fix="choose another --out")
    if not folder.exists() or (folder / ".lock").exists():  # the first file of every run
        return
    if any(folder.iterdir()):
        raise RunError(
            "the folder is not empty and holds no run", where=str(folder), fix="choose another --out"
        )


def _has_begun(folder: Path) -> bool:
    """Whether a run in this folder has computed anything; one that only failed to start has not."""
    return any(path.name not in _JUST_OPENED for path in folder.iterdir())


def _refuse_interrupted(folder: Path) -> None:
    if _has_begun(folder):
        raise RunError(
            "this run was interrupted", where=str(folder), fix="add --resume, or choose another --out"
        )


def _refuse_finished(folder: Path) -> None:
    if is_done(folder):
        raise RunError(
            "this run is finished", where=str(folder), fix="choose another --out, or delete the folder"
        )


def _locked(folder: Path) -> IO[str]:
    lock = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115  # held as long as the run is open
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RunError(
            "another process is working on this run",
            where=str(folder),
            fix="wait for it, or choose another --out",
        ) from None
    return lock


def _require_same(path: Path, settings: Settings) -> None:
    now = settings.model_dump(mode="json")
    changed = [
        line
        for line in differences(read_yaml(path), now)
        if line.split(":")[0].split(".")[-1] not in _FREE_TO_CHANGE
    ]
    if changed:
        raise RunError(
            "the run was started with other settings",
            where=str(path),
            found="; ".join(changed[:4]),
            fix="resume with the same settings, or choose another --out",
        )


def _cut_back(folder: Path, found: Checkpoint | None) -> None:
    """Forget what was logged after the checkpoint: it will be made again."""
    for name in _LOGS:
        if (folder / name).exists():
            kept = _read_rows(folder / name)[: found.state["rows"][name]] if found else []
            write_text(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    # Not splitlines: a text may hold U+2028 and its like. A torn last line may end within a character.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _surroundings() -> dict[str, Any]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "trimtab": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": versions,
        "hardware": {"machine": platform.machine(), "processor": _processor(), "cores": os.cpu_count()},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _is_json(value: object) -> bool:
    """JSON has no word for what is not a finite number."""
    return not isinstance(value, float) or math.isfinite(value)


def _read_json(path: Path) -> dict[str, Any]:
    """An object, or nothing where there is no file yet."""
    if not path.exists():
        return {}
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def _commit() -> str:
    """The checkout's commit, `+` where files differ from it; empty for an installed package."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return ""
    git = ("git", "-C", str(checkout))
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "src"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
