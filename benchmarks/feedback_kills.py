"""kill -9 of the feedback server, again and again under load: what was acknowledged is there, once, as said.

    python benchmarks/feedback_kills.py --out ../trimtab-measured/feedback --store sqlite postgresql

Killed at random moments, it is started again on the same store and port; the people, who judge on all the
while, send again with the same key whatever was not acknowledged. A store kind that is done is not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import feedback_people
import feedback_site
from feedback_people import Annotator, Held, all_votes
from feedback_site import Server

OVERLAP = 3
BETWEEN = (0.5, 3.0)
"""Seconds from when the server answers again to the next kill."""
SECONDS_PER_KILL = 12.0
"""At most, with the start of the server: there must be enough to judge."""


@dataclass(frozen=True)
class Kills:
    """What so many kills left behind."""

    store: str
    kills: int
    rate: float
    people: int
    held: Held
    resent: int
    """Judgments that were sent more than once."""
    unanswered: int
    """Judgments that nobody acknowledged in the end."""
    down_s: float
    """From a kill to the first answer, the longest."""
    sound: bool
    """What SQLite's own check of the file says; PostgreSQL is not asked."""

    @property
    def holds(self) -> bool:
        return self.held.holds and not self.unanswered and self.sound


def main() -> None:
    """Run what is missing, print the table, keep the figures; 1 where something is lost or doubled."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and the stores")
    kinds = ["sqlite", "postgresql"]
    parser.add_argument("--store", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=40, help="judgments a second")
    parser.add_argument("--people", type=int, default=50)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        done = [measured(kind, arguments) for kind in arguments.store]
    except KeyboardInterrupt:
        sys.exit("\nstopped; what is done is kept")
    text = table(done)
    (arguments.out / "kills.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(not all(one.holds for one in done))


def measured(kind: str, arguments: argparse.Namespace) -> Kills:
    """The figures of one kind of store, of now or of before."""
    kept = arguments.out / f"kills-{kind}.json"
    if not kept.exists():
        with feedback_site.new_place(kind, arguments.out) as place:
            log = arguments.out / f"kills-{kind}.log"
            found = live_through(
                place, log, kills=arguments.kills, rate=arguments.rate, people=arguments.people
            )
        kept.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    again = json.loads(kept.read_text(encoding="utf-8"))
    return Kills(**{**again, "held": Held(**again["held"])})


def live_through(place: str, log: Path, *, kills: int, rate: float, people: int, seed: int = 6) -> Kills:
    """Kill a server so often while so many people judge, then read what the store holds.

    Args:
        place: where no store is yet.
        rate: judgments a second, of all people together, while the server is down too.
    """
    chance = random.Random(seed)
    seats = feedback_site.people(place, people)
    items = int(rate * kills * SECONDS_PER_KILL / OVERLAP) + 20 * people
    project = feedback_site.project(place, "kills", items, OVERLAP)
    with feedback_site.running(place, log) as server:
        annotators = [Annotator(seat, server.port, project, chance) for seat in seats]
        down = asyncio.run(_together(annotators, server, kills, people / rate, chance))
    votes = list(all_votes(annotators))
    return Kills(
        store="postgresql" if "://" in place else "sqlite",
        kills=kills,
        rate=rate,
        people=people,
        held=feedback_people.check(place, project, votes),
        resent=sum(len(vote.sent) > 1 for vote in votes),
        unanswered=sum(vote.answered is None for vote in votes),
        down_s=max(down),
        sound=_sound(place),
    )


async def _together(
    people: Sequence[Annotator], server: Server, kills: int, gap: float, chance: random.Random
) -> list[float]:
    """Everyone judges until the last kill is over; gives how long the server was away each time."""
    loop = asyncio.get_running_loop()
    start, over = loop.time() + 0.5, asyncio.Event()

    def moments() -> Iterator[float]:
        for moment in feedback_people.pace(chance, gap):
            if over.is_set():
                return
            yield start + moment

    working = asyncio.gather(*(person.work(moments()) for person in people))
    try:
        down = [await _kill(server, chance.uniform(*BETWEEN), working) for _ in range(kills)]
        over.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(working, feedback_people.PATIENCE)
    finally:
        for person in people:
            await person.leave()
    return down


async def _kill(server: Server, seconds: float, working: asyncio.Future[list[None]]) -> float:
    await asyncio.wait([working], timeout=seconds)
    if working.done():
        working.result()
    server.kill()
    begun = asyncio.get_running_loop().time()
    await asyncio.to_thread(server.start)
    away = asyncio.get_running_loop().time() - begun
    print(f"  killed, and back after {away:.1f} s", file=sys.stderr, flush=True)
    return away


def _sound(place: str) -> bool:
    if "://" in place:
        return True
    with closing(sqlite3.connect(place)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def table(done: Sequence[Kills]) -> str:
    """Markdown: a row for each kind of store."""
    names = ("acknowledged", "stored", "lost", "doubled", "changed")
    head = ("store", "kills", "a second", *names, "sent again", "of these saved before", "longest away")
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for one in done:
        held = (getattr(one.held, name) for name in names)
        away = f"{one.down_s:.1f} s"
        cells = (one.store, one.kills, f"{one.rate:.0f}", *held, one.resent, one.held.twice_sent, away)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
