"""Where the time of a step goes: phases that add up to it.

Whoever runs the steps opens a `recording`; what does the work says in which phase it is (`timed`), knowing
nothing of who listens. One phase holds at a time: within another block, the inner one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OTHER = "other"
"""What no phase holds."""


class Phases:
    """Seconds of each phase since they were last taken.

    Args:
        names: of the phases that are told even where they took no time.
        settle: called before the clock is read, so that a GPU has done what it was given.
    """

    def __init__(self, names: tuple[str, ...], settle: Callable[[], None] = lambda: None) -> None:
        self._names = (*names, OTHER)
        self._settle = settle
        self._open = [OTHER]
        self._seconds = dict.fromkeys(self._names, 0.0)
        self._since = time.perf_counter()

    def take(self) -> dict[str, float]:
        """The seconds by phase, which begin anew; their sum is the time since the last call."""
        self._count()
        taken, self._seconds = self._seconds, dict.fromkeys(self._names, 0.0)
        return taken

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Within the block the time belongs to this phase."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        """Give the time since the last change to the phase that held."""
        self._settle()
        now = time.perf_counter()
        self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


_LISTENING: ContextVar[Phases | None] = ContextVar("phases", default=None)


@contextmanager
def recording(phases: Phases) -> Iterator[Phases]:
    """Within the block, `timed` counts towards these."""
    token = _LISTENING.set(phases)
    try:
        yield phases
    finally:
        _LISTENING.reset(token)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Count the block towards a phase, if anyone records."""
    phases = _LISTENING.get()
    if phases is None:
        yield
        return
    with phases.timed(name):
        yield
