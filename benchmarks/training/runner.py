"""Runs processes one after the other, each once: what has a result is not run again."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from plan import Unit

HERE = Path(__file__).parent


class Runner:
    """Runs units one after the other and says how long the rest will take."""

    def __init__(self, out: Path, pythons: Mapping[str, str]) -> None:
        self.out = out
        self.pythons = pythons
        """The interpreter of each script that needs another one."""
        self.waiting: list[Unit] = []
        self._seconds: dict[str, list[float]] = {}

    def expect(self, units: Sequence[Unit]) -> None:
        """Units that will be run, for the estimate; those that are done are left out."""
        self.waiting += [unit for unit in units if not unit.path(self.out).exists()]

    def forget(self, case: str) -> None:
        """The case will not be timed."""
        self.waiting = [unit for unit in self.waiting if unit.case != case]

    def run(self, unit: Unit) -> None:
        """Start its process and wait, unless its result is there."""
        path = unit.path(self.out)
        if path.exists():
            return
        print(
            f"{unit.case} {unit.name}: begins; {len(self.waiting)} left{self._left()}",
            file=sys.stderr,
            flush=True,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        spec = path.with_suffix(".spec")
        spec.write_text(json.dumps(unit.spec))
        command = [
            self.pythons.get(unit.script, sys.executable),
            str(HERE / unit.script),
            str(spec),
            str(path),
        ]
        began = time.perf_counter()
        with path.with_suffix(".log").open("w") as log:
            code = subprocess.run(command, env=environment(), stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            sys.exit(f"{unit.case} {unit.name} failed with {code}; its output is in {log.name}")
        spec.unlink()
        Path(log.name).unlink()
        self._seconds.setdefault(_kind(unit), []).append((time.perf_counter() - began) / unit.steps)
        self.waiting = [one for one in self.waiting if one.path(self.out) != path]

    def _left(self) -> str:
        """By what the steps of each kind of process have taken in this call."""
        every = [seconds for found in self._seconds.values() for seconds in found]
        if not every:
            return ""
        means = {kind: sum(found) / len(found) for kind, found in self._seconds.items()}
        usual = sum(every) / len(every)
        left = sum(unit.steps * means.get(_kind(unit), usual) for unit in self.waiting)
        return f", about {datetime.timedelta(seconds=round(left))}"


def _kind(unit: Unit) -> str:
    return f"{unit.case} {unit.script} {unit.spec.get('precision')} {unit.spec.get('micro_batch')}"


def environment() -> dict[str, str]:
    """Of every process: nothing is fetched, nothing shows a bar."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}


def machine(*more: str) -> dict[str, str]:
    """What the figures depend on; neither names nor paths. More versions are told with our own."""
    import torch
    import transformers

    flags = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(": ")[2] for line in flags if line.startswith("model name")), platform.processor()
    )
    ours = f"Python {platform.python_version()}, torch {torch.__version__}"
    return {
        "date": datetime.date.today().isoformat(),
        "CPU": f"{model}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads",
        "versions": "; ".join([f"{ours}, transformers {transformers.__version__}", *more]),
        "load average before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
