"""What a run has cost, against clocks that the test turns."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trimtab.runs import cost
from trimtab.runs.cost import Cost, Meter, Part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Wall time, processor time and peak memory, as the test sets them."""
    now = {"wall": 100.0, "cpu": 50.0, "peak": 7}
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(cost.time, "process_time", lambda: now["cpu"])
    monkeypatch.setattr(cost, "peak_memory", lambda: now["peak"])
    return now


def test_a_meter_adds_to_what_came_before(clock: dict[str, float]) -> None:
    before = Cost(wall_s=10, cpu_s=20, peak_memory_bytes=9, parts={"training": Part(3.0, 5.0)})
    meter = Meter(before)
    with meter.timed("training"):
        clock["wall"], clock["cpu"] = 102.0, 54.0
    with meter.timed("sampling"):
        clock["wall"], clock["cpu"] = 103.0, 54.5
    clock["wall"] = 110.0
    parts = {"training": Part(5.0, 9.0), "sampling": Part(1.0, 0.5)}
    assert meter.total() == Cost(20.0, 24.5, 9, parts)
    clock["peak"] = 11
    assert meter.total().peak_memory_bytes == 11
    assert before.parts == {"training": Part(3.0, 5.0)}


def test_a_part_that_is_interrupted_counts(clock: dict[str, float]) -> None:
    meter = Meter()
    with pytest.raises(KeyboardInterrupt), meter.timed("training"):
        clock["wall"], clock["cpu"] = 102.0, 51.0
        raise KeyboardInterrupt
    assert meter.total().parts == {"training": Part(2.0, 1.0)}


def test_costs_survive_json() -> None:
    total = Cost(14.0, 23.0, 9, {"training": Part(5.0, 8.0)})
    tree = json.loads(json.dumps(total.as_json()))
    assert tree["parts"] == {"training": {"wall_s": 5.0, "cpu_s": 8.0}}
    assert Cost.from_json(tree) == total


def test_a_fresh_meter_begins_at_nothing() -> None:
    total = Meter().total()
    assert 0 <= total.wall_s < 5
    assert 0 <= total.cpu_s < 5
    assert total.parts == {}


def test_peak_memory_is_in_bytes_and_stays() -> None:
    script = (
        "from trimtab.runs.cost import peak_memory; before = peak_memory();"
        "held = bytearray(200_000_000); held[::4096] = b'x' * len(held[::4096]); del held;"
        "print(before, peak_memory())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 5e6 < before < 1e9
    assert 190e6 < after - before < 260e6
