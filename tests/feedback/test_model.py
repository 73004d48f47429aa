"""Random days of several people, on a real store and on a plain model of the rules.

The model is the independent path: lists and loops over all that ever happened, no counters, no queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.errors import ConflictError, FeedbackError, NotFoundError
from trimtab.feedback.records import Compared, Draft, Flagged, Judgment, Outcome, Skipped, Withdrawn

if TYPE_CHECKING:
    from conftest import World

PEOPLE, ITEMS = 3, 4
OUTCOMES: list[Outcome] = [
    Compared(preferred="a", strength=1),
    Compared(preferred="tie"),
    Compared(preferred="b"),
    Skipped(reason="hard"),
    Flagged(reason="broken"),
]
WHO, WHAT = st.integers(0, PEOPLE - 1), st.integers(0, ITEMS - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), WHO, st.integers(1, 3)),
        st.tuples(st.just("save"), WHO, WHAT, st.sampled_from(OUTCOMES)),
        st.tuples(st.just("work"), WHO, st.sampled_from(OUTCOMES)),
        st.tuples(st.just("edit"), WHO, WHAT, st.sampled_from(OUTCOMES)),
        st.tuples(st.just("undo"), WHO, WHAT),
        st.tuples(st.just("resend"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 9.5, 10.0])),
        st.tuples(st.just("overlap"), st.integers(1, 3)),
    ),
    min_size=10,
    max_size=40,
)


@dataclass
class Said:
    number: int
    outcome: Outcome
    extra: bool


@dataclass
class Model:
    """The rules, as the documentation states them."""

    overlap: int = 1
    now: float = 0.0
    chains: dict[tuple[int, int], list[Said]] = field(default_factory=dict)
    leases: dict[tuple[int, int], tuple[float, int]] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)

    def live(self, item: int, person: int) -> Said | None:
        chain = self.chains.get((item, person), [])
        return chain[-1] if chain and not isinstance(chain[-1].outcome, Withdrawn) else None

    def votes(self, item: int, without: int | None = None) -> list[Said]:
        found = [self.live(item, person) for person in range(PEOPLE) if person != without]
        return [said for said in found if said and isinstance(said.outcome, Compared)]

    def held(self, item: int, person: int) -> bool:
        return (item, person) in self.leases and self.leases[item, person][0] > self.now

    def claim(self, person: int, most: int) -> list[int]:
        mine = [item for item in range(ITEMS) if self.held(item, person) and not self.live(item, person)]
        mine = [item for item in mine if len(self.votes(item)) < self.overlap]
        mine.sort(key=lambda item: self.leases[item, person][1])
        others = [item for item in range(ITEMS) if item not in mine and self.wants(item, person)]
        others.sort(key=lambda item: (-len(self.votes(item)), item))
        given = (mine + others)[:most]
        for item in given:
            place = self.leases[item, person][1] if item in mine else next(self.numbers)
            self.leases[item, person] = (self.now + 10, place)
        return given

    def wants(self, item: int, person: int) -> bool:
        taken = sum(self.held(item, other) for other in range(PEOPLE) if other != person)
        return not self.live(item, person) and len(self.votes(item)) + taken < self.overlap

    def may_save(self, item: int, person: int) -> bool:
        return (item, person) in self.leases or (item, person) in self.chains

    def say(self, item: int, person: int, outcome: Outcome, number: int) -> bool:
        before = self.live(item, person)
        full = len(self.votes(item, without=person)) >= self.overlap
        kept = before is not None and isinstance(before.outcome, Compared) and not before.extra
        extra = isinstance(outcome, Compared) and full and not kept
        self.chains.setdefault((item, person), []).append(Said(number, outcome, extra))
        self.leases.pop((item, person), None)
        if isinstance(outcome, Withdrawn):
            self.leases[item, person] = (self.now + 10, next(self.numbers))
        return extra

    def standing(self) -> dict[int, bool]:
        """Number of each live judgment, and whether it is extra now."""
        found = {}
        for item in range(ITEMS):
            votes = sorted(self.votes(item), key=lambda said: (said.extra, said.number))
            found.update({said.number: said.extra and n >= self.overlap for n, said in enumerate(votes)})
            for person in range(PEOPLE):
                said = self.live(item, person)
                if said and not isinstance(said.outcome, Compared):
                    found[said.number] = False
        return found


class Day:
    """Does each step on both sides and compares what they answer."""

    def __init__(self, world: World) -> None:
        self.world, self.model = world, Model()
        self.people = [world.person() for _ in range(PEOPLE)]
        self.project = world.project(items=ITEMS)
        self.items = [item.id for item in world.store.items(self.project.id)]
        self.sent: list[tuple[Draft, Judgment]] = []

    def do(self, name: str, *arguments: Any) -> None:
        getattr(self, name)(*arguments)
        if name not in ("claim", "wait"):
            self.compare()

    def claim(self, who: int, most: int) -> None:
        given = self.world.store.claim(self.project.id, self.people[who].id, most)
        assert [self.items.index(task.item) for task in given] == self.model.claim(who, most)

    def work(self, who: int, outcome: Outcome) -> None:
        self.claim(who, 1)
        mine = [item for item in range(ITEMS) if self.model.held(item, who)]
        if mine:
            self.save(who, mine[0], outcome)

    def save(self, who: int, item: int, outcome: Outcome) -> None:
        draft = self.draft(who, item, outcome)
        if not self.model.may_save(item, who):
            with pytest.raises(NotFoundError):
                self.world.store.save(draft)
            return
        self.keep(who, item, draft)

    def edit(self, who: int, item: int, outcome: Outcome) -> None:
        for said in self.model.chains.get((item, who), []):
            draft = replace(self.draft(who, item, outcome), supersedes=said.number)
            if said is self.model.chains[item, who][-1]:
                self.keep(who, item, draft)
                return
            with pytest.raises(ConflictError):
                self.world.store.save(draft)

    def keep(self, who: int, item: int, draft: Draft) -> None:
        kept = self.world.store.save(draft)
        assert kept.extra == self.model.say(item, who, draft.outcome, kept.id)
        self.sent.append((draft, kept))

    def undo(self, who: int, item: int) -> None:
        chain = self.model.chains.get((item, who), [])
        for said in list(chain):
            key = f"undo {next(self.world._numbers)}"
            if said is chain[-1] and not isinstance(said.outcome, Withdrawn):
                undone = self.world.store.undo(said.number, self.people[who].id, key=key)
                self.model.say(item, who, Withdrawn(), undone.id)
                return
            with pytest.raises(FeedbackError):
                self.world.store.undo(said.number, self.people[who].id, key=key)

    def resend(self, which: int) -> None:
        if self.sent:
            draft, kept = self.sent[which % len(self.sent)]
            assert self.world.store.save(draft) == kept

    def wait(self, minutes: float) -> None:
        self.world.clock.now += timedelta(minutes=minutes)
        self.model.now += minutes

    def overlap(self, overlap: int) -> None:
        self.world.store.change_project(self.project.id, overlap=overlap)
        self.model.overlap = overlap

    def draft(self, who: int, item: int, outcome: Outcome) -> Draft:
        return Draft(
            item=self.items[item],
            person=self.people[who].id,
            outcome=outcome,
            shown=(1, 0),
            blind=True,
            guidelines=0,
            seconds=1.0,
            key=f"key {next(self.world._numbers)}",
        )

    def compare(self) -> None:
        store, model = self.world.store, self.model
        found = store.judgments(self.project.id, leave_out=())
        assert {judgment.id: judgment.extra for judgment in found} == model.standing()
        judged = [len(model.votes(item)) for item in range(ITEMS)]
        assert [item.judged for item in store.items(self.project.id)] == judged

    def end(self) -> None:
        """What is read less often."""
        store, model = self.world.store, self.model
        said = sorted((s.number, s.outcome) for chain in model.chains.values() for s in chain)
        assert [(j.id, j.outcome) for j in store.audit(self.project.id)] == said if said else True
        counted = store.counts(self.project.id)
        votes = [len(model.votes(item)) for item in range(ITEMS)]
        assert counted.complete == sum(number >= model.overlap for number in votes)
        assert counted.begun == sum(0 < number < model.overlap for number in votes)
        assert counted.judgments == sum(votes)
        assert counted.extra == sum(model.standing().values())
        done = {progress.person: progress for progress in store.progress(self.project.id)}
        for who, person in enumerate(self.people):
            live = [said for item in range(ITEMS) if (said := model.live(item, who))]
            assert store.left(self.project.id, person.id) == sum(
                model.wants(item, who) for item in range(ITEMS)
            )
            assert {j.id for j in store.history(self.project.id, person.id)} == {s.number for s in live}
            if live:
                assert done[person.id].judged == sum(isinstance(s.outcome, Compared) for s in live)
                assert done[person.id].skipped == sum(isinstance(s.outcome, Skipped) for s in live)
            else:
                assert person.id not in done


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_any_day_goes_by_the_rules(world: World, steps: list[tuple[Any, ...]]) -> None:
    _live_through(world, steps)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_many_days_go_by_the_rules(world: World, steps: list[tuple[Any, ...]]) -> None:
    _live_through(world, steps)


def _live_through(world: World, steps: list[tuple[Any, ...]]) -> None:
    day = Day(world)
    for step in steps:
        day.do(*step)
    day.end()
