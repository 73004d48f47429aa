"""kill -9 in the middle of writing: what was acknowledged is there, whole, and once."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trimtab.feedback.store.store import open_store

if TYPE_CHECKING:
    from conftest import World
    from trimtab.feedback.store.facts import Project

WORKER = Path(__file__).with_name("worker.py")


def writer(world: World, project: Project, prefix: str) -> subprocess.Popen[str]:
    arguments = {"project": project.id, "person": world.person().id, "prefix": prefix}
    return subprocess.Popen(
        [sys.executable, str(WORKER), "write", world.place, json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def begin_together(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout and process.stdout.readline() == '"ready"\n'
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()


def kill_after(process: subprocess.Popen[str], acknowledged: int) -> list[str]:
    """Kill it somewhere in the act that follows so many; gives all keys that it had said by then."""
    assert process.stdout
    said = [process.stdout.readline() for _ in range(acknowledged)]
    process.kill()
    said += process.stdout.readlines()
    process.communicate()
    assert process.returncode == -9, "it had ended by itself"
    return [json.loads(line) for line in said if line.endswith("\n")]


def check(world: World, project: Project, acknowledged: list[str]) -> None:
    with open_store(world.place, clock=world.clock) as store:
        kept = store.judgments(project.id, leave_out=())
        keys = [judgment.key for judgment in kept]
        assert set(acknowledged) <= set(keys), "an acknowledged judgment is gone"
        assert len(set(keys)) == len(keys)
        assert sum(item.judged for item in store.items(project.id)) == len(kept)
    if "://" not in world.place:
        with closing(sqlite3.connect(world.place)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def live_through(world: World, kills: int, at_a_time: int) -> None:
    chance = random.Random(6)
    project = world.project(items=2000, overlap=30)  # more than anyone judges before the kill
    acknowledged: list[str] = []
    for start in range(0, kills, at_a_time):
        running = [writer(world, project, f"writer {start + n}") for n in range(at_a_time)]
        begin_together(running)
        for process in running:
            acknowledged += kill_after(process, chance.randrange(3, 25))
        check(world, project, acknowledged)
    assert len(acknowledged) >= 3 * kills


def test_five_writers_are_killed(world: World) -> None:
    live_through(world, kills=5, at_a_time=5)


@pytest.mark.slow
def test_twenty_writers_are_killed(world: World) -> None:
    live_through(world, kills=20, at_a_time=2)
