"""Ctrl-C and kills from outside: real processes, real signals; nothing done is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trimtab.runs.run import is_done, read_metrics

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
STEPS = 60  # 2 batches an epoch: long enough to be interrupted in the middle, a few seconds in all


def start(words: list[str], report: Path) -> subprocess.Popen[bytes]:
    with report.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "trimtab", *words], stdout=file, stderr=file, env=ENVIRONMENT
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the process ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def learning(folder: Path, steps: int = 1) -> Callable[[], bool]:
    """Whether so many steps have been logged."""
    return lambda: sum("loss" in row for row in read_metrics(folder)) >= steps


def words_of(stage: str, model: Path, pairs: Path, out: Path) -> list[str]:
    values = {
        "model": model, "data": pairs, "device": "cpu", "precision": "float32", "batch": 4,
        "epochs": STEPS // 2, "max_response": 12, "checkpoint_every": 5,
    }  # fmt: skip
    assignments = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return [stage, *assignments, "--out", str(out)]


def require_complete(folder: Path, steps: int) -> None:
    rows = [row["step"] for row in read_metrics(folder) if "loss" in row]
    assert rows == list(range(1, steps + 1)), "each step once"
    assert is_done(folder) and not (folder / "checkpoints").exists()
    assert all(
        bool(value.isfinite().all()) for value in load_file(folder / "model" / "model.safetensors").values()
    )


def test_ctrl_c_and_resume(tmp_path: Path, model_folder: Path, pairs: Path) -> None:
    folder, report = tmp_path / "dpo", tmp_path / "report.txt"
    words = words_of("dpo", model_folder, pairs, folder)
    process = start(words, report)
    wait_for(learning(folder), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = report.read_text()
    assert "Traceback" not in said and "--resume" in said and f"of {STEPS} dpo steps done" in said
    done = json.loads(next((folder / "checkpoints").glob("*/state.json")).read_text())["step"]
    assert read_metrics(folder)[-1]["step"] == done < STEPS
    assert not is_done(folder) and not (folder / "model").exists()

    assert start([*words, "--resume"], report).wait(120) == 0
    require_complete(folder, STEPS)


def test_a_pipeline_passes_ctrl_c_on_and_goes_on(tmp_path: Path, model_folder: Path, pairs: Path) -> None:
    config, report = tmp_path / "p.yaml", tmp_path / "report.txt"
    config.write_text(
        f"name: p\nmodel: {model_folder}\ncomparisons: {pairs}\nshares: {{train: 0.5, rest: 0.5}}\n"
        "device: cpu\nprecision: float32\nmax_response: 12\n"
        f"stages: {{first: {{stage: sft, data: train, batch: 4, epochs: {STEPS}}}}}\n",
        encoding="utf-8",
    )
    folder, words = tmp_path / "out" / "first", ["run", str(config), "--out", str(tmp_path / "out")]
    process = start(words, report)
    wait_for(learning(folder), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = report.read_text()
    assert "Traceback" not in said and "run the same command again" in said and "--resume" in said
    before = len(read_metrics(folder))
    assert not is_done(folder) and list((folder / "checkpoints").glob("step-*"))

    assert start(words, report).wait(120) == 0
    rows = read_metrics(folder)
    assert len(rows) > before
    require_complete(folder, rows[-1]["step"])


def test_a_second_ctrl_c_stops_at_once_without_a_traceback(
    tmp_path: Path, model_folder: Path, pairs: Path
) -> None:
    folder, report = tmp_path / "sft", tmp_path / "report.txt"
    words = [*words_of("sft", model_folder, pairs, folder), "--set", "epochs=4000", "--set", "batch=8"]
    process = start(words, report)
    wait_for(learning(folder), process)
    process.send_signal(signal.SIGSTOP)  # so that both arrive within one step
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 130
    said = report.read_text()
    assert "Traceback" not in said and "goes on from its last checkpoint with --resume" in said
    assert not is_done(folder) and not (folder / "model").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path, model_folder: Path, pairs: Path) -> None:
    folder, whole, report = tmp_path / "killed", tmp_path / "whole", tmp_path / "report.txt"
    process = start(words_of("dpo", model_folder, pairs, folder), report)
    wait_for(learning(folder, steps=12), process)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not is_done(folder) and not (folder / "model").exists()
    assert start([*words_of("dpo", model_folder, pairs, folder), "--resume"], report).wait(120) == 0
    require_complete(folder, STEPS)

    assert start(words_of("dpo", model_folder, pairs, whole), report).wait(120) == 0
    resumed, unbroken = (load_file(path / "model" / "model.safetensors") for path in (folder, whole))
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
