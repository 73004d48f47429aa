"""Whether a person judges unlike people who read and think: four tests, adjusted for how many are made.

Two ask whether the side decides. Sides are drawn at random for each task, so that the first answer wins as a
coin falls, whatever the answers are: these tests are exact. Two ask whether a person agrees with the others
less than the others do among themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

from trimtab.feedback.records import Outcome
from trimtab.feedback.votes import likeness
from trimtab.statistics.anomalies import at_least_p, fewer_p, longest_run_p
from trimtab.statistics.paired import holm, sign_test

LEAST = 10
"""Votes, or items shared with others, below which a person is not tested."""
SUSPICIOUS = 0.05
"""Adjusted p-value below which a person is named: one in twenty projects of honest people names anybody."""
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One test of one person."""

    name: str
    what: str
    """What was seen, in words."""
    p_value: float
    adjusted: float
    """By Holm, for all tests of all people of the project."""
    suspicious: bool


@dataclass(frozen=True, slots=True)
class Raw:
    """A test before the others are known."""

    person: int
    name: str
    what: str
    p_value: float


def adjust(tests: Sequence[Raw]) -> dict[int, tuple[Check, ...]]:
    """The tests of each person."""
    found: dict[int, tuple[Check, ...]] = {}
    for test, adjusted in zip(tests, holm([test.p_value for test in tests]), strict=True):
        check = Check(
            name=test.name,
            what=test.what,
            p_value=test.p_value,
            adjusted=adjusted,
            suspicious=adjusted < SUSPICIOUS,
        )
        found[test.person] = (*found.get(test.person, ()), check)
    return found


def side_tests(person: int, first_won: Sequence[bool]) -> Iterator[Raw]:
    """Whether the sides of a person's decided votes, in the order of voting, could be a coin's."""
    votes, first = len(first_won), sum(first_won)
    if votes < LEAST:
        return
    said = f"chose what was shown first {first} times in {votes}"
    yield Raw(person, "side", said, sign_test(first, votes - first).p_value)
    run = max(len(list(same)) for _, same in groupby(first_won))
    said = f"chose the same side {run} times in a row, in {votes} votes"
    yield Raw(person, "run", said, longest_run_p(votes, run))


def disagreement_tests(items: Sequence[Mapping[int, Outcome]]) -> Iterator[Raw]:
    """Who agrees with others too seldom.

    Args:
        items: what each person said of one item, for items that two or more judged.
    """
    likely = [_agreements(said) for said in items]
    yield from _odd_ones_out([one for one in likely if len(one) > 2])
    yield from _odd_partners([one for one in likely if len(one) == 2])


def _agreements(said: Mapping[int, Outcome]) -> dict[int, float]:
    """Person -> mean likeness to the others on one item; nothing where what was said cannot be compared."""
    sums = dict.fromkeys(said, 0.0)
    for one, other in combinations(said, 2):
        alike = likeness(said[one], said[other])
        if alike is None:
            return {}
        sums[one] += alike
        sums[other] += alike
    return {person: total / (len(said) - 1) for person, total in sums.items()}


def _odd_ones_out(items: Sequence[Mapping[int, float]]) -> Iterator[Raw]:
    """Items of three or more: were all alike, each of an item's people would as likely be one who agrees less
    than its average."""
    seen: dict[int, list[tuple[bool, float]]] = {}
    for agreements in items:
        average = sum(agreements.values()) / len(agreements)
        odd = {person: value < average - ROUNDING for person, value in agreements.items()}
        for person, apart in odd.items():
            seen.setdefault(person, []).append((apart, sum(odd.values()) / len(odd)))
    for person, bits in seen.items():
        if len(bits) >= LEAST:
            hits, chances = sum(apart for apart, _ in bits), [chance for _, chance in bits]
            said = f"agreed less than average on {hits} of {len(bits)} items; by chance on {sum(chances):.1f}"
            yield Raw(person, "odd one out", said, at_least_p(chances, hits))


def _odd_partners(items: Sequence[Mapping[int, float]]) -> Iterator[Raw]:
    """Items of two, who are equally far from each other: those of one person against those of all others."""
    values = [next(iter(agreements.values())) for agreements in items]
    average = sum(values) / len(values) if values else 0.0
    agreed = [value >= average - ROUNDING for value in values]
    for person in sorted({person for agreements in items for person in agreements}):
        mine = [bit for bit, agreements in zip(agreed, items, strict=True) if person in agreements]
        rest = len(items) - len(mine)
        if len(mine) >= LEAST and rest >= LEAST:
            said = (
                f"agreed with one other on {sum(mine)} of {len(mine)} items, where the others agreed "
                f"with each other on {sum(agreed) - sum(mine)} of {rest}"
            )
            yield Raw(person, "agrees in pairs", said, fewer_p(sum(mine), len(mine), sum(agreed), len(items)))
