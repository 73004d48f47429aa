"""Between the order in which a person saw the answers and the item's own: the one place that turns them.

`shown[0]` is the item's number of the answer that stood first. A page speaks of "first" and "second" and
gives places in the order on the screen; the store speaks of the item's "a" and "b", in the item's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.feedback.records import (
    Compared,
    Edited,
    Flagged,
    Graded,
    Outcome,
    Ranked,
    Skipped,
    Written,
    outcome_json,
    outcome_of_json,
)

_PLACES_ON_SCREEN = ("first", "second")
_STRENGTHS = {None: "better", 1: "slightly better", 2: "clearly better", 3: "much better"}


def in_item_order(kind: str, said: Mapping[str, Any], shown: Sequence[int]) -> Outcome:
    """The outcome that a page means.

    Args:
        kind: `compared`, `ranked`, `skipped` ...
        said: its fields, as the person saw the answers.
        shown: the order in which the person saw them.
    Raises:
        ValueError: it says nothing that an outcome can mean.
    """
    fields = {**said, "kind": kind}
    if kind in ("compared", "edited"):
        fields["preferred"] = _side(fields.get("preferred"), shown)
    if kind == "ranked":
        fields["places"] = _places(fields.get("places"), shown)
    return outcome_of_json(fields)


def as_shown(outcome: Outcome, shown: Sequence[int]) -> dict[str, Any]:
    """The outcome with its `kind`, as the person saw the answers; the inverse of `in_item_order`."""
    fields = outcome_json(outcome)
    if isinstance(outcome, Compared | Edited):
        fields["preferred"] = _on_screen(outcome.preferred, shown)
    if isinstance(outcome, Ranked):
        fields["places"] = [outcome.places[index] for index in shown]
    return fields


def in_words(outcome: Outcome, shown: Sequence[int]) -> str:
    """What the person said, as the person saw the answers."""
    match outcome:
        case Written():
            return "Written"
        case Compared(preferred="tie"):
            return "Tie"
        case Compared(preferred="both_bad"):
            return "Both bad"
        case Compared():
            return f"{_on_screen(outcome.preferred, shown).capitalize()} {_STRENGTHS[outcome.strength]}"
        case Ranked():
            return "Places " + ", ".join(str(outcome.places[index]) for index in shown)
        case Graded():
            return f"Grade {outcome.grade} of 7"
        case Edited():
            return f"{_on_screen(outcome.preferred, shown).capitalize()} better, edited"
        case Skipped():
            return f"Skipped: {outcome.reason}" if outcome.reason else "Skipped"
        case Flagged():
            return f"Flagged: {outcome.reason}"
        case _:
            return "Taken back"


def _side(preferred: object, shown: Sequence[int]) -> object:
    if preferred in ("tie", "both_bad"):
        return preferred
    if preferred not in _PLACES_ON_SCREEN or len(shown) != 2:
        raise ValueError(f"preferred is one of first, second, tie, both_bad, got {preferred!r}")
    return "ab"[shown[_PLACES_ON_SCREEN.index(preferred)]]


def _on_screen(preferred: str, shown: Sequence[int]) -> str:
    return _PLACES_ON_SCREEN[shown.index("ab".index(preferred))] if preferred in ("a", "b") else preferred


def _places(places: object, shown: Sequence[int]) -> tuple[Any, ...]:
    if not isinstance(places, list) or len(places) != len(shown):
        raise ValueError(f"places is a list of {len(shown)} numbers, got {places!r}")
    return tuple(places[shown.index(index)] for index in range(len(shown)))
