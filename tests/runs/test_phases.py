"""Phases of a step: their seconds add up to it."""

from __future__ import annotations

import pytest

from trimtab.runs import phases
from trimtab.runs.phases import Phases


class Clock:
    """A clock that goes on when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(phases, "time", found)
    return found


def test_what_lies_within_another_phase_is_taken_off_it(clock: Clock) -> None:
    found = Phases(("sample", "save"))
    clock.now += 1
    with phases.recording(found), phases.timed("sample"):
        clock.now += 2
        with phases.timed("decode"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert found.take() == {"sample": 10, "decode": 4, "save": 0, "other": 17}
    clock.now += 3
    assert found.take() == {"sample": 0, "save": 0, "other": 3}


def test_an_error_closes_the_phase(clock: Clock) -> None:
    found = Phases(())
    with pytest.raises(ZeroDivisionError), phases.recording(found), phases.timed("sample"):
        clock.now += 2
        raise ZeroDivisionError
    clock.now += 1
    assert found.take() == {"sample": 2, "other": 1}


def test_taken_within_a_phase_the_rest_of_it_counts_towards_the_next_step(clock: Clock) -> None:
    found = Phases(())
    with found.timed("sample"):
        clock.now += 2
        assert found.take() == {"sample": 2, "other": 0}
        clock.now += 5
    assert found.take() == {"sample": 5, "other": 0}


def test_where_nobody_records_nothing_is_counted(clock: Clock) -> None:
    found = Phases(())
    with phases.recording(found):
        pass
    with phases.timed("sample"):
        clock.now += 2
    assert found.take() == {"other": 2}


def test_the_device_has_settled_whenever_the_clock_is_read(clock: Clock) -> None:
    def settle() -> None:
        clock.now += 1  # what was still to be done

    found = Phases((), settle)
    with found.timed("decode"):
        clock.now += 2
    assert found.take() == {"decode": 3, "other": 2}
