"""Several at once: threads of one server, and processes beside each other."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from trimtab.errors import ConflictError, FeedbackError
from trimtab.feedback.records import Compared, Judgment

if TYPE_CHECKING:
    from conftest import Places, World
    from trimtab.feedback.store.facts import Person, Project, Task

R = TypeVar("R")
WORKER = Path(__file__).with_name("worker.py")


def at_once(acts: Sequence[Callable[[], R]]) -> list[R | FeedbackError]:
    """What each gives, all begun together; an error for people is an answer too."""
    barrier = threading.Barrier(len(acts))
    answers: list[Any] = [AssertionError("never answered")] * len(acts)

    def run(number: int, act: Callable[[], R]) -> None:
        barrier.wait()
        try:
            answers[number] = act()
        except FeedbackError as error:
            answers[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def processes_at_once(act: str, place: str, arguments: Sequence[dict[str, Any]]) -> list[Any]:
    """The same with processes; each has opened the store before the first begins."""
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), act, place, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for given in arguments
    ]
    for process in running:
        assert process.stdout and process.stdout.readline() == '"ready"\n'
    for process in running:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return [json.loads(line) for line in said]


def chain_is_whole(world: World, project: Project) -> None:
    """Every chain is a line with one beginning and one end, and the items' counts are right."""
    everything = world.store.audit(project.id)
    by_number = {judgment.id: judgment for judgment in everything}
    superseded = [judgment.supersedes for judgment in everything if judgment.supersedes]
    assert len(set(superseded)) == len(superseded)
    task = {judgment.id: (judgment.person, judgment.item, judgment.round) for judgment in everything}
    assert all(task[j.id] == task[j.supersedes] for j in everything if j.supersedes)
    ends = Counter(task[number] for number in by_number.keys() - set(superseded))
    assert set(ends.values()) <= {1}
    live = Counter(j.item for j in world.store.judgments(project.id, leave_out=()))
    assert [item.judged for item in world.store.items(project.id)] == [
        live[item.id] for item in world.store.items(project.id)
    ]


def held_late(world: World, project: Project, number: int) -> list[tuple[Person, list[Task]]]:
    """People who were each given all items, and whose leases have expired."""
    given = []
    for person in [world.person() for _ in range(number)]:
        given.append((person, world.store.claim(project.id, person.id, 100)))
        world.clock.ahead(minutes=11)
    return given


@pytest.mark.parametrize("overlap", [1, 2])
def test_the_last_open_item_goes_to_as_many_as_it_needs(world: World, overlap: int) -> None:
    project = world.project(items=1, overlap=overlap)
    people = [world.person() for _ in range(6)]
    answers = at_once([lambda who=who: world.store.claim(project.id, who.id, 1) for who in people])
    assert sum(bool(tasks) for tasks in answers) == overlap


def test_claims_at_once_share_out_everything_and_nothing_twice(world: World) -> None:
    project = world.project(items=12, overlap=2)
    people = [world.person() for _ in range(6)]
    answers = at_once([lambda who=who: world.store.claim(project.id, who.id, 5) for who in people])
    given = Counter(task.item for tasks in answers for task in tasks)  # type: ignore[union-attr]
    assert sorted(given.values()) == [2] * 12
    assert max(Counter(t.item for t in tasks).most_common(1)[0][1] for tasks in answers if tasks) == 1  # type: ignore[union-attr]


def test_one_person_in_two_windows_holds_the_same(world: World) -> None:
    project, ann = world.project(items=9), world.person()
    answers = at_once([lambda: world.store.claim(project.id, ann.id, 3)] * 5)
    assert len({tuple(task.item for task in tasks) for tasks in answers}) == 1  # type: ignore[union-attr]
    assert world.store.counts(project.id).leased == 3


def test_the_same_save_sent_twice_at_once(world: World) -> None:
    project, ann = world.project(), world.person()
    draft = world.draft(world.task(project, ann), ann)
    answers = at_once([lambda: world.store.save(draft)] * 6)
    assert world.store.audit(project.id) == [answers[0]]
    assert all(answer == answers[0] for answer in answers)


def test_one_key_with_two_meanings_at_once(world: World) -> None:
    project, ann = world.project(), world.person()
    draft = world.draft(world.task(project, ann), ann)
    other = replace(draft, outcome=Compared(preferred="b"))
    answers = at_once([lambda d=d: world.store.save(d) for d in (draft, other) * 3])
    kept = [answer for answer in answers if isinstance(answer, Judgment)]
    assert len(kept) == 3
    assert len(set(kept)) == 1
    assert [type(answer) for answer in answers if answer not in kept] == [ConflictError] * 3
    assert world.store.audit(project.id) == kept[:1]


def test_many_saves_of_one_person_at_once_make_one_chain(world: World) -> None:
    project, ann = world.project(), world.person()
    task = world.task(project, ann)
    drafts = [world.draft(task, ann) for _ in range(8)]
    answers = at_once([lambda d=d: world.store.save(d) for d in drafts])
    assert all(isinstance(answer, Judgment) for answer in answers)
    assert len(world.store.audit(project.id)) == 8
    assert len(world.store.judgments(project.id)) == 1
    chain_is_whole(world, project)


def test_undo_and_edit_at_once(world: World) -> None:
    project, ann = world.project(items=6), world.person()
    for task in world.store.claim(project.id, ann.id, 6):
        kept = world.store.save(world.draft(task, ann))
        edit = world.draft(task, ann, Compared(preferred="b"), supersedes=kept.id)
        answers = at_once(
            [
                lambda kept=kept: world.store.undo(kept.id, ann.id, key=f"undo {kept.id}"),
                lambda edit=edit: world.store.save(edit),
                lambda edit=edit: world.store.save(replace(edit, key=f"{edit.key} again")),
            ]
        )
        assert sum(isinstance(answer, Judgment) for answer in answers) == 1
        assert sum(isinstance(answer, ConflictError) for answer in answers) == 2
    assert len(world.store.audit(project.id)) == 12
    chain_is_whole(world, project)


def test_late_saves_at_once_are_all_kept_and_one_is_not_extra(world: World) -> None:
    project = world.project(items=20)
    given = held_late(world, project, 5)

    def save_all(person: Person, tasks: list[Task]) -> list[Judgment]:
        return [world.store.save(world.draft(task, person)) for task in tasks]

    answers = at_once([lambda pair=pair: save_all(*pair) for pair in given])
    kept = [judgment for answer in answers for judgment in answer]  # type: ignore[union-attr]
    assert len(kept) == 100
    first = Counter(judgment.item for judgment in kept if not judgment.extra)
    assert first == Counter(item.id for item in world.store.items(project.id))
    assert len(world.store.judgments(project.id)) == 20
    chain_is_whole(world, project)


def test_a_late_save_while_another_claims(world: World) -> None:
    for _ in range(4):
        project, bob = world.project(items=1), world.person()
        ((ann, (task,)),) = held_late(world, project, 1)
        saved, claimed = at_once(
            [
                lambda ann=ann, task=task: world.store.save(world.draft(task, ann)),
                lambda project=project, bob=bob: world.store.claim(project.id, bob.id, 1),
            ]
        )
        assert not saved.extra  # type: ignore[union-attr]
        if claimed:
            assert world.store.save(world.draft(claimed[0], bob)).extra  # type: ignore[index]
        chain_is_whole(world, project)


def test_the_overlap_changes_while_people_claim_and_save(world: World) -> None:
    project = world.project(items=10, overlap=1)
    people = [world.person() for _ in range(4)]

    def work(who: Person) -> list[Judgment]:
        tasks = [task for _ in range(3) for task in world.store.claim(project.id, who.id, 3)]
        unique = {task.item: task for task in tasks}.values()
        return [world.store.save(world.draft(task, who)) for task in unique]

    def change() -> list[Judgment]:
        for overlap in (3, 1, 2):
            world.store.change_project(project.id, overlap=overlap)
        return []

    answers = at_once([*(lambda who=who: work(who) for who in people), change])
    kept = [judgment for answer in answers for judgment in answer]  # type: ignore[union-attr]
    assert len(world.store.audit(project.id)) == len(kept) >= 10
    assert max(Counter(judgment.item for judgment in kept).values()) <= 3
    chain_is_whole(world, project)


def test_imports_at_once_add_each_item_once(world: World) -> None:
    source = world.project(items=60)
    given = [item.content for item in world.store.items(source.id)]
    project = world.project(items=0)
    answers = at_once(
        [lambda n=n: world.store.add_items(project.id, given[:: 1 - 2 * (n % 2)]) for n in range(4)]
    )
    assert sum(answer.new for answer in answers) == 60  # type: ignore[union-attr]
    assert len(world.store.items(project.id)) == 60


def test_processes_at_once(world: World) -> None:
    project = world.project(items=5)
    people = [world.person() for _ in range(3)]
    claims = [{"project": project.id, "person": person.id, "count": 3} for person in people]
    given = processes_at_once("claim", world.place, claims)
    assert sorted(item for items in given for item in items) == [i.id for i in world.store.items(project.id)]
    who, item = next((w, items[0]) for w, items in zip(people, given, strict=True) if items)
    saves = [{"item": item, "person": who.id, "key": "k", "preferred": side} for side in "aab"]
    said = processes_at_once("save", world.place, saves)
    (kept,) = world.store.audit(project.id)
    answers = Counter(said)
    assert answers in (Counter({kept.id: 2, "ConflictError": 1}), Counter({kept.id: 1, "ConflictError": 2}))


def test_processes_that_make_a_store_at_once(new_place: Places) -> None:
    assert processes_at_once("open", new_place(), [{}] * 3) == [0, 0, 0]
