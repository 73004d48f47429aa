"""What was pressed is what is stored: terms of the screen into the item's order, for every order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.feedback.records import (
    Compared,
    Edited,
    Flagged,
    Graded,
    Outcome,
    Ranked,
    Skipped,
    Withdrawn,
    Written,
)
from trimtab.web.shown import as_shown, in_item_order, in_words


def stored(said: dict[str, Any], shown: tuple[int, ...]) -> Outcome:
    fields = dict(said)
    return in_item_order(fields.pop("kind"), fields, shown)


@pytest.mark.parametrize(
    ("shown", "pressed", "preferred"),
    [
        ((0, 1), "first", "a"),
        ((0, 1), "second", "b"),
        ((1, 0), "first", "b"),
        ((1, 0), "second", "a"),
        ((1, 0), "tie", "tie"),
        ((1, 0), "both_bad", "both_bad"),
    ],
)
def test_sides(shown: tuple[int, int], pressed: str, preferred: str) -> None:
    found = in_item_order("compared", {"preferred": pressed, "comment": "c"}, shown)
    assert isinstance(found, Compared)
    assert (found.preferred, found.comment) == (preferred, "c")
    if preferred in "ab":
        edited = in_item_order("edited", {"preferred": pressed, "response": "r"}, shown)
        assert edited == Edited(preferred=preferred, response="r")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", range(3, 7))
def test_places_by_hand_for_every_order(number: int) -> None:
    """Answer `i` of the item stands at `shown.index(i)` and gets what was given there."""
    given = list(range(1, number + 1))
    for shown in permutations(range(number)):
        found = in_item_order("ranked", {"places": given}, shown)
        assert isinstance(found, Ranked)
        for position, index in enumerate(shown):
            assert found.places[index] == given[position]


@st.composite
def outcomes_with_orders(draw: st.DrawFn) -> tuple[Outcome, tuple[int, ...]]:
    number = draw(st.integers(3, 9))
    drawn = draw(st.lists(st.integers(0, number - 1), min_size=number, max_size=number))
    levels = sorted(set(drawn))
    ranked = Ranked(places=tuple(levels.index(value) + 1 for value in drawn))
    words = st.text(min_size=1).filter(str.strip)
    outcome = draw(
        st.one_of(
            st.builds(
                Compared, preferred=st.sampled_from(["a", "b"]), strength=st.integers(1, 3), comment=words
            ),
            st.builds(Compared, preferred=st.sampled_from(["tie", "both_bad"])),
            st.builds(Edited, preferred=st.sampled_from(["a", "b"]), response=words),
            st.builds(Graded, grade=st.integers(1, 7), comment=words),
            st.builds(Written, response=words),
            st.builds(Skipped, reason=words),
            st.builds(Flagged, reason=words, comment=words),
            st.just(ranked),
        )
    )
    answers = number if isinstance(outcome, Ranked) else 2 if isinstance(outcome, Compared | Edited) else 1
    return outcome, tuple(draw(st.permutations(range(answers))))


@given(outcomes_with_orders())
def test_there_and_back(case: tuple[Outcome, tuple[int, ...]]) -> None:
    outcome, shown = case
    assert stored(as_shown(outcome, shown), shown) == outcome


@given(outcomes_with_orders())
def test_in_words_names_no_side_of_the_item(case: tuple[Outcome, tuple[int, ...]]) -> None:
    outcome, shown = case
    assert in_words(outcome, shown)


def test_words() -> None:
    assert in_words(Compared(preferred="a", strength=2), (1, 0)) == "Second clearly better"
    assert in_words(Ranked(places=(1, 3, 2)), (2, 0, 1)) == "Places 2, 1, 3"
    assert in_words(Withdrawn(), (0, 1)) == "Taken back"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("compared", {"preferred": "a"}),  # the item's own name: a page that mixes the two is refused
        ("compared", {"preferred": ["first"]}),
        ("compared", {}),
        ("compared", {"preferred": "first", "more": 1}),
        ("compared", {"preferred": "tie", "strength": 1}),
        ("edited", {"preferred": "tie", "response": "r"}),
        ("ranked", {"places": [1]}),
        ("ranked", {"places": "12"}),
        ("ranked", {"places": [1, True]}),
        ("ranked", {"places": [1, float("nan")]}),
        ("graded", {"grade": 8}),
        ("flagged", {}),
        ("nothing", {}),
    ],
)
def test_refused(kind: str, said: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        in_item_order(kind, said, (1, 0))
