"""The demo as a stranger meets it: piped, interrupted, run again, asked for something else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.runs.run import is_done

pytestmark = pytest.mark.slow

SHORT = {
    "stages.ppo.episodes": 256,
    "stages.ppo.dev_prompts": 32,
    "stages.compare.prompts": 60,
    "stages.compare.best_of": "[4]",
}
COMMAND = [
    *(sys.executable, "-m", "trimtab", "demo", "--pairs", "1", "--out", "demo"),
    *(part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")),
]


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *more], cwd=folder, capture_output=True, text=True, timeout=600)


def interrupted(folder: Path, sign: Path) -> tuple[int, str]:
    """Exit code and errors of a demo that gets Ctrl-C once `sign` is there."""
    process = subprocess.Popen(COMMAND, cwd=folder, stderr=subprocess.PIPE, text=True, process_group=0)
    deadline = time.monotonic() + 300
    while not sign.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_ctrl_c_twice_and_to_the_end(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    code, errors = interrupted(tmp_path, demo / "pairs" / "train.jsonl")
    assert code == 130 and "run the same command again to go on" in errors and "Traceback" not in errors
    pairs = (demo / "pairs" / "train.jsonl").read_bytes()
    code, errors = interrupted(tmp_path, demo / "reward" / "metrics.jsonl")
    assert code == 130 and "run the same command again to go on" in errors and "Traceback" not in errors

    done = run(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (demo / "pairs" / "train.jsonl").read_bytes() == pairs
    assert all(is_done(demo / stage) for stage in ("reward", "dpo", "ppo", "compare"))
    assert "arning" not in done.stderr and "\x1b" not in done.stderr + done.stdout
    headline, report = done.stdout.splitlines()[-2:]
    assert report == "demo/compare/report.html" and ("beats" in headline or "No clear winner" in headline)
    found = json.loads((demo / "compare" / "report.json").read_text(encoding="utf-8"))
    assert [policy["name"] for policy in found["policies"]] == ["ppo", "dpo", "sft", "best of 4"]
    assert str(tmp_path) not in json.dumps(found)

    again = run(tmp_path)
    assert again.returncode == 0 and again.stdout.splitlines()[-2:] == [headline, report]
    assert again.stderr.count("done before") == 5
    other = run(tmp_path, "--noise", "1")
    assert other.returncode == 1 and "demo with other settings" in other.stderr and "0.0" in other.stderr
