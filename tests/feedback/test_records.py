"""What people can say, what they cannot, and that it goes through JSON unchanged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.feedback.records import (
    ANSWERS,
    Candidate,
    Compared,
    Draft,
    Edited,
    Flagged,
    Graded,
    Item,
    Outcome,
    Ranked,
    Skipped,
    Withdrawn,
    Written,
    check_item,
    check_outcome,
    counts,
    outcome_json,
    outcome_of_json,
    said,
)
from trimtab.records import Message

TEXT = st.text(max_size=20)
SAID = TEXT.filter(str.strip)
OUTCOMES = st.one_of(
    st.builds(Written, response=SAID),
    st.builds(
        Compared,
        preferred=st.sampled_from(["a", "b"]),
        strength=st.sampled_from([None, 1, 2, 3]),
        reason=TEXT,
        comment=TEXT,
    ),
    st.builds(Compared, preferred=st.sampled_from(["tie", "both_bad"]), reason=TEXT),
    st.permutations([1, 1, 2, 3]).map(lambda places: Ranked(places=tuple(places))),
    st.builds(Graded, grade=st.integers(1, 7), comment=TEXT),
    st.builds(Edited, preferred=st.sampled_from(["a", "b"]), response=SAID),
    st.builds(Skipped, reason=TEXT),
    st.builds(Flagged, reason=SAID, comment=TEXT),
    st.just(Withdrawn()),
)
EACH: list[Outcome] = [
    Written(response="yes"),
    Compared(preferred="a"),
    Ranked(places=(1, 2, 3)),
    Graded(grade=4),
    Edited(preferred="b", response="better"),
    Skipped(),
    Flagged(reason="not English"),
    Withdrawn(),
]


@given(OUTCOMES)
def test_an_outcome_survives_json(outcome: Outcome) -> None:
    sent = json.loads(json.dumps(outcome_json(outcome)))
    assert outcome_of_json(sent) == outcome
    assert sent["kind"] == said(outcome)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("compared", "object with `kind`"),
        ({}, "one of written, compared"),
        ({"kind": "Compared", "preferred": "a"}, "one of written, compared"),
        ({"kind": ["compared"]}, "one of written, compared"),
        ({"kind": "compared"}, "needs preferred"),
        ({"kind": "compared", "preferred": "c"}, "preferred is one of a, b, tie, both_bad"),
        ({"kind": "compared", "preferred": ["a"]}, "preferred is one of"),
        ({"kind": "compared", "preferred": "a", "model": "x"}, "has no `model`"),
        ({"kind": "compared", "preferred": "a", "strength": 4}, "from 1 to 3, got 4"),
        ({"kind": "compared", "preferred": "a", "strength": True}, "from 1 to 3, got True"),
        ({"kind": "compared", "preferred": "tie", "strength": 1}, "tie names none"),
        ({"kind": "compared", "preferred": "a", "comment": 3}, "comment must be text, got int"),
        ({"kind": "ranked", "places": [1, 3, 3]}, "without gaps"),
        ({"kind": "ranked", "places": [2, 2, 3]}, "without gaps"),
        ({"kind": "ranked", "places": []}, "tuple of numbers"),
        ({"kind": "ranked", "places": "123"}, "tuple of numbers"),
        ({"kind": "ranked", "places": [1, 0, 2]}, "from 1 to 3, got 0"),
        ({"kind": "graded", "grade": 8}, "from 1 to 7, got 8"),
        ({"kind": "graded", "grade": 3.0}, "from 1 to 7, got 3.0"),
        ({"kind": "written", "response": " \n"}, "response is empty"),
        ({"kind": "edited", "preferred": "tie", "response": "x"}, "preferred is one of a, b"),
        ({"kind": "edited", "preferred": "a", "response": None}, "response must be text, got NoneType"),
        ({"kind": "flagged", "reason": ""}, "reason is empty"),
        ({"kind": "withdrawn", "why": "x"}, "only its kind"),
    ],
)
def test_what_no_outcome_means_is_refused(value: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        outcome_of_json(value)


def test_skips_flags_and_withdrawals_never_count() -> None:
    assert [said(outcome) for outcome in EACH if not counts(outcome)] == ["skipped", "flagged", "withdrawn"]


def test_each_kind_takes_its_own_outcome_and_every_skip() -> None:
    fitting = {"demonstrate": Written, "compare": Compared, "rank": Ranked, "rate": Graded, "edit": Edited}
    for (kind, numbers), outcome in product(ANSWERS.items(), EACH):
        if counts(outcome) and not isinstance(outcome, fitting[kind]):
            with pytest.raises(ValueError, match=f"kind {kind} is .*, not {said(outcome)}"):
                check_outcome(kind, numbers[0], outcome)
        else:
            check_outcome(kind, numbers[0], outcome)


def test_a_ranking_places_every_answer() -> None:
    with pytest.raises(ValueError, match="4 answers have 4 places, got 3"):
        check_outcome("rank", 4, Ranked(places=(1, 2, 3)))


@pytest.mark.parametrize(
    ("kind", "good"),
    [("demonstrate", [0]), ("compare", [2]), ("rank", range(3, 10)), ("rate", [1]), ("edit", [2])],
)
def test_the_number_of_answers_of_each_kind(kind: Any, good: Any) -> None:
    for number in range(12):
        item = Item(prompt="q", answers=tuple(Candidate(text=str(index)) for index in range(number)))
        if number in good:
            check_item(kind, item)
        else:
            with pytest.raises(ValueError, match=f"this one {number}"):
                check_item(kind, item)


def test_gold_must_fit_the_kind() -> None:
    answers = (Candidate(text="a"), Candidate(text="b"))
    check_item("compare", Item(prompt="q", answers=answers, gold=Compared(preferred="b")))
    with pytest.raises(ValueError, match="kind compare is compared, not graded"):
        check_item("compare", Item(prompt="q", answers=answers, gold=Graded(grade=1)))
    with pytest.raises(ValueError, match="a gold outcome answers"):
        Item(prompt="q", gold=Skipped())


def test_an_item_needs_a_prompt_that_waits_for_an_answer() -> None:
    with pytest.raises(ValueError, match="ends with an assistant message"):
        Item(prompt=(Message("assistant", "hello"),))


def test_the_digest_is_of_what_is_seen_and_who_wrote_it() -> None:
    item = Item(
        prompt=(Message("user", "q"),), answers=(Candidate(text="a", source="s"),), context=("passage",)
    )
    same = replace(
        item,
        gold=Graded(grade=1),
        keywords=("k",),
        answers=(Candidate(text="a", source="s", policy_hash="h"),),
    )
    assert same.digest == item.digest
    others = [
        replace(item, prompt="user: q"),
        replace(item, answers=(Candidate(text="a", source="t"),)),
        replace(item, answers=(Candidate(text="as", source=""),)),
        replace(item, context=()),
        replace(item, prompt="\ud800"),
    ]
    assert len({item.digest, *(other.digest for other in others)}) == 6


DRAFT: dict[str, Any] = {
    "item": 1,
    "person": 1,
    "outcome": Skipped(),
    "shown": (1, 0),
    "blind": True,
    "guidelines": 0,
    "seconds": 1.0,
    "key": "k",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"shown": (0, 0)},
        {"shown": (1, 2)},
        {"shown": [0, 1]},
        {"shown": (False, True)},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"seconds": math.inf},
        {"seconds": "1"},
        {"round": 2},
        {"blind": 1},
        {"key": ""},
        {"key": "k" * 101},
        {"key": "a\0b"},
        {"client": "a\ud800"},
    ],
)
def test_a_draft_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    Draft(**DRAFT)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Draft(**{**DRAFT, **wrong})
