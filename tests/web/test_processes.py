"""Over PostgreSQL several processes serve a store: one that dies is replaced, none outlives the first."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WITHIN = 30.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import feedback_site

    if feedback_site.postgresql_binaries() is None:
        pytest.skip("no PostgreSQL server on this machine: apt-get install postgresql")
    with feedback_site.new_place("postgresql", tmp_path) as place:
        yield place


def until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.1)


def workers(server: psutil.Process) -> list[psutil.Process]:
    """The processes that serve; Python's own tracker of resources is none of them."""
    alive = [one for one in server.children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if "resource_tracker" not in " ".join(one.cmdline())]


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/sign-in")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture
def server(place: str, tmp_path: Path) -> Iterator[Any]:
    import feedback_site

    with feedback_site.running(place, tmp_path / "server.log") as server:
        yield server


def all_of(server: Any) -> psutil.Process:
    """The first process, when the others serve."""
    first = psutil.Process(server.pid)
    until(lambda: len(workers(first)) > 1 and answers(server.port))
    return first


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core, one process")
def test_the_processes_of_one_server(server: Any, tmp_path: Path) -> None:
    first = all_of(server)
    victim, *rest = workers(first)
    victim.kill()
    until(lambda: len(workers(first)) == 1 + len(rest) and victim not in workers(first))
    assert all(answers(server.port) for _ in range(20))

    orphans = workers(first)
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    until(lambda: not any(orphan.is_running() for orphan in orphans))
    assert not answers(server.port)

    server.start()  # the port is free again
    serving = workers(all_of(server))
    os.kill(server.pid, signal.SIGINT)
    assert server.wait() == 0
    assert not any(one.is_running() for one in serving)
    log = (tmp_path / "server.log").read_text()
    assert "Stopped. Everything that was accepted is saved." in log and "Traceback" not in log
