"""What a run has cost so far: wall time, processor time, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """Time that one part of the work took."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Totals over all the parts of a run that was interrupted and resumed."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    """Processor seconds of all threads: less touched by other work on the machine than wall time."""
    peak_memory_bytes: int = 0
    """The largest resident size of the process, loading and libraries included."""
    parts: dict[str, Part] = field(default_factory=dict)
    """What named parts of the work took: training, evaluation, checkpoints, ..."""

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Cost:
        """The reverse of `as_json`."""
        parts = {name: Part(**part) for name, part in tree["parts"].items()}
        return cls(tree["wall_s"], tree["cpu_s"], tree["peak_memory_bytes"], parts)

    def as_json(self) -> dict[str, Any]:
        """For run.json and checkpoints."""
        return asdict(self)


class Meter:
    """Measures this process on top of what earlier parts of the run had cost."""

    def __init__(self, before: Cost | None = None) -> None:
        self.before = before or Cost()
        self.parts = dict(self.before.parts)
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the block's time towards a named part, also when it is interrupted."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            before = self.parts.get(part, Part(0.0, 0.0))
            self.parts[part] = Part(
                before.wall_s + time.perf_counter() - wall, before.cpu_s + time.process_time() - cpu
            )

    def total(self) -> Cost:
        """The cost up to now."""
        return Cost(
            wall_s=self.before.wall_s + time.perf_counter() - self._wall,
            cpu_s=self.before.cpu_s + time.process_time() - self._cpu,
            peak_memory_bytes=max(self.before.peak_memory_bytes, peak_memory()),
            parts=dict(self.parts),
        )


def peak_memory() -> int:
    """The largest resident size of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
