"""What a run has cost so far: wall time, processor time, peak memory.

Never imports torch: where it is loaded already, it is asked what its CUDA devices held.
"""

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
    """The most that was held at once on the device that computed: of CUDA what torch had allocated, else
    the host memory."""
    parts: dict[str, Part] = field(default_factory=dict)
    """What named parts of the work took: training, evaluation, checkpoints, ..."""
    host_memory_bytes: int = 0
    """The largest resident size of the process, loading and libraries included."""

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Cost:
        """The reverse of `as_json`; before there was `host_memory_bytes`, the peak was the host's."""
        parts = {name: Part(**part) for name, part in tree["parts"].items()}
        peak = tree["peak_memory_bytes"]
        return cls(tree["wall_s"], tree["cpu_s"], peak, parts, tree.get("host_memory_bytes", peak))

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
        _forget_device_memory()

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
        host, device = peak_host_memory(), peak_device_memory()
        return Cost(
            wall_s=self.before.wall_s + time.perf_counter() - self._wall,
            cpu_s=self.before.cpu_s + time.process_time() - self._cpu,
            peak_memory_bytes=max(self.before.peak_memory_bytes, host if device is None else device),
            parts=dict(self.parts),
            host_memory_bytes=max(self.before.host_memory_bytes, host),
        )


def peak_host_memory() -> int:
    """The largest resident size of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_device_memory() -> int | None:
    """The most bytes that tensors held at once on a CUDA device since the run began; None where none did."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    devices = range(torch.cuda.device_count())
    return max((int(torch.cuda.max_memory_allocated(device)) for device in devices), default=0) or None


def _forget_device_memory() -> None:
    """Let the peak begin anew: an earlier run of this process may have held more."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
