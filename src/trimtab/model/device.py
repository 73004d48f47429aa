"""Where a stage computes and in which arithmetic, and whether it will fit into memory."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from trimtab.errors import ConfigError, ResourceError
from trimtab.model.fused import rounded_weights
from trimtab.model.rounded import rounding_once


@dataclass(frozen=True)
class Numerics:
    """A device and the arithmetic of the forward pass. Weights and optimizer state are float32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """bfloat16, or None for float32 throughout."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context that forward passes run in."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def casting_once(self) -> AbstractContextManager[object]:
        """Around several passes between which no weight moves: each weight is rounded once for all of them.

        The passes themselves run in `autocast` within; gradients are computed outside that one, as they are
        without this. torch forgets what it has rounded where the outermost context ends.
        """
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        """As `casting_once`, for passes whose gradients are added up."""
        with ExitStack() as kept:
            if self.autocast_dtype is not None:
                kept.enter_context(rounding_once(rounded_weights(model), self.autocast_dtype))
            kept.enter_context(self.casting_once())
            yield

    def settle(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def name(self) -> str:
        """For people and run.json: `cpu, bfloat16`."""
        precision = "float32" if self.autocast_dtype is None else "bfloat16"
        measured = "" if self.device.type == "cpu" else " (not measured on this kind of device)"
        return f"{self.device}, {precision}{measured}"


def choose(device: str, precision: str) -> Numerics:
    """Resolve `auto`.

    Raises:
        ConfigError: the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.partition(":")[0], False):
        raise ConfigError(
            "this device is not there", where="device", found=device, fix="set device to auto or cpu"
        )
    chosen = torch.device(device)
    wide = precision == "float32" or (precision == "auto" and not _computes_bfloat16(chosen))
    return Numerics(chosen, None if wide else torch.bfloat16)


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there, rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        flags = Path("/proc/cpuinfo")
        return flags.exists() and any(name in flags.read_text() for name in ("avx512_bf16", "amx_bf16"))
    return False


def reuse_freed_memory() -> None:
    """Let the C library keep freed memory for the next step instead of giving it back.

    Otherwise each step's activations are mapped, zeroed by the kernel and unmapped again: 200,000
    page faults a step, an eighth of its time (docs/log.md). Only glibc can be told; elsewhere
    nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device; on the CPU also within the control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), _control_group_room())


def _control_group_room() -> int:
    """What a container still allows; a very large number where there is no limit."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):
        return 1 << 62


def require_memory(device: torch.device, needed: int, what: str) -> None:
    """Refuse to begin what cannot fit.

    Args:
        needed: bytes, a lower estimate.
        what: for the message: what needs them.

    Raises:
        ResourceError: less is available.
    """
    available = available_memory(device)
    if needed > available:
        raise ResourceError(
            f"too little memory for {what}",
            where=str(device),
            found=f"about {needed / 1e9:.1f} GB needed, {available / 1e9:.1f} GB available",
            fix="close other programs, use a smaller model, or lower row_tokens",
        )
