"""What is kept, what supersedes what, what is refused, and that nothing can be changed afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from trimtab.errors import ConflictError, FeedbackError, NotFoundError
from trimtab.feedback.records import Compared, Flagged, Graded, Judgment, Skipped, Withdrawn

if TYPE_CHECKING:
    from conftest import World

B = Compared(preferred="b", strength=1, reason="clearer", comment="so is it")


def test_a_judgment_is_kept_as_it_was_made(world: World) -> None:
    project, ann = world.project(), world.person()
    world.store.set_guidelines(project.id, "one")
    task = world.task(project, ann)
    draft = world.draft(task, ann, B, shown=(1, 0), blind=False, guidelines=1, seconds=2.25)
    kept = world.store.save(draft)
    assert kept == Judgment(
        id=kept.id,
        item=task.item,
        project=project.id,
        person=ann.id,
        outcome=B,
        shown=(1, 0),
        blind=False,
        guidelines=1,
        seconds=2.25,
        policies=("p1", "p2"),
        client="browser",
        key=draft.key,
        round=0,
        extra=False,
        supersedes=None,
        at="2026-01-31T12:00:00+00:00",
    )
    assert world.store.judgments(project.id) == [kept] == world.store.audit(project.id)
    assert world.store.history(project.id, ann.id) == [kept]
    assert world.store.item(task.item).judged == 1


def test_sent_twice_it_is_kept_once(world: World) -> None:
    project, ann = world.project(), world.person()
    draft = world.draft(world.task(project, ann), ann)
    kept = world.store.save(draft)
    world.clock.ahead(hours=5)
    assert world.store.save(replace(draft, seconds=99.0, client="other")) == kept
    assert world.store.audit(project.id) == [kept]


@pytest.mark.parametrize("change", [{"outcome": B}, {"shown": (9,)}, {"blind": False}, {"supersedes": 1}])
def test_a_key_means_one_thing(world: World, change: dict[str, Any]) -> None:
    project, ann = world.project(), world.person()
    draft = world.draft(world.task(project, ann), ann)
    kept = world.store.save(draft)
    if "shown" in change:
        change = {"shown": tuple(reversed(draft.shown))}
    with pytest.raises(ConflictError, match=f"used for another judgment\n.*another {next(iter(change))}"):
        world.store.save(replace(draft, **change))
    assert world.store.audit(project.id) == [kept]


def test_two_people_may_use_the_same_key(world: World) -> None:
    project, ann, bob = world.project(overlap=2), world.person(), world.person()
    for person in (ann, bob):
        world.store.save(world.draft(world.task(project, person), person, key="1"))
    assert len(world.store.judgments(project.id)) == 2


def test_a_late_save_is_kept_and_beyond_the_overlap_it_is_extra(world: World) -> None:
    project, ann, bob = world.project(items=1), world.person(), world.person()
    task = world.task(project, ann)
    world.clock.ahead(minutes=11)
    in_time = world.store.save(world.draft(world.task(project, bob), bob))
    late = world.store.save(world.draft(task, ann))
    assert (in_time.extra, late.extra) == (False, True)
    assert world.store.judgments(project.id) == [in_time]
    assert world.store.judgments(project.id, leave_out=()) == [in_time, late]


def test_a_late_save_on_an_open_item_is_not_extra(world: World) -> None:
    project, ann = world.project(items=1), world.person()
    task = world.task(project, ann)
    world.clock.ahead(days=3)
    assert not world.store.save(world.draft(task, ann)).extra


def test_an_extra_judgment_takes_the_place_of_one_that_goes(world: World) -> None:
    project = world.project(items=1)
    people = [world.person() for _ in range(3)]
    tasks = []
    for person in people:
        tasks.append(world.task(project, person))
        world.clock.ahead(minutes=11)
    kept = [world.store.save(world.draft(task, who)) for task, who in zip(tasks, people, strict=True)]
    assert [judgment.extra for judgment in kept] == [False, True, True]

    def voters() -> list[int]:
        return [judgment.person for judgment in world.store.judgments(project.id)]

    world.store.undo(kept[0].id, people[0].id, key="undo")
    assert voters() == [people[1].id], "the vote of another was there, and nobody's was used"
    world.store.change_project(project.id, overlap=2)
    assert voters() == [people[1].id, people[2].id]
    world.store.change_project(project.id, overlap=1)
    again = world.store.save(world.draft(tasks[0], people[0]))
    assert again.extra
    assert voters() == [people[1].id]


def test_an_edit_of_an_extra_judgment_fills_a_place_that_became_free(world: World) -> None:
    project, ann, bob = world.project(items=1), world.person(), world.person()
    task = world.task(project, ann)
    world.clock.ahead(minutes=11)
    first = world.store.save(world.draft(world.task(project, bob), bob))
    late = world.store.save(world.draft(task, ann))
    assert world.store.save(world.draft(task, ann, B)).extra, "still beyond the overlap"
    world.store.undo(first.id, bob.id, key="undo")
    assert late.extra
    assert not world.store.save(world.draft(task, ann, B)).extra


def test_lowering_the_overlap_throws_nothing_away(world: World) -> None:
    project = world.project(items=1, overlap=3)
    for person in [world.person() for _ in range(3)]:
        world.store.save(world.draft(world.task(project, person), person))
    world.store.change_project(project.id, overlap=1)
    assert len(world.store.judgments(project.id)) == 3
    first = world.store.judgments(project.id)[0]
    edit = world.store.save(
        replace(world.draft(world.task(world.project(), world.person()), world.person()), **_edit(first))
    )
    assert not edit.extra, "an edit made it extra"
    assert len(world.store.judgments(project.id)) == 3


def _edit(judgment: Judgment) -> dict[str, Any]:
    return {
        "item": judgment.item,
        "person": judgment.person,
        "outcome": B,
        "supersedes": judgment.id,
        "key": f"edit {judgment.id}",
    }


def test_an_undo_supersedes_and_gives_the_item_back(world: World) -> None:
    project, ann, bob = world.project(items=2), world.person(), world.person()
    task = world.task(project, ann)
    kept = world.store.save(world.draft(task, ann))
    undone = world.store.undo(kept.id, ann.id, key="u", client="phone")
    assert (undone.outcome, undone.supersedes, undone.client) == (Withdrawn(), kept.id, "phone")
    assert world.store.undo(kept.id, ann.id, key="u") == undone, "sent twice"
    assert world.store.judgments(project.id, leave_out=()) == []
    assert world.store.history(project.id, ann.id) == []
    assert world.store.item(task.item).judged == 0
    assert task.item not in [other.item for other in world.store.claim(project.id, bob.id, 9)]
    assert [again.item for again in world.store.claim(project.id, ann.id, 1)] == [task.item]
    anew = world.store.save(world.draft(task, ann, B))
    assert anew.supersedes == undone.id
    assert world.store.judgments(project.id) == [anew]
    assert world.store.audit(project.id) == [kept, undone, anew]


def test_what_cannot_be_undone(world: World) -> None:
    project, ann, bob = world.project(overlap=2), world.person(), world.person()
    kept = world.store.save(world.draft(world.task(project, ann), ann))
    with pytest.raises(NotFoundError, match="no such judgment of yours"):
        world.store.undo(kept.id, bob.id, key="u")
    with pytest.raises(NotFoundError, match="no such judgment of yours"):
        world.store.undo(10**12, ann.id, key="u")
    edit = world.store.save(replace(world.draft(world.task(project, ann), ann), **_edit(kept)))
    with pytest.raises(ConflictError, match=f"judgment {edit.id} is the newest, not {kept.id}"):
        world.store.undo(kept.id, ann.id, key="u")
    undone = world.store.undo(edit.id, ann.id, key="u")
    with pytest.raises(ConflictError, match="taken back already"):
        world.store.undo(undone.id, ann.id, key="v")
    with pytest.raises(ConflictError, match="used for another judgment"):
        world.store.undo(kept.id, ann.id, key="u")
    with pytest.raises(FeedbackError, match="taken back by undo"):
        world.store.save(world.draft(world.task(project, ann), ann, Withdrawn()))


def test_an_edit_of_what_was_changed_meanwhile_is_refused(world: World) -> None:
    project, ann = world.project(), world.person()
    draft = world.draft(world.task(project, ann), ann)
    kept = world.store.save(draft)
    edit = world.store.save(replace(draft, **_edit(kept)))
    assert (edit.supersedes, edit.outcome) == (kept.id, B)
    with pytest.raises(ConflictError, match="changed meanwhile"):
        world.store.save(replace(draft, key="other", supersedes=kept.id))
    with pytest.raises(ConflictError, match="none is the newest, not 77"):
        world.store.save(world.draft(world.task(project, ann), ann, supersedes=77))
    assert world.store.judgments(project.id) == [edit]


def test_the_last_word_counts_when_two_windows_judge_the_same(world: World) -> None:
    project, ann = world.project(), world.person()
    task = world.task(project, ann)
    first = world.store.save(world.draft(task, ann))
    second = world.store.save(world.draft(task, ann, B))
    assert second.supersedes == first.id
    assert world.store.judgments(project.id) == [second]
    assert world.store.item(task.item).judged == 1


def test_from_a_skip_to_an_answer_and_back(world: World) -> None:
    project, ann = world.project(), world.person()
    task = world.task(project, ann)
    counted = []
    for outcome in (Skipped(), B, Flagged(reason="x"), Compared(preferred="tie")):
        world.store.save(world.draft(task, ann, outcome))
        counted.append(world.store.item(task.item).judged)
    assert counted == [0, 1, 0, 1]


def test_nobody_judges_what_was_not_given_to_them(world: World) -> None:
    project, ann, bob = world.project(overlap=2), world.person(), world.person()
    task = world.task(project, ann)
    for draft in (
        world.draft(task, bob),
        world.draft(task, ann, round=1),
        world.draft(task, ann, item=task.item + 1),
        world.draft(task, ann, item=10**12),
    ):
        with pytest.raises(NotFoundError, match="not given to this person"):
            world.store.save(draft)
    assert world.store.audit(project.id) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"outcome": Graded(grade=3)}, "kind compare is compared, not graded"),
        ({"shown": (0,)}, "2 answers were shown, not 1"),
        ({"guidelines": 1}, "no version 1 of the guidelines"),
        ({"guidelines": -1}, "no version -1 of the guidelines"),
    ],
)
def test_what_does_not_fit_the_item(world: World, change: dict[str, Any], complaint: str) -> None:
    project, ann = world.project(), world.person()
    draft = world.draft(world.task(project, ann), ann)
    with pytest.raises(FeedbackError, match=complaint):
        world.store.save(replace(draft, **change))
    assert world.store.audit(project.id) == []
    assert world.store.save(draft)


def test_what_readers_leave_out(world: World) -> None:
    project, ann = world.project(items=4), world.person()
    tasks = world.store.claim(project.id, ann.id, 4)
    for task, outcome in zip(tasks, (B, Skipped(), Flagged(reason="odd"), B), strict=True):
        world.store.save(world.draft(task, ann, outcome))
        world.clock.ahead(seconds=1)
    all_of_them = [judgment.item for judgment in world.store.judgments(project.id, leave_out=())]
    assert all_of_them == [task.item for task in tasks]
    assert [j.item for j in world.store.judgments(project.id)] == [tasks[0].item, tasks[3].item]
    assert [j.item for j in world.store.judgments(project.id, {"skipped"})] == [
        tasks[0].item,
        tasks[2].item,
        tasks[3].item,
    ]
    assert [j.item for j in world.store.flagged(project.id)] == [tasks[2].item]
    assert [j.item for j in world.store.history(project.id, ann.id, 2)] == [tasks[3].item, tasks[2].item]
    (mine,) = world.store.progress(project.id)
    assert (mine.person, mine.judged, mine.skipped, mine.flagged, mine.seconds) == (ann.id, 2, 1, 1, 18.0)
    assert mine.last is not None and (world.clock.now - mine.last).total_seconds() == 1
    counted = world.store.counts(project.id)
    assert (counted.items, counted.complete, counted.judgments) == (4, 2, 2)
    assert (counted.skipped, counted.flagged, counted.leased) == (1, 1, 0)


_REST = "said, counts, outcome, shown, blind, guidelines, seconds, policies, client"
_REPLACE = "INSERT OR REPLACE INTO judgments SELECT id + 100, project, item, person"
FORBIDDEN = {
    "update": "UPDATE judgments SET outcome = '{}'",
    "delete": "DELETE FROM judgments",
    "replace by number": "INSERT OR REPLACE INTO judgments SELECT * FROM judgments",
    "replace by key": f"{_REPLACE}, 1, {_REST}, key, extra, supersedes, at FROM judgments",
    "replace the beginning": f"{_REPLACE}, round, {_REST}, 'other', extra, supersedes, at FROM judgments"
    " WHERE supersedes IS NULL",
    "replace a successor": f"{_REPLACE}, round, {_REST}, 'other', extra, supersedes, at FROM judgments"
    " WHERE supersedes IS NOT NULL",
    "truncate": "TRUNCATE judgments",
}


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *(("sqlite", way) for way in FORBIDDEN if way != "truncate"),
        *(("postgresql", way) for way in ("update", "delete", "truncate")),
    ],
    indirect=["kind"],
)
def test_judgments_are_append_only(world: World, way: str) -> None:
    project, ann = world.project(), world.person()
    task = world.task(project, ann)
    world.store.save(world.draft(task, ann))
    world.store.save(world.draft(task, ann, B))
    before = world.store.audit(project.id)
    with pytest.raises(Exception, match="append-only"), world.store._database.writing() as connection:
        connection.execute(text(FORBIDDEN[way]))
    assert world.store.audit(project.id) == before
