"""Projects, guidelines, items, and texts that come back as they went in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trimtab.errors import ConflictError, FeedbackError, NotFoundError
from trimtab.feedback.records import Candidate, Compared, Edited, Graded, Item
from trimtab.feedback.store.facts import Settings
from trimtab.feedback.store.texts import dump, dump_item, load_item
from trimtab.records import Message

if TYPE_CHECKING:
    from conftest import World


def test_a_project(world: World) -> None:
    chosen = Settings(kind="rank", overlap=3, gold_share=0.1, repeat_share=0.05)
    made = world.store.create_project("Helpful?", chosen, guidelines="Be fair.")
    assert (made.name, made.settings, made.guidelines) == ("Helpful?", chosen, 1)
    assert world.store.projects() == [made] == [world.store.project_named("helpful?")]
    assert world.store.project(made.id) == made
    assert world.store.guidelines(made.id, 1).text == "Be fair."
    assert world.store.guidelines(made.id, 1).at == world.clock.now
    with pytest.raises(ConflictError, match="a project of this name"):
        world.store.create_project("HELPFUL?", chosen)
    with pytest.raises(NotFoundError, match="no such project"):
        world.store.project(10**20)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"kind": "chat"}, "kind is one of demonstrate"),
        ({"overlap": 0}, "from 1 to 1000, got 0"),
        ({"overlap": 1.5}, "from 1 to 1000"),
        ({"overlap": True}, "from 1 to 1000"),
        ({"gold_share": 0.6}, "gold_share is a number from 0 to 0.5"),
        ({"repeat_share": float("nan")}, "repeat_share is a number"),
        ({"gold_share": True}, "gold_share is a number"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Settings(**{"kind": "compare", **wrong})


def test_settings_change_in_the_middle_of_the_work(world: World) -> None:
    project = world.project(overlap=1)
    changed = world.store.change_project(project.id, overlap=4, repeat_share=0.2)
    assert changed == world.store.project(project.id)
    assert changed.settings == Settings(kind="compare", overlap=4, repeat_share=0.2)
    for wrong in ({"overlap": 0}, {"kind": "rate"}, {"overlaps": 2}):
        with pytest.raises(FeedbackError, match="cannot be changed like this"):
            world.store.change_project(project.id, **wrong)  # type: ignore[arg-type]
    assert world.store.project(project.id) == changed


def test_guidelines_keep_their_versions(world: World) -> None:
    project = world.project()
    assert project.guidelines == 0
    texts = ["# One\r\n\t漢字 \U0001f600", "two"]
    assert [world.store.set_guidelines(project.id, text) for text in [texts[0], texts[0], *texts[1:]]] == [
        1,
        1,
        2,
    ]
    assert [world.store.guidelines(project.id, version).text for version in (1, 2)] == texts
    assert world.store.project(project.id).guidelines == 2
    with pytest.raises(NotFoundError, match="no such version"):
        world.store.guidelines(project.id, 3)
    for bad in ("a\0b", "a\udc80b"):
        with pytest.raises(FeedbackError, match="character 2"):
            world.store.set_guidelines(project.id, bad)


def test_an_import_twice_adds_nothing(world: World) -> None:
    project = world.project(items=0)
    given = [Item(prompt=f"q{n}", answers=(Candidate(text="a"), Candidate(text="b"))) for n in range(1203)]
    first = world.store.add_items(project.id, [*given[:700], given[3]])
    assert (first.new, len(first.ids), first.ids[3]) == (700, 701, first.ids[700])
    both = world.store.add_items(project.id, given)
    assert (both.new, both.ids[:700]) == (503, first.ids[:700])
    stored = world.store.items(project.id)
    assert [item.content for item in stored] == given
    assert tuple(item.id for item in stored) == both.ids
    assert world.store.item(both.ids[5]) == stored[5]
    elsewhere = world.project(items=0)
    assert world.store.add_items(elsewhere.id, given[:2]).new == 2, "projects share nothing"


def test_an_import_is_checked_before_anything_is_written(world: World) -> None:
    project = world.project(items=0)
    good = [Item(prompt=f"q{n}", answers=(Candidate(text="a"), Candidate(text="b"))) for n in range(600)]
    with pytest.raises(FeedbackError, match=r"item 601 for .*\n.*has 2 answers, this one 0"):
        world.store.add_items(project.id, [*good, Item(prompt="q")])
    assert world.store.items(project.id) == []


# Two halves side by side are one character for JSON; alone, each comes back.
ANY_TEXT = st.text(st.characters(codec=None), max_size=30).filter(
    lambda text: text == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
HOSTILE = [
    "\0",
    "a\0b\x1b[2J",
    "\ud800",
    "\udfff x \ud83d",
    "\U0001f600",
    "'; DROP TABLE judgments; --",
    "<script>alert(1)</script>",
    "\\u0000 \\ud800",
    "\u2028\u202e\ufeff",
    '"\\',
    "é e\u0301",
    "\r\n",
]


@given(ANY_TEXT, ANY_TEXT)
@example("\\", "ud800")
def test_every_text_survives_being_stored(first: str, second: str) -> None:
    item = Item(
        prompt=(Message("system", first), Message("user", second)),
        answers=(Candidate(text=second, source=first, policy_hash=second, stopped=False),),
        context=(first, second),
        gold=Graded(grade=3, comment=first),
        keywords=(second,),
    )
    stored = dump_item(item)
    assert "\0" not in stored
    assert stored.encode()
    assert load_item(stored) == item
    assert load_item(stored).digest == item.digest


def test_hostile_texts_through_the_database(world: World) -> None:
    project = world.project(items=0, kind="edit")
    ann = world.person()
    given = [
        Item(
            prompt=text or "empty",
            answers=(Candidate(text=text, policy_hash=text), Candidate(text=f"{text}.{text}", source=text)),
            context=(text,),
            keywords=(text,),
        )
        for text in HOSTILE
    ]
    world.store.add_items(project.id, given)
    tasks = world.store.claim(project.id, ann.id, len(given))
    assert [task.content for task in tasks] == given
    for task, text in zip(tasks, HOSTILE, strict=True):
        world.store.save(world.draft(task, ann, Edited(preferred="a", response=f"x{text}")))
    kept = world.store.judgments(project.id)
    assert [judgment.outcome for judgment in kept] == [
        Edited(preferred="a", response=f"x{text}") for text in HOSTILE
    ]
    assert [judgment.policies for judgment in kept] == [(text, "") for text in HOSTILE]


def test_two_halves_side_by_side_become_their_character() -> None:
    assert dump("\ud83d\ude00") == '"\\ud83d\\ude00"'
    stored = load_item(dump_item(Item(prompt="\ud83d\ude00")))
    assert stored.prompt == "\U0001f600"
    assert stored.digest == Item(prompt="\ud83d\ude00").digest


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=50))
def test_looking_for_any_name_is_no_error(world: World, name: str) -> None:
    assert world.store.person_named(name) is None
    assert world.store.project_named(name) is None
    assert world.store.find_session(name) is None


def test_gold_is_kept_with_the_item(world: World) -> None:
    project = world.project(items=0)
    gold = Compared(preferred="b", strength=3)
    answers = (Candidate(text="a"), Candidate(text="b"))
    world.store.add_items(project.id, [Item(prompt="q", answers=answers, gold=gold)])
    assert world.store.items(project.id)[0].content.gold == gold
