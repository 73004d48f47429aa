"""Who gets which items, in which order, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from trimtab.errors import FeedbackError, NotFoundError
from trimtab.feedback.records import Compared, Flagged, Skipped
from trimtab.feedback.store.claiming import shown_order
from trimtab.feedback.store.facts import Task

if TYPE_CHECKING:
    from conftest import World


def numbers(tasks: Iterable[Task]) -> list[int]:
    return [task.item for task in tasks]


def test_a_reload_gives_the_same_tasks_in_the_same_order_and_sides(world: World) -> None:
    project, ann = world.project(items=8), world.person()
    first = world.store.claim(project.id, ann.id, 3)
    world.clock.ahead(minutes=9)
    again = world.store.claim(project.id, ann.id, 5)
    assert [(task.item, task.shown) for task in again[:3]] == [(task.item, task.shown) for task in first]
    assert len(set(numbers(again))) == 5
    assert {task.expires for task in again} == {world.clock.now + timedelta(minutes=10)}
    assert numbers(world.store.claim(project.id, ann.id, 2)) == numbers(first)[:2]


def test_nobody_is_given_what_another_holds_until_it_expires(world: World) -> None:
    project, ann, bob = world.project(items=3), world.person(), world.person()
    held = world.store.claim(project.id, ann.id, 2)
    assert not set(numbers(held)) & set(numbers(world.store.claim(project.id, bob.id, 9)))
    world.clock.ahead(minutes=10)
    assert len(world.store.claim(project.id, bob.id, 9)) == 3
    assert world.store.claim(project.id, ann.id, 9) == []


def test_claiming_again_renews(world: World) -> None:
    project, ann, bob = world.project(items=1), world.person(), world.person()
    for _ in range(3):
        assert len(world.store.claim(project.id, ann.id, 1)) == 1
        world.clock.ahead(minutes=9)
        assert world.store.claim(project.id, bob.id, 1) == []


def test_items_near_completion_come_first(world: World) -> None:
    project = world.project(items=4, overlap=3)
    people = [world.person() for _ in range(3)]
    first, second, third, fourth = numbers(world.store.claim(project.id, people[0].id, 4))
    tasks = {task.item: task for task in world.store.claim(project.id, people[1].id, 4)}
    for person, item in [(0, third), (1, third), (0, second)]:
        task = replace(tasks[item], shown=(0, 1))
        world.store.save(world.draft(task, people[person]))
    world.clock.ahead(hours=1)
    assert numbers(world.store.claim(project.id, people[2].id, 9)) == [third, second, first, fourth]


def test_the_overlap_counts_answers_and_leases_of_others(world: World) -> None:
    project = world.project(items=1, overlap=2)
    ann, bob, cleo = (world.person() for _ in range(3))
    world.store.save(world.draft(world.task(project, ann), ann))
    assert world.store.claim(project.id, ann.id, 1) == []
    assert len(world.store.claim(project.id, bob.id, 1)) == 1
    assert world.store.claim(project.id, cleo.id, 1) == []
    world.store.change_project(project.id, overlap=3)
    assert len(world.store.claim(project.id, cleo.id, 1)) == 1


@pytest.mark.parametrize("outcome", [Skipped(reason="no idea"), Flagged(reason="not English")])
def test_a_skip_leaves_the_item_to_the_others_and_is_not_shown_again(
    world: World, outcome: Skipped | Flagged
) -> None:
    project, ann, bob = world.project(items=1), world.person(), world.person()
    world.store.save(world.draft(world.task(project, ann), ann, outcome))
    world.clock.ahead(hours=1)
    assert world.store.claim(project.id, ann.id, 1) == []
    assert len(world.store.claim(project.id, bob.id, 1)) == 1


def test_who_holds_the_last_place_may_go_on_when_the_overlap_was_lowered(world: World) -> None:
    project = world.project(items=1, overlap=2)
    ann, bob = world.person(), world.person()
    task, _ = world.task(project, ann), world.task(project, bob)
    world.store.change_project(project.id, overlap=1)
    assert len(world.store.claim(project.id, bob.id, 1)) == 1
    world.store.save(world.draft(task, ann))
    assert world.store.claim(project.id, bob.id, 1) == [], "it is complete"


def test_sides_are_random_and_each_order_as_likely(world: World) -> None:
    for answers in (2, 3):
        drawn = Counter(shown_order(1, item, 1, 0, answers) for item in range(3000))
        expected = 3000 / len(list(permutations(range(answers))))
        squares = sum((drawn[order] - expected) ** 2 / expected for order in permutations(range(answers)))
        assert squares < 20.5, drawn  # chi squared: 1 in 1000 with 5 degrees of freedom
    first = [shown_order(1, item, 1, 0, 2) for item in range(200)]
    for seed, person, round in ((1, 2, 0), (2, 1, 0), (1, 1, 1)):
        other = [shown_order(seed, item, person, round, 2) for item in range(200)]
        assert 60 < sum(a == b for a, b in zip(first, other, strict=True)) < 140


def test_the_order_of_the_answers_can_be_asked_for_at_any_time(world: World) -> None:
    project, people = world.project(items=20, overlap=3), [world.person() for _ in range(3)]
    for person in people:
        for task in world.store.claim(project.id, person.id, 20):
            for _ in range(2):  # from the database, then from memory
                assert world.store.shown(task.item, person.id, 0) == task.shown
    item = world.store.claim(project.id, people[0].id, 1)[0].item
    assert len({world.store.shown(item, person, round) for person in range(20) for round in (0, 1)}) == 2
    with pytest.raises(NotFoundError, match="no such item"):
        world.store.shown(10**6, people[0].id, 0)


@pytest.mark.parametrize("count", [0, -1, 101])
def test_the_size_of_a_claim_is_bounded(world: World, count: int) -> None:
    with pytest.raises(FeedbackError, match="1 to 100 tasks"):
        world.store.claim(world.project().id, world.person().id, count)


def test_a_claim_in_nowhere(world: World) -> None:
    with pytest.raises(NotFoundError, match="no such project"):
        world.store.claim(99, world.person().id, 1)
    with pytest.raises(NotFoundError, match="no such person"):
        world.store.claim(world.project().id, 99, 1)


def work(world: World, project: int, people: list[int], each: int) -> list[tuple[int, Task]]:
    """Everybody claims ten and answers them until each has done so many, or nothing is left."""
    done: list[tuple[int, Task]] = []
    for person in people:
        mine = 0
        while mine < each and (tasks := world.store.claim(project, person, min(10, each - mine))):
            for task in tasks:
                world.store.save(world.draft(task, world.store.person(person)))
                done.append((person, task))
            mine += len(tasks)
    return done


def test_gold_items_and_repeats_are_mixed_in_at_their_shares(world: World) -> None:
    project = world.project(items=150, gold_share=0.2, repeat_share=0.2)
    golden = [replace(item.content, prompt=f"gold {n}", gold=Compared(preferred="a"))
              for n, item in enumerate(world.store.items(project.id)[:60])]  # fmt: skip
    gold = set(world.store.add_items(project.id, golden).ids)
    people = [world.person().id for _ in range(2)]
    done = work(world, project.id, people, 100)
    for person in people:
        mine = [task for who, task in done if who == person]
        repeats = [task.item for task in mine if task.round == 1]
        assert 10 <= sum(task.item in gold for task in mine if task.round == 0) <= 32
        assert 8 <= len(repeats) <= 32
        assert len(set(repeats)) == len(repeats), "something was repeated twice"
        order = [(task.item, task.round) for task in mine]
        assert len(set(order)) == len(order)
        for place, (item, round) in enumerate(order):
            assert round == 0 or place - order.index((item, 0)) > 10, "repeated too early"
    fresh = [task.item for _, task in done if task.round == 0 and task.item not in gold]
    assert len(set(fresh)) == len(fresh), "an item was answered beyond the overlap"
    shared = [{task.item for who, task in done if who == person} & gold for person in people]
    assert shared[0] & shared[1], "gold items are for everyone"


def test_at_the_end_gold_items_are_not_poured_out(world: World) -> None:
    project = world.project(items=10, gold_share=0.3)
    gold = [replace(item.content, prompt=f"gold {item.id}", gold=Compared(preferred="a"))
            for item in world.store.items(project.id)]  # fmt: skip
    world.store.add_items(project.id, gold)
    done = work(world, project.id, [world.person().id], 100)
    assert sum(task.content.gold is None for _, task in done) == 10
    assert sum(task.content.gold is not None for _, task in done) < 9


def test_a_project_of_gold_items_alone_gives_them_to_everyone(world: World) -> None:
    project = world.project(items=0)
    some = world.project(items=5)
    gold = [replace(item.content, gold=Compared(preferred="a")) for item in world.store.items(some.id)]
    world.store.add_items(project.id, gold)
    for person in (world.person(), world.person()):
        assert len(work(world, project.id, [person.id], 100)) == 5
    assert [judgment.extra for judgment in world.store.judgments(project.id)] == [False] * 10
    world.store.add_items(project.id, [replace(gold[0], prompt="fresh", gold=None)])
    assert len(work(world, project.id, [world.person().id], 100)) == 1, "a share of 0 mixes none in"


def test_what_is_left_for_a_person(world: World) -> None:
    project, ann, bob = world.project(items=4, overlap=1), world.person(), world.person()
    tasks = world.store.claim(project.id, ann.id, 3)
    assert (world.store.left(project.id, ann.id), world.store.left(project.id, bob.id)) == (4, 1)
    world.store.save(world.draft(tasks[0], ann))
    world.store.save(world.draft(tasks[1], ann, Skipped()))
    assert (world.store.left(project.id, ann.id), world.store.left(project.id, bob.id)) == (2, 2)
