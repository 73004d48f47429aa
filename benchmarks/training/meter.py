"""What an arm measures of itself, on both sides alike: memory, other processes, tokens executed.

Imported in TRL's environment too, and so by nothing of trimtab.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class Meter:
    """Made right after the imports: what they need is the baseline of the memory."""

    def __init__(self) -> None:
        self.baseline = peak_bytes()
        self._machine = self._own = self._clock = 0.0

    def begin(self) -> None:
        """From here on count what others use of the CPUs that this process may run on."""
        self._machine, self._own, self._clock = busy_seconds(), time.process_time(), time.perf_counter()

    def shares(self) -> dict[str, float]:
        """Of the CPUs' time since `begin`: what this process had, and what others used."""
        machine, own = busy_seconds() - self._machine, time.process_time() - self._own
        there = (time.perf_counter() - self._clock) * len(os.sched_getaffinity(0))
        return {"own": own / there, "others": max(machine - own, 0.0) / there}

    def memory(self) -> dict[str, int]:
        """Bytes: the most that this process has held so far, and the most it held after its imports."""
        return {"baseline_bytes": self.baseline, "peak_bytes": peak_bytes(), **gpu_memory()}


def wait() -> None:
    """Until a GPU has done what it was given; a CPU always has."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def gpu_memory() -> dict[str, int]:
    """Bytes that tensors have held at most on a GPU, and what was reserved for them; nothing without one."""
    if not torch.cuda.is_initialized():
        return {}
    return {
        "gpu_peak_bytes": torch.cuda.max_memory_allocated(),
        "gpu_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def peak_bytes() -> int:
    """VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def busy_seconds() -> float:
    """Seconds that the CPUs of this process have been busy since boot, with whatever."""
    every = psutil.cpu_times(percpu=True)
    return float(sum(getattr(every[cpu], kind) for cpu in os.sched_getaffinity(0) for kind in BUSY))


class TokenCount:
    """Tokens that have gone into a model's body, padding included, counted where they are embedded."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.tokens += inputs[0].numel()

    def take(self) -> int:
        """The tokens since last asked."""
        tokens, self.tokens = self.tokens, 0
        return tokens


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(path)
