"""Bars on a terminal, a line now and then elsewhere, and all of it on stderr."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trimtab.runs import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person's terminal gets."""
    stream = io.StringIO()
    screen = Console(file=stream, force_terminal=True, width=120, highlight=False, color_system=None)
    monkeypatch.setattr(progress, "console", lambda: screen)
    return stream


def test_say_goes_to_stderr_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("  saved [runs/a] " + "x" * 200)
    captured = capsys.readouterr()
    assert captured.err == "  saved [runs/a] " + "x" * 200 + "\n"
    assert captured.out == ""


def test_a_log_file_gets_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("sft", 100, done=10) as bar:
        for _ in range(29):
            clock[0] += 1
            bar.advance(note="loss 2.1")
        assert capsys.readouterr().err == ""
        clock[0] += 1
        bar.advance(note="loss 2.0")
        # 30 steps in 30 s, and 60 are left; the 10 of an earlier part do not count as fast ones.
        assert capsys.readouterr().err == "  sft: 40/100 steps, 60 s left  loss 2.0\n"
        clock[0] += 29
        bar.advance()
        assert capsys.readouterr().err == ""
        clock[0] += 1
        bar.advance(4)
        assert capsys.readouterr().err == "  sft: 45/100 steps, 94 s left\n"


def test_nothing_done_yet(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("scores", 5, unit="examples") as bar:
        clock[0] += 40
        bar.advance(0)
    assert capsys.readouterr().err == "  scores: 0/5 examples, 200 s left\n"


def test_bars_within_bars_elsewhere(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("ppo", 2) as outer, progress.bar("sampling", 8) as inner:
        clock[0] += 31
        inner.advance(8)
        outer.advance()
        inner.remove()
    assert capsys.readouterr().err == "  sampling: 8/8 steps, 0 s left\n  ppo: 1/2 steps, 31 s left\n"


def test_a_terminal_gets_a_bar(terminal: io.StringIO) -> None:
    with progress.bar("sft", 4, done=1) as bar:
        bar.advance(2, note="loss 2.0")
    shown = terminal.getvalue()
    assert "sft" in shown
    assert "3/4" in shown
    assert "loss 2.0" in shown


def test_a_bar_within_a_bar_is_a_line_of_it_and_goes_away(terminal: io.StringIO) -> None:
    with progress.bar("ppo", 2) as outer:
        shown = progress._shown.get()
        assert shown is not None
        with progress.bar("sampling", 8) as inner:
            inner.advance(8)
            assert [task.description for task in shown.tasks] == ["ppo", "  sampling"]
            assert [task.completed for task in shown.tasks] == [0, 8]
            progress.say("above the bars")
        assert [task.description for task in shown.tasks] == ["ppo"]
        outer.advance()
        assert shown.tasks[0].completed == 1
    assert progress._shown.get() is None
    assert "above the bars" in terminal.getvalue()


def test_an_error_ends_the_display(terminal: io.StringIO) -> None:
    with pytest.raises(ValueError, match="broke"), progress.bar("ppo", 2), progress.bar("sampling", 8):
        raise ValueError("it broke")
    assert progress._shown.get() is None
    with progress.bar("again", 1):
        pass
