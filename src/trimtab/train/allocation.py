"""What a process holds beside its tensors, and how much of what it frees it gives back.

On a CPU two things grow with the rows that have gone through: compiled kernels, because nearly every packed
row has a shape of its own, and the holes that they leave between freed tensors. Both were measured
(docs/log.md); neither is there on CUDA, where torch accounts for its memory itself.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trimtab.errors import ConfigError
from trimtab.model.device import Numerics, reuse_freed_memory

MIB = 1 << 20
KERNELS = 130 * MIB
"""What the kernels that `keep_few_kernels` lets stay take in bfloat16, and what comes with the first."""
HOLES = 190 * MIB
"""What lies free between small tensors by then, unless freed memory is given back."""
LATER = 64 * MIB
"""Modules that are first needed after training has begun."""
ROWS_UNTIL_FULL = 8
"""Rows after which 63 % of both is there."""
MAPPED_FROM = 256 << 10
"""Bytes from which a tensor is mapped by itself where freed memory is given back."""


def keep_few_kernels() -> None:
    """Let the two caches of compiled kernels keep 256 each in place of 1,024, unless the environment says
    otherwise.

    Nearly every packed row has a shape of its own, and 1,024 kernels of each are there after some 75 rows:
    540 MB more than with this, in the same time (docs/log.md). Read when the first kernel is made, so called
    before.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "256")  # of ideep, between torch and oneDNN


def give_back_freed_memory() -> None:
    """Let the C library unmap every large tensor when it is freed, and from now on heed `give_back`.

    The reverse of `reuse_freed_memory`; a step takes up to a third longer. Only glibc can be told.
    """
    libc = _glibc()
    if libc is None:
        return
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # of malloc.h
    libc.mallopt(mmap_max, 1 << 16)
    libc.mallopt(mmap_threshold, MAPPED_FROM)
    libc.mallopt(trim_threshold, MAPPED_FROM)
    _PROCESS.gives_back = True
    give_back()


def keep_freed_memory() -> None:
    """Undo `give_back_freed_memory`."""
    _PROCESS.gives_back = False
    reuse_freed_memory()


def give_back() -> None:
    """After a row: give back the holes between small tensors too, if this process does so at all."""
    libc = _glibc()
    if _PROCESS.gives_back and libc is not None:
        libc.malloc_trim(0)


@dataclass
class _Process:
    """The C library's settings are the whole process's; so is this."""

    gives_back: bool = False


_PROCESS = _Process()


@lru_cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def beside_tensors(numerics: Numerics, rows: float, *, holes: int = HOLES) -> int:
    """Bytes that so many rows of different shapes leave behind."""
    if numerics.device.type != "cpu" or numerics.autocast_dtype is None:
        return 0
    return round((KERNELS + holes) * (1 - math.exp(-rows / ROWS_UNTIL_FULL)))


def held_now(model: nn.Module, device: torch.device) -> int:
    """Bytes of the device that the process holds, all weights among them.

    Raises:
        ConfigError: nobody can say, on this kind of device.
    """
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if device.type == "cpu":
        for parameter in model.parameters():
            parameter.detach().sum()  # weights are read from their file when they are first looked at
        return int(psutil.Process().memory_info().rss)
    raise ConfigError(
        "memory can be measured on a CPU and on CUDA only",
        where="memory_limit",
        found=f"device = {device}",
        fix="leave out memory_limit",
    )


def peak_of_tensors(work: Callable[[], None], device: torch.device) -> int:
    """Bytes that tensors hold at most while the work is done, above what they held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - int(before)
    counted = _Counting()
    with counted:
        work()
    return counted.most


class _Counting(TorchDispatchMode):
    """Bytes of the storages that were made since it was entered: alive now, and at most.

    Kernels' own scratch space is not seen. torch's profiler sees it, and keeps 100 MB of its own each time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._alive: int = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            self._know(storage, 0)  # what was there before, weights first of all
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._know(storage, storage.nbytes())
        return result

    def _know(self, storage: torch.UntypedStorage, size: int) -> None:
        place = storage._cdata
        if place in self._known:
            return

        def gone(_: object) -> None:
            del self._known[place]
            self._alive -= size

        self._known[place] = weakref.ref(storage, gone)
        self._alive += size
        self.most = max(self.most, self._alive)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
