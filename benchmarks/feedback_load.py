"""The feedback server under load: 50 people, 20,000 judgments at 100 a second, open loop; then ever faster.

    python benchmarks/feedback_load.py --out ../trimtab-measured/feedback --store sqlite postgresql

The server is the real one, over loopback. Afterwards the store is read: each acknowledged judgment must be
there once, as it was said. A store kind that is done is not measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import feedback_people
import feedback_site
import numpy as np
from feedback_people import Annotator, Held, Vote, all_votes
from feedback_site import Seat, Server

P95_MS = 50.0
"""At most, for a save, from its scheduled moment to its acknowledgment."""
OVERLAP = 3
SLACK = 40
"""Items more than are judged, for each person: what they hold at the end."""
STEP, STEP_SECONDS, FASTEST = 25, 10.0, 600
"""Judgments a second that each step adds, how long it lasts, where the steps end."""


@dataclass(frozen=True)
class Times:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    longest: float


@dataclass(frozen=True)
class Load:
    """What one rate gave."""

    rate: float
    judgments: int
    save: Times
    """From the scheduled moment to the acknowledgment."""
    service: Times
    """Of the same: from the moment when it was sent."""
    claim: Times
    lag: Times
    """How late the people themselves were, because their program had something else to do."""
    resent: int
    backlog: int
    """Judgments that were due and not acknowledged when the last one was due."""
    unanswered: int
    """Of these, what was not acknowledged long after either."""
    wall_s: float
    server_cpu: float
    """Share of one core."""
    people_cpu: float
    rest_cpu: float
    """Of everything else on the machine: PostgreSQL, and whatever disturbs the measurement."""
    server_mib: float

    @property
    def holds(self) -> bool:
        """A backlog of a tenth of a second is none; one that grows is soon more."""
        kept_up = self.backlog <= max(10, self.rate / 10) and not self.unanswered
        return self.save.p95 <= P95_MS and kept_up


@dataclass(frozen=True)
class Measured:
    """What one kind of store gave."""

    store: str
    people: int
    load: Load
    held: Held
    steps: tuple[Load, ...]
    """Ever faster, until two in a row did not hold."""
    machine: dict[str, Any]

    @property
    def saturation(self) -> float:
        """The last rate that held, judgments a second; 0 where none did."""
        rates = [step.rate for step in (self.load, *self.steps) if step.holds]
        return max(rates, default=0.0)

    @property
    def holds(self) -> bool:
        return self.load.holds and self.held.holds and not self.held.extra


def main() -> None:
    """Measure what is missing, print the tables, keep the figures; 1 where a promise does not hold."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        done = [measured(kind, arguments) for kind in arguments.store]
    except KeyboardInterrupt:
        sys.exit("\nstopped; what is done is kept")
    text = table(done)
    (arguments.out / "load.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(not all(one.holds for one in done))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and the stores")
    kinds = ["sqlite", "postgresql"]
    parser.add_argument("--store", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--rate", type=float, default=100, help="judgments a second")
    parser.add_argument("--judgments", type=int, default=20_000)
    parser.add_argument("--people", type=int, default=50)
    return parser.parse_args()


def measured(kind: str, arguments: argparse.Namespace) -> Measured:
    """The figures of one kind of store, of now or of before."""
    kept = arguments.out / f"load-{kind}.json"
    if not kept.exists():
        found = measure(kind, arguments)
        kept.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    loads = [_load(one) for one in (found["load"], *found["steps"])]
    return Measured(**{**found, "load": loads[0], "steps": tuple(loads[1:]), "held": Held(**found["held"])})


def _load(found: dict[str, Any]) -> Load:
    times = {name: Times(**value) for name, value in found.items() if isinstance(value, dict)}
    return Load(**{**found, **times})


def measure(kind: str, arguments: argparse.Namespace) -> Measured:
    """Fill a store, serve it, load it, read it."""
    steps = np.arange(arguments.rate + STEP, FASTEST + 1, STEP)
    with feedback_site.new_place(kind, arguments.out) as place:
        seats = feedback_site.people(place, arguments.people)
        first = _project(place, "load", arguments.judgments, seats)
        second = _project(place, "steps", int(steps.sum() * STEP_SECONDS), seats)
        with feedback_site.running(place, arguments.out / f"server-{kind}.log") as server:
            load, votes = apply(server, seats, first, arguments.rate, arguments.judgments)
            held = feedback_people.check(place, first, votes)
            faster: list[Load] = []
            for rate in map(float, steps):
                faster.append(apply(server, seats, second, rate, int(rate * STEP_SECONDS))[0])
                if len(faster) > 1 and not (faster[-1].holds or faster[-2].holds):
                    break  # once may be chance
    machine = feedback_site.machine(arguments.out)
    return Measured(kind, arguments.people, load, held, tuple(faster), machine)


def _project(place: str, name: str, judgments: int, seats: Sequence[Seat]) -> int:
    return feedback_site.project(place, name, judgments // OVERLAP + SLACK * len(seats), OVERLAP)


def apply(
    server: Server, seats: Sequence[Seat], project: int, rate: float, judgments: int
) -> tuple[Load, list[Vote]]:
    """One rate, for so many judgments."""
    chance = random.Random(f"{project} {rate}")
    people = [Annotator(seat, server.port, project, chance) for seat in seats]
    moments = feedback_people.schedule(chance, len(seats), rate, judgments)
    cpu, own, begun = server.used()[0], time.process_time(), time.perf_counter()
    all_before = feedback_site.busy_seconds()
    backlog = asyncio.run(_together(people, moments))
    wall = time.perf_counter() - begun
    after, memory = server.used()
    server_cpu, people_cpu = (after - cpu) / wall, (time.process_time() - own) / wall
    all_cpu = (feedback_site.busy_seconds() - all_before) / wall
    votes = list(all_votes(people))
    print(f"  {rate:.0f} a second: {len(votes)} judgments in {wall:.0f} s", file=sys.stderr, flush=True)
    load = Load(
        rate=rate,
        judgments=len(votes),
        save=_times([vote.answered - vote.due for vote in votes if vote.answered is not None]),
        service=_times([vote.answered - vote.sent[-1] for vote in votes if vote.answered is not None]),
        claim=_times([seconds for person in people for seconds in person.claim_seconds]),
        lag=_times([seconds for person in people for seconds in person.lag_seconds]),
        resent=sum(max(0, len(vote.sent) - 1) for vote in votes),
        backlog=backlog,
        unanswered=judgments - sum(vote.answered is not None for vote in votes),
        wall_s=wall,
        server_cpu=server_cpu,
        people_cpu=people_cpu,
        rest_cpu=max(0.0, all_cpu - server_cpu - people_cpu),
        server_mib=memory / 1024**2,
    )
    return load, votes


async def _together(people: Sequence[Annotator], moments: Sequence[Sequence[float]]) -> int:
    """All people at once; gives the backlog when the last judgment was due."""
    loop = asyncio.get_running_loop()
    start = loop.time() + 1.0
    last = start + max(own[-1] for own in moments if own)
    working = [
        loop.create_task(person.work([start + moment for moment in own]))
        for person, own in zip(people, moments, strict=True)
    ]
    try:
        await asyncio.wait(working, timeout=last - loop.time(), return_when=asyncio.FIRST_EXCEPTION)
        backlog = sum(person.waiting for person in people)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*working), feedback_people.PATIENCE)
    finally:
        for person in people:
            await person.leave()
    return backlog


def _times(seconds: Sequence[float]) -> Times:
    p50, p95, p99, longest = np.percentile(np.array(seconds) * 1000, [50, 95, 99, 100])
    return Times(p50=float(p50), p95=float(p95), p99=float(p99), longest=float(longest))


def table(done: Sequence[Measured]) -> str:
    """Markdown: latency, what the store holds, the steps, the machine."""
    lines = _head("store", "people", "a second", "judgments", *_TIMES)
    for one in done:
        lines.append(
            _row(one.store, one.people, f"{one.load.rate:.0f}", one.load.judgments, *_cells(one.load))
        )
    lines += ["", *_head("store", *_HELD, "resent", "holds up to")]
    for one in done:
        held = (getattr(one.held, name) for name in _HELD)
        lines.append(_row(one.store, *held, one.load.resent, f"{one.saturation:.0f} a second"))
    for one in done:
        lines += ["", *_steps(one)]
    return "\n".join([*lines, "", _machine(done[0].machine), ""])


_TIMES = ("p50", "p95", "p99", "longest", "claim p95", "people late, p99")
_CORES = ("server's core", "people's core", "core of the rest")
_HELD = ("acknowledged", "stored", "lost", "doubled", "changed", "extra")


def _head(*names: str) -> list[str]:
    return [_row(*names), "| --- " + "| ---: " * (len(names) - 1) + "|"]


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _cells(load: Load) -> tuple[str, ...]:
    save = load.save
    times = (save.p50, save.p95, save.p99, save.longest, load.claim.p95, load.lag.p99)
    return tuple(f"{milliseconds:.1f} ms" for milliseconds in times)


def _steps(one: Measured) -> list[str]:
    lines = _head(f"{one.store}, a second", *_TIMES, "backlog", *_CORES, "holds")
    for load in (one.load, *one.steps):
        cores = tuple(f"{share:.0%}" for share in (load.server_cpu, load.people_cpu, load.rest_cpu))
        holds = "yes" if load.holds else "no"
        lines.append(_row(f"{load.rate:.0f}", *_cells(load), load.backlog, *cores, holds))
    return lines


def _machine(facts: dict[str, Any]) -> str:
    names = ("python", "sqlite", "postgresql", "trimtab", "uvicorn", "starlette", "fastapi", "sqlalchemy")
    versions = ", ".join(f"{name} {facts[name]}" for name in names if facts[name])
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; 4 KiB written with fsync "
        f"take {facts['fsync_ms']} ms; {facts['system']}; {versions}. The people run on the same machine."
    )


if __name__ == "__main__":
    main()
