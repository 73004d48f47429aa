"""What people see while something long is running: bars with rate and time left, and lines.

On a terminal a live bar; elsewhere (a log file, CI) one line now and then, so that neither is
flooded and neither is silent. Everything goes to stderr: stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 30.0

_shown: ContextVar[Progress | None] = ContextVar("shown", default=None)
"""The live display, while there is one: a bar within a bar becomes a second line of it."""


def console() -> Console:
    """Where progress is shown. Made anew each time, so that tests and notebooks may swap stderr."""
    return Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """One plain line; above the bar where one is shown."""
    shown = _shown.get()
    (shown.console if shown else console()).print(text, markup=False, soft_wrap=True)


@contextmanager
def hidden() -> Iterator[None]:
    """Neither bars nor lines within: for runs that are a part of something with a bar of its own."""
    token = _shown.set(Progress(console=Console(quiet=True), disable=True))
    try:
        yield
    finally:
        _shown.reset(token)


class Bar:
    """The moving part of a bar: `advance` after each unit of work."""

    def __init__(self, progress: Progress | None, name: str, total: int, done: int, unit: str) -> None:
        self._progress = progress
        self._name = name
        self._total = total
        self._done = self._first = done
        self._unit = unit
        self._started = self._last_line = time.monotonic()
        if progress is not None:
            self._task = progress.add_task(name, total=total, completed=done, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count work as done; `note` is a short state such as the current loss."""
        self._done += count
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, note=note)
        elif self._is_time_for_a_line():
            self._last_line = time.monotonic()
            left = (
                (self._total - self._done)
                * (time.monotonic() - self._started)
                / max(self._done - self._first, 1)
            )
            say(
                f"  {self._name}: {self._done}/{self._total} {self._unit}, {left:.0f} s left  {note}".rstrip()
            )

    def remove(self) -> None:
        """Take the bar off the screen."""
        if self._progress is not None:
            self._progress.remove_task(self._task)

    def _is_time_for_a_line(self) -> bool:
        return time.monotonic() - self._last_line >= _LINE_EVERY_S


@contextmanager
def bar(name: str, total: int, *, done: int = 0, unit: str = "steps") -> Iterator[Bar]:
    """Show a bar while the block runs."""
    outer = _shown.get()
    if outer is not None:
        inner = Bar(outer, f"  {name}", total, done, unit)
        try:
            yield inner
        finally:
            inner.remove()
        return
    screen = console()
    if not screen.is_terminal:
        yield Bar(None, name, total, done, unit)
        return
    with Progress(*_columns(), console=screen) as progress:
        token = _shown.set(progress)
        try:
            yield Bar(progress, name, total, done, unit)
        finally:
            _shown.reset(token)


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
