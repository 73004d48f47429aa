"""Run a pipeline: split the data, then every stage in a process of its own; skip what is done.

A process a stage frees all memory between stages, makes the peak memory of each its own, and is
exactly what a person would start by hand: `trimtab STAGE FOLDER/NAME.yaml --out FOLDER/NAME`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trimtab import formats
from trimtab.config import differences, dump_yaml, read_yaml
from trimtab.errors import DataError, Interrupted, RunError
from trimtab.pipeline.settings import PipelineSettings, Planned, split_names, split_path
from trimtab.records import Comparison
from trimtab.runs import progress
from trimtab.runs.files import write_json, write_text
from trimtab.runs.run import finished, is_done, read_facts

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StageFailed(Exception):
    """A stage ended with an error, which it has shown itself."""

    def __init__(self, name: str, exit_code: int) -> None:
        self.name = name
        self.exit_code = exit_code
        super().__init__(f"{name} ended with exit code {exit_code}")


def run_pipeline(pipeline: PipelineSettings, stages: Sequence[Planned], folder: Path) -> None:
    """Make the splits and run the stages that are not done.

    Raises:
        RunError: a finished stage was run with other settings than it has now, or from other runs.
        StageFailed: a stage showed an error and ended.
        Interrupted: after Ctrl-C; the stage under way has saved its state.
    """
    refuse_changed(stages)
    refuse_orphans(stages)
    make_splits(pipeline, folder)
    for number, stage in enumerate(stages, start=1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        if is_done(stage.folder):
            progress.say(f"{title}: done before")
            continue
        progress.say(f"{title}: {stage.about}" if stage.about else title)
        run_stage(stage, folder)
    progress.say(where_the_time_went(stages))


def refuse_changed(stages: Sequence[Planned]) -> None:
    """A stage that is done keeps its settings: others need another folder."""
    for stage in stages:
        path = stage.folder / "config.yaml"
        changed = differences(read_yaml(path), stage.settings) if is_done(stage.folder) else []
        if changed:
            raise RunError(
                "this stage is done, with other settings",
                where=str(stage.folder),
                found="; ".join(changed[:4]),
                fix="delete its folder and those of the stages after it, or choose another --out",
            )


def refuse_orphans(stages: Sequence[Planned]) -> None:
    """A stage that is done keeps its parents: one that was made anew makes the stage out of date."""
    for stage in stages:
        if not is_done(stage.folder):
            continue
        for parent in read_facts(stage.folder).get("parents", {}).values():
            if parent["finished"] != finished(parent["source"]):
                raise RunError(
                    "this stage is done, but from a run that is no longer there",
                    where=str(stage.folder),
                    found=f"{parent['source']} of {parent['finished']}",
                    fix=f"delete {stage.folder} too: it will be made from the new one",
                )


def make_splits(pipeline: PipelineSettings, folder: Path) -> None:
    """Write each split as trimtab's own comparisons, and what was left out; skipped where done.

    Raises:
        DataError: the data cannot be read, held-out prompts are among them, or a split is empty.
    """
    made = folder / "data" / "splits.json"
    reading = formats.read_comparisons(pipeline.comparisons, dialogues=pipeline.dialogues)
    rows = formats.usable(reading)
    splits = formats.split_by_prompt(rows, pipeline.shares, pipeline.seed)
    left_out = list(reading.defects_left_out)
    sources = {pipeline.comparisons: reading.sha256}
    if pipeline.held_out is not None:
        held_out = formats.read_comparisons(pipeline.held_out, dialogues=pipeline.dialogues)
        formats.refuse_leakage(reading, held_out)
        splits["held_out"] = list(formats.usable(held_out))
        left_out += held_out.defects_left_out
        sources[pipeline.held_out] = held_out.sha256
    account = {
        "sources": sources,
        "seed": pipeline.seed,
        "shares": pipeline.shares,
        "rows": {name: len(splits[name]) for name in split_names(pipeline)},
    }
    if made.exists():
        _require_same_splits(made, account)
        return
    _write_splits(folder, splits)
    lines = [json.dumps(defect.as_dict(), ensure_ascii=False) for defect in left_out]
    write_text(folder / "data" / "left_out.jsonl", "".join(line + "\n" for line in lines))
    write_json(made, account)
    counts = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    progress.say(f"data: {counts} comparisons; {len(left_out)} rows left out (data/left_out.jsonl)")


def run_stage(stage: Planned, folder: Path) -> None:
    """Run one stage in a process of its own, and wait for it through Ctrl-C."""
    config = folder / "stages" / f"{stage.name}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    write_text(config, dump_yaml(stage.settings))
    command = [
        sys.executable,
        "-m",
        "trimtab",
        stage.kind,
        str(config),
        "--out",
        str(stage.folder),
        "--resume",
    ]
    # In a process group of its own, so that a terminal's Ctrl-C reaches the stage once, from here:
    # a second one would make it stop at once instead of saving.
    started: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        started.append(subprocess.Popen(command, process_group=0))
        code = started[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _require_success(stage, code, folder, interrupted=bool(received))


def _require_success(stage: Planned, code: int, folder: Path, *, interrupted: bool) -> None:
    # A negative code is the signal that ended it; before its first step a stage does not catch Ctrl-C.
    if interrupted or code in (Interrupted.EXIT_CODE, -signal.SIGINT, -signal.SIGTERM):
        raise Interrupted(
            "interrupted; what was done is saved",
            where=str(folder),
            fix="run the same command again to go on",
        )
    if code < 0:
        raise RunError(
            "the stage was killed",
            where=str(stage.folder),
            found=signal.Signals(-code).name,
            fix=f"run the same command again to go on; if memory ran out, with a smaller "
            f"stages.{stage.name}.row_tokens",
        )
    if code:
        raise StageFailed(stage.name, code)


def where_the_time_went(stages: Sequence[Planned]) -> str:
    """A line a stage: wall time, processor time, peak memory."""
    lines = ["where the time went"]
    total = 0.0
    for stage in stages:
        cost = read_facts(stage.folder)["cost"]
        total += cost["wall_s"]
        lines.append(
            f"  {stage.name:<12} {cost['wall_s']:7.0f} s   {cost['cpu_s']:7.0f} s of processor time   "
            f"{cost['peak_memory_bytes'] / 1e9:5.1f} GB at most"
        )
    lines.append(f"  {'in all':<12} {total:7.0f} s")
    return "\n".join(lines)


def _write_splits(folder: Path, splits: dict[str, list[formats.Row[Comparison]]]) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        if not rows:
            raise DataError(
                "a split got no rows", where=f"shares.{name}", fix="give more comparisons, or a larger share"
            )
        formats.write_comparisons(split_path(folder, name), [row.record for row in rows])


def _require_same_splits(made: Path, account: dict[str, object]) -> None:
    before = json.loads(made.read_text(encoding="utf-8"))
    changed = differences(before, account)
    if changed:
        raise RunError(
            "the data or their split have changed since this pipeline began",
            where=str(made),
            found="; ".join(changed[:4]),
            fix="choose another --out, or put the data back",
        )
