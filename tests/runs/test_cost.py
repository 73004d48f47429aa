"""What a run has cost, against clocks that the test turns."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trimtab.runs import cost
from trimtab.runs.cost import Cost, Meter, Part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Wall time, processor time and peak host memory, as the test sets them; nothing is on a CUDA device."""
    now = {"wall": 100.0, "cpu": 50.0, "peak": 7}
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(cost.time, "process_time", lambda: now["cpu"])
    monkeypatch.setattr(cost, "peak_host_memory", lambda: now["peak"])
    monkeypatch.setattr(cost, "peak_device_memory", lambda: None)
    return now


def test_a_meter_adds_to_what_came_before(clock: dict[str, float]) -> None:
    before = Cost(
        wall_s=10, cpu_s=20, peak_memory_bytes=9, parts={"training": Part(3.0, 5.0)}, host_memory_bytes=8
    )
    meter = Meter(before)
    with meter.timed("training"):
        clock["wall"], clock["cpu"] = 102.0, 54.0
    with meter.timed("sampling"):
        clock["wall"], clock["cpu"] = 103.0, 54.5
    clock["wall"] = 110.0
    parts = {"training": Part(5.0, 9.0), "sampling": Part(1.0, 0.5)}
    assert meter.total() == Cost(20.0, 24.5, 9, parts, 8)
    clock["peak"] = 11
    assert meter.total() == Cost(20.0, 24.5, 11, parts, 11)
    assert before.parts == {"training": Part(3.0, 5.0)}


def test_a_part_that_is_interrupted_counts(clock: dict[str, float]) -> None:
    meter = Meter()
    with pytest.raises(KeyboardInterrupt), meter.timed("training"):
        clock["wall"], clock["cpu"] = 102.0, 51.0
        raise KeyboardInterrupt
    assert meter.total().parts == {"training": Part(2.0, 1.0)}


def test_costs_survive_json() -> None:
    total = Cost(14.0, 23.0, 9, {"training": Part(5.0, 8.0)}, 12)
    tree = json.loads(json.dumps(total.as_json()))
    assert tree["parts"] == {"training": {"wall_s": 5.0, "cpu_s": 8.0}}
    assert Cost.from_json(tree) == total
    del tree["host_memory_bytes"]  # as runs were written when the host's was the only peak
    assert Cost.from_json(tree).host_memory_bytes == 9


def test_a_fresh_meter_begins_at_nothing() -> None:
    total = Meter().total()
    assert 0 <= total.wall_s < 5
    assert 0 <= total.cpu_s < 5
    assert total.parts == {}


def test_peak_host_memory_is_in_bytes_and_stays() -> None:
    script = (
        "from trimtab.runs.cost import peak_host_memory as peak; before = peak();"
        "held = bytearray(200_000_000); held[::4096] = b'x' * len(held[::4096]); del held;"
        "print(before, peak())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 5e6 < before < 1e9
    assert 190e6 < after - before < 260e6


class Cuda:
    """torch.cuda as far as memory goes: two devices, of which the second holds more."""

    def __init__(self, *peaks: int) -> None:
        self.peaks = list(peaks)

    def is_initialized(self) -> bool:
        return bool(self.peaks)

    def device_count(self) -> int:
        return len(self.peaks)

    def max_memory_allocated(self, device: int) -> int:
        return self.peaks[device]

    def reset_peak_memory_stats(self, device: int) -> None:
        self.peaks[device] = 0


def test_on_cuda_the_peak_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(30, 50)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(cost, "peak_host_memory", lambda: 99)
    meter = Meter()
    assert cuda.peaks == [0, 0]  # what came before was not this run's
    cuda.peaks = [30, 40]
    total = meter.total()
    assert (total.peak_memory_bytes, total.host_memory_bytes) == (40, 99)
    resumed = Meter(total)
    cuda.peaks = [35, 10]
    assert resumed.total().peak_memory_bytes == 40


@pytest.mark.parametrize("cuda", [Cuda(), Cuda(0)])
def test_where_no_cuda_device_was_used_the_peak_is_the_hosts(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "peak_host_memory", lambda: 99)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    total = Meter().total()
    assert (total.peak_memory_bytes, total.host_memory_bytes) == (99, 99)
