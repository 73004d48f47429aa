"""Where a stage computes, and what it asks of memory."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import pytest
import torch

from trimtab.errors import ConfigError, ResourceError
from trimtab.model import device
from trimtab.model.device import Numerics, available_memory, choose, require_memory, reuse_freed_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("float32", None), ("bfloat16", torch.bfloat16)])
def test_the_precision_asked_for(precision: str, dtype: torch.dtype | None) -> None:
    assert choose("cpu", precision) == Numerics(CPU, dtype)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_auto_takes_bfloat16_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(device, "_computes_bfloat16", lambda _: fast)
    assert choose("cpu", "auto").autocast_dtype is dtype


@pytest.mark.parametrize(
    ("flags", "fast"), [("fma avx512_bf16", True), ("amx_bf16", True), ("fma avx2 avx512f", False)]
)
def test_the_processor_says_whether_bfloat16_is_fast(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, fast: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t: {flags}\n")
    monkeypatch.setattr(device, "Path", lambda _: tmp_path / "cpuinfo")
    assert choose("cpu", "auto").autocast_dtype is (torch.bfloat16 if fast else None)


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose("auto", "float32").device.type == expected


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "gpu", "", "xpu"])
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="this device is not there") as caught:
        choose(name, "auto")
    assert (caught.value.where, caught.value.found) == ("device", name)
    assert "auto or cpu" in caught.value.fix


def test_names_for_people() -> None:
    assert Numerics(CPU, torch.bfloat16).name == "cpu, bfloat16"
    assert Numerics(CPU, None).name == "cpu, float32"
    name = Numerics(torch.device("mps"), None).name
    assert name == "mps, float32 (not measured on this kind of device)"


def test_the_forward_pass_runs_in_the_arithmetic_asked_for() -> None:
    matrix = torch.ones(2, 2)
    for dtype, expected in ((torch.bfloat16, torch.bfloat16), (None, torch.float32)):
        with Numerics(CPU, dtype).autocast():
            assert (matrix @ matrix).dtype == expected


def test_available_memory_is_that_of_the_machine_or_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_memory(CPU) <= psutil.virtual_memory().total
    monkeypatch.setattr(device, "_control_group_room", lambda: 1234)
    assert available_memory(CPU) == 1234
    monkeypatch.setattr(device, "_control_group_room", lambda: 1 << 62)
    assert 1234 < available_memory(CPU) <= psutil.virtual_memory().total


@pytest.mark.parametrize(("limit", "room"), [("5000\n", 3000), ("max\n", 1 << 62), (None, 1 << 62)])
def test_the_room_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, room: int
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(device, "Path", lambda path: tmp_path / Path(path).name)
    assert device._control_group_room() == room


def test_too_little_memory_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_memory", lambda _: 2_500_000_000)
    require_memory(CPU, 2_500_000_000, "the model")
    with pytest.raises(ResourceError) as caught:
        require_memory(CPU, 2_500_000_001, "PPO's four models")
    assert str(caught.value) == (
        "cpu: too little memory for PPO's four models\n"
        "  found: about 2.5 GB needed, 2.5 GB available\n"
        "  fix:   close other programs, use a smaller model, or lower row_tokens"
    )


def test_only_glibc_is_told_to_keep_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            self.mallopt = lambda option, value: calls.append((option, value))

    monkeypatch.setattr(device.ctypes, "CDLL", Library)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    reuse_freed_memory()
    assert calls == []
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    reuse_freed_memory()
    assert sorted(calls) == [(-4, 0), (-1, 2**31 - 1)]
