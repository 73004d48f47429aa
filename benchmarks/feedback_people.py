"""Simulated annotators: they judge when their time comes, whatever the server does, as the page does it.

Each claims eight tasks ahead, judges the first at its scheduled time, and has a queue that sends one judgment
at a time, again and again with the same key until it is acknowledged. Claims go over a connection of their
own. Latency counts from the scheduled time: what waits for a task, for the judgment before it or for the
server, waits in the figures too.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from feedback_site import Seat

from trimtab.feedback.records import Compared, Judgment
from trimtab.feedback.store.store import open_store

AHEAD, REFILL_BELOW, MOST_CLAIMED = 8, 4, 20
"""As in judge.js, where two answers are compared."""
FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0
"""Before sending again, in seconds; shorter than the page's, to press harder."""
LOOK_AGAIN = 0.2
"""After a claim that gave nothing new, in seconds."""
PATIENCE = 60.0
"""For what waits when all have judged, in seconds."""


class Refused(Exception):
    """The server does not want what an honest page sends."""


@dataclass
class Vote:
    """One judgment, from its scheduled moment to its acknowledgment; times are the loop's, in seconds."""

    due: float
    person: int
    key: str
    item: int
    round: int
    first: str
    """Which of the item's answers stood first on the screen, as its text says."""
    said: dict[str, Any]
    """The outcome in the terms of the screen."""
    sent: list[float] = field(default_factory=list)
    answered: float | None = None
    id: int | None = None


class Connection:
    """One HTTP/1.1 connection that is kept, and opened again after it broke."""

    def __init__(self, port: int, seat: Seat) -> None:
        self._port = port
        csrf = hashlib.sha256(f"csrf {seat.token}".encode()).hexdigest()
        address = f"127.0.0.1:{port}"
        self._head = (
            f"Host: {address}\r\nOrigin: http://{address}\r\nSec-Fetch-Site: same-origin\r\n"
            f"Cookie: trimtab={seat.token}\r\nX-CSRF-Token: {csrf}\r\nContent-Type: application/json\r\n"
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: object) -> Any:
        """The answer's JSON.

        Raises:
            OSError: no answer came; whether the server took it is not known.
            Refused: it answered something else than 200.
        """
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(content)}\r\n\r\n"
        try:
            status, answer = await self._ask(head.encode() + content)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ConnectionError(str(error)) from error
        if status >= 500:
            raise ConnectionError(f"{status}: {answer!r}")
        if status != 200:
            raise Refused(f"{path}: {status}, {answer.decode()}")
        return json.loads(answer)

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), await reader.readexactly(length)

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None


class Annotator:
    """One person before a page."""

    def __init__(self, seat: Seat, port: int, project: int, chance: random.Random) -> None:
        self.seat, self._project, self._chance = seat, project, chance
        self._claims, self._saves = Connection(port, seat), Connection(port, seat)
        self.votes: list[Vote] = []
        self.claim_seconds: list[float] = []
        self.lag_seconds: list[float] = []
        """How much later than scheduled this program itself came to each judgment."""
        self._due: deque[float] = deque()
        self._tasks: list[dict[str, Any]] = []
        self._judged: set[tuple[int, int]] = set()
        self._queue: deque[Vote] = deque()
        self._news = asyncio.Event()
        self._claiming = False
        self._running: set[asyncio.Task[None]] = set()

    async def work(self, moments: Iterable[float]) -> None:
        """Judge at these moments; returns when everything is acknowledged."""
        self._run(self._send())
        self._claim()
        loop = asyncio.get_running_loop()
        for moment in moments:
            await asyncio.sleep(max(0.0, moment - loop.time()))
            self.lag_seconds.append(loop.time() - moment)
            self._due.append(moment)
            self._judge()
        while self.waiting:
            await asyncio.sleep(0.01)
            self._raise_what_failed()

    @property
    def waiting(self) -> int:
        """Judgments that were due and are not acknowledged."""
        return len(self._due) + len(self._queue)

    async def leave(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._claims.close()
        self._saves.close()

    def _judge(self) -> None:
        """All that is due and for which there is a task."""
        while self._due and self._tasks:
            task = self._tasks.pop(0)
            self._judged.add((task["item"], task["round"]))
            vote = self._vote(self._due.popleft(), task)
            self.votes.append(vote)
            self._queue.append(vote)
            self._news.set()
        if len(self._tasks) < REFILL_BELOW:
            self._claim()
        self._raise_what_failed()

    def _vote(self, due: float, task: dict[str, Any]) -> Vote:
        said: dict[str, Any] = {"preferred": self._chance.choice(("first", "second", "tie", "both_bad"))}
        if said["preferred"] in ("first", "second"):
            said["strength"] = self._chance.choice((1, 2, 3))
        return Vote(
            due=due,
            person=self.seat.person,
            key=str(uuid.UUID(int=self._chance.getrandbits(128))),
            item=task["item"],
            round=task["round"],
            first=task["answers"][0]["raw"].split()[1].rstrip("."),
            said=said,
        )

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        wait = FIRST_WAIT
        while True:
            while not self._queue:
                self._news.clear()
                await self._news.wait()
            vote = self._queue[0]
            vote.sent.append(loop.time())
            try:
                answer = await self._saves.post("/api/judgments", _body(vote))
            except ConnectionError:
                await asyncio.sleep(wait)
                wait = min(LONGEST_WAIT, 2 * wait)
                continue
            wait = FIRST_WAIT
            vote.answered, vote.id = loop.time(), answer["id"]
            self._queue.popleft()

    def _claim(self) -> None:
        if not self._claiming:
            self._claiming = True
            self._run(self._claim_once())

    async def _claim_once(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        count = min(MOST_CLAIMED, max(AHEAD, len(self._tasks)) + len(self._queue))
        try:
            answer = await self._claims.post(f"/api/projects/{self._project}/claim", {"count": count})
            self.claim_seconds.append(loop.time() - begun)
        except ConnectionError:
            answer = {"tasks": []}
        else:
            if not answer["tasks"] and self._due and not self._queue:
                raise Refused("nothing is left to judge: the project has too few items")
        known = self._judged | {(task["item"], task["round"]) for task in self._tasks}
        new = [task for task in answer["tasks"] if (task["item"], task["round"]) not in known]
        if not new:
            await asyncio.sleep(LOOK_AGAIN)  # no server, or all that is held waits to be saved
        self._tasks += new
        self._claiming = False
        if self._due:
            self._judge()

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)

    def _raise_what_failed(self) -> None:
        for task in [task for task in self._running if task.done()]:
            self._running.discard(task)
            task.result()


def _body(vote: Vote) -> dict[str, Any]:
    return {
        "item": vote.item,
        "round": vote.round,
        "kind": "compared",
        "outcome": vote.said,
        "seconds": 2.5,
        "guidelines": 1,
        "key": vote.key,
        "client": "measurement",
    }


def pace(chance: random.Random, gap: float) -> Iterator[float]:
    """Seconds from the start at which one person judges, without end: gaps of 0.5 to 1.5 of `gap`."""
    moment = chance.uniform(0, gap)
    while True:
        yield moment
        moment += chance.uniform(0.5, 1.5) * gap


def schedule(chance: random.Random, people: int, rate: float, judgments: int) -> list[list[float]]:
    """When each person judges, `rate` a second in all. Each has a pace of their own; nobody waits."""
    paces = [pace(chance, people / rate) for _ in range(people)]
    following = [(next(own), person) for person, own in enumerate(paces)]
    heapq.heapify(following)
    moments: list[list[float]] = [[] for _ in range(people)]
    for _ in range(judgments):
        moment, person = following[0]
        moments[person].append(moment)
        heapq.heapreplace(following, (next(paces[person]), person))
    return moments


@dataclass(frozen=True)
class Held:
    """What the store holds of what was sent."""

    acknowledged: int
    stored: int
    lost: int
    """Acknowledged and not there."""
    doubled: int
    """Keys that are there more than once, and items that a person has judged more than once."""
    changed: int
    """There, and not as it was said: another item or outcome, or another order of the answers."""
    extra: int
    """Beyond the overlap: where nobody's lease runs out, there are none."""
    twice_sent: int
    """Saved when it was first sent, and acknowledged only when it was sent again."""
    miscounted: int
    """Items whose remembered count is not that of their judgments."""

    @property
    def holds(self) -> bool:
        return not (self.lost or self.doubled or self.changed or self.miscounted)


def check(place: str, project: int, votes: Sequence[Vote]) -> Held:
    """Read the store, and compare it with what the annotators know."""
    with open_store(place) as store:
        kept = store.audit(project)
        counts = Counter(judgment.item for judgment in kept)
        items = store.items(project)
        by_key = {judgment.key: judgment for judgment in kept}
        acknowledged = [vote for vote in votes if vote.answered is not None]
        there = [(vote, by_key[vote.key]) for vote in acknowledged if vote.key in by_key]
        return Held(
            acknowledged=len(acknowledged),
            stored=len(kept),
            lost=len(acknowledged) - len(there),
            doubled=2 * len(kept) - len(by_key) - len({(one.person, one.item, one.round) for one in kept}),
            changed=sum(not _as_said(vote, judgment) for vote, judgment in there),
            extra=sum(judgment.extra for judgment in kept),
            twice_sent=sum(_saved_before(vote, judgment) for vote, judgment in there),
            miscounted=sum(item.judged != counts[item.id] for item in items),
        )


def _as_said(vote: Vote, kept: Judgment) -> bool:
    """Whether it is kept as it was seen: by the names that the answers' own texts bear, not by the code."""
    assert isinstance(kept.outcome, Compared)
    sides = {"first": vote.first, "second": {"a": "b", "b": "a"}[vote.first]}
    expected = sides.get(vote.said["preferred"], vote.said["preferred"])
    outcome = (kept.outcome.preferred, kept.outcome.strength) == (expected, vote.said.get("strength"))
    place = (kept.id, kept.item, kept.person, kept.round) == (vote.id, vote.item, vote.person, vote.round)
    return outcome and place and "ab"[kept.shown[0]] == vote.first and kept.policies == ("a", "b")


def _saved_before(vote: Vote, kept: Judgment) -> bool:
    to_clock = time.time() - time.monotonic()
    return datetime.fromisoformat(kept.at).timestamp() < vote.sent[-1] + to_clock


def all_votes(annotators: Sequence[Annotator]) -> Iterator[Vote]:
    for annotator in annotators:
        yield from annotator.votes
