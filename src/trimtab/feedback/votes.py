"""What judgments say in numbers: labels that can agree, sides, and lengths. Pure functions over records.

Skipped, flagged and withdrawn say nothing here, and what people write is not compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from trimtab.feedback.records import Compared, Edited, Graded, Item, Judgment, Outcome, Ranked
from trimtab.records import Comparison, Preferred, Verdict

UNSAID_STRENGTH = 2
"""Where nobody said how much better an answer is: clearly, the middle of the three."""
CLOSE_GRADES = 1
"""Grades up to so far apart count as the same."""


def labels(outcome: Outcome) -> tuple[str | int, ...]:
    """What was said, one label a question, in the same order for everybody who judged the item.

    A comparison is one question: a, b, tie or both_bad. A ranking is one for each two answers: a, b or tie.
    """
    if isinstance(outcome, Compared | Edited):
        return (outcome.preferred,)
    if isinstance(outcome, Graded):
        return (outcome.grade,)
    if isinstance(outcome, Ranked):
        return tuple(preferred for _, _, preferred in implied(outcome))
    return ()


def degrees(outcome: Outcome) -> tuple[int, ...]:
    """What was said as numbers, of which only the order counts.

    A comparison runs from b strongly (-3) over a tie (0) to a strongly (3); that both are bad prefers
    neither, and is 0 as well. A ranking gives the place of each answer.
    """
    if isinstance(outcome, Compared):
        strength = UNSAID_STRENGTH if outcome.strength is None else outcome.strength
        return ({"a": strength, "b": -strength}.get(outcome.preferred, 0),)
    if isinstance(outcome, Edited):
        return (1 if outcome.preferred == "a" else -1,)
    if isinstance(outcome, Graded):
        return (outcome.grade,)
    return outcome.places if isinstance(outcome, Ranked) else ()


def implied(outcome: Ranked) -> list[tuple[int, int, Preferred]]:
    """Each two answers of a ranking, by their indices in the item, and which is better."""
    return [(i, j, _better(outcome.places[i], outcome.places[j])) for i, j in _pairs(len(outcome.places))]


def likeness(one: Outcome, other: Outcome) -> float | None:
    """How far two people say the same of an item, from 0 to 1; None where that cannot be said.

    1 or 0 for the same answer preferred (strength aside) and for grades at most `CLOSE_GRADES` apart; of two
    rankings the share of pairs of answers in the same order.
    """
    if isinstance(one, Graded) and isinstance(other, Graded):
        return float(abs(one.grade - other.grade) <= CLOSE_GRADES)
    first, second = labels(one), labels(other)
    if not first or len(first) != len(second):
        return None
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def first_shown_won(judgment: Judgment) -> bool | None:
    """Whether the answer that was shown first was preferred; None where neither was.

    Of a ranking: whether what was shown first stands above what was shown last.
    """
    places = _places(judgment.outcome)
    if places is None:
        return None
    first, last = places[judgment.shown[0]], places[judgment.shown[-1]]
    return None if first == last else first < last


def longer_won(outcome: Outcome, item: Item) -> bool | None:
    """Whether the longer answer (of a ranking: the longest, against the shortest) was preferred.

    In characters; None where neither was preferred, and where which is longer cannot be said.
    """
    places = _places(outcome)
    lengths = [len(answer.text) for answer in item.answers]
    if places is None or len(set(lengths)) < 2:
        return None
    longest, shortest = max(lengths), min(lengths)
    if lengths.count(longest) > 1 or lengths.count(shortest) > 1:
        return None
    long, short = places[lengths.index(longest)], places[lengths.index(shortest)]
    return None if long == short else long < short


def majority(preferences: Iterable[Preferred]) -> Preferred:
    """What was said most often; a tie where two things were said equally often.

    Raises:
        ValueError: nobody said anything.
    """
    said = list(preferences)
    if not said:
        raise ValueError("a majority of nobody")
    counts = {one: said.count(one) for one in said}
    most = [one for one, count in counts.items() if count == max(counts.values())]
    return most[0] if len(most) == 1 else "tie"


def pair_of(item: Item, first: int, second: int, verdict: Verdict | None, *, group: str = "") -> Comparison:
    """Two of an item's answers as a comparison."""
    a, b = item.answers[first], item.answers[second]
    return Comparison(
        prompt=item.prompt,
        a=a.text,
        b=b.text,
        verdict=verdict,
        source_a=a.source,
        source_b=b.source,
        stopped_a=a.stopped,
        stopped_b=b.stopped,
        group=group,
    )


def _places(outcome: Outcome) -> tuple[int, ...] | None:
    """The place of each answer, 1 the better one; None where nobody is preferred or there is one answer."""
    if isinstance(outcome, Ranked):
        return outcome.places
    if isinstance(outcome, Compared | Edited) and outcome.preferred in ("a", "b"):
        return (1, 2) if outcome.preferred == "a" else (2, 1)
    return None


def _better(first: int, second: int) -> Preferred:
    return "tie" if first == second else "a" if first < second else "b"


def _pairs(answers: int) -> Iterable[tuple[int, int]]:
    return combinations(range(answers), 2)
