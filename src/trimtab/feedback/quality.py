"""How good judgments are: agreement of people with each other, with themselves, and with what is known.

`quality` is a pure function over records. First judgments of items that are not gold tell agreement, extra
ones too; gold items tell accuracy, repeats tell self-consistency. Formulas: docs/feedback.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, Any

from trimtab.feedback.records import Item, Judgment, Kind, Outcome, counts, said
from trimtab.feedback.suspicion import Check, adjust, disagreement_tests, side_tests
from trimtab.feedback.votes import degrees, first_shown_won, labels, likeness, longer_won
from trimtab.statistics.agreement import Ratings, nominal_alpha, ordinal_alpha
from trimtab.statistics.anomalies import OUTLYING, robust_z
from trimtab.statistics.intervals import Interval
from trimtab.statistics.paired import sign_test
from trimtab.statistics.rates import score_interval

if TYPE_CHECKING:
    from trimtab.feedback.store.facts import StoredItem
    from trimtab.feedback.store.store import Store

ROUNDS = 1_000
"""Of the bootstraps of alpha."""
SHORTEST = 0.1
"""Seconds: what took less is taken as this, since zero has no logarithm."""

Alpha = Callable[..., Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Two people on the items that both judged."""

    first: str
    second: str
    agreement: Interval
    """Over items; `n` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Whether the side decides: sides are drawn at random, so that 50 % is the truth of every fair person."""

    first: int
    """Decided votes for what was shown first."""
    second: int
    share: Interval
    """Of the first, among both."""
    p_value: float
    """Exact, two-sided: how often a coin is as far from even."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Time on task, of answers."""

    median: float
    """Seconds."""
    fast: int
    """Answers that took far less time than those of all: robust z of log seconds below -3.5."""
    slow: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """One person. A measure is None where there is nothing to measure it by; `n` counts what it rests on."""

    person: int
    name: str
    judgments: int
    """First answers to items that are not gold, extras among them."""
    extra: int
    gold: int
    repeats: int
    skipped: int
    flagged: int
    agreement: Interval | None
    """With everyone else, over the items that others judged too."""
    gold_accuracy: Interval | None
    consistency: Interval | None
    """Of repeats with the person's own first answer."""
    side: Side | None
    longer: Interval | None
    """Share of decided first votes for the longer answer."""
    pace: Pace | None
    checks: tuple[Check, ...]

    @property
    def suspicious(self) -> bool:
        """Whether a check says so."""
        return any(check.suspicious for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A project's judgments."""

    project: str
    kind: Kind
    items: int
    """With a first answer; gold items not counted."""
    shared: int
    """Of these, with two or more: what agreement rests on."""
    judgments: int
    """First answers to these."""
    agreement: Interval | None
    """Share of agreeing pairs of people, averaged over the shared items."""
    alpha_nominal: Interval | None
    alpha_ordinal: Interval | None
    """Krippendorff's; None where nothing is shared, or only one thing was ever said."""
    longer: Interval | None
    between: tuple[Between, ...]
    annotators: tuple[Annotator, ...]

    def as_json(self) -> dict[str, Any]:
        """For JSON: numbers, texts and None."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Given:
    """Everything, sorted by what it can tell."""

    items: Mapping[int, Item]
    first: tuple[Judgment, ...]
    """Answers, round 0, not gold."""
    gold: tuple[Judgment, ...]
    repeats: tuple[Judgment, ...]
    answers: tuple[Judgment, ...]
    """All of these."""
    other: tuple[Judgment, ...]
    """Skipped and flagged."""

    @property
    def shared(self) -> dict[int, dict[int, Outcome]]:
        """Item -> person -> first answer, for items that two or more judged."""
        by_item: dict[int, dict[int, Outcome]] = {}
        for one in self.first:
            by_item.setdefault(one.item, {})[one.person] = one.outcome
        return {item: said for item, said in by_item.items() if len(said) > 1}


def project_quality(store: Store, project: int) -> Quality:
    """The quality of one project, as it stands."""
    found = store.project(project)
    return quality(
        store.items(project),
        store.judgments(project, leave_out=()),
        kind=found.settings.kind,
        project=found.name,
        names={person.id: person.name for person in store.people()},
    )


def quality(
    items: Iterable[StoredItem],
    judgments: Sequence[Judgment],
    *,
    kind: Kind,
    project: str = "",
    names: Mapping[int, str] | None = None,
    seed: int = 0,
) -> Quality:
    """Every measure.

    Args:
        judgments: live ones of one project, skipped, flagged and extra ones too.
        names: person -> name; the number where it is not known.
        seed: of the bootstraps.
    """
    given = _sorted(items, judgments)
    shared = given.shared
    people = {person: (names or {}).get(person, str(person)) for person in _people(judgments)}
    agreements = [_agreement_on(said.values()) for said in shared.values()]
    return Quality(
        project=project,
        kind=kind,
        items=len({one.item for one in given.first}),
        shared=len(shared),
        judgments=len(given.first),
        agreement=_rate(agreements),
        alpha_nominal=_alpha(shared, labels, nominal_alpha, seed),
        alpha_ordinal=_alpha(shared, degrees, ordinal_alpha, seed),
        longer=_rate([longer_won(one.outcome, given.items[one.item]) for one in given.first]),
        between=_between(shared, people),
        annotators=_annotators(given, shared, people),
    )


def _sorted(items: Iterable[StoredItem], judgments: Sequence[Judgment]) -> _Given:
    contents = {item.id: item.content for item in items}
    answers = [one for one in judgments if counts(one.outcome)]
    gold = {number for number, item in contents.items() if item.gold is not None}
    return _Given(
        items=contents,
        first=tuple(one for one in answers if not one.round and one.item not in gold),
        gold=tuple(one for one in answers if not one.round and one.item in gold),
        repeats=tuple(one for one in answers if one.round),
        answers=tuple(answers),
        other=tuple(one for one in judgments if not counts(one.outcome)),
    )


def _people(judgments: Sequence[Judgment]) -> list[int]:
    return sorted({one.person for one in judgments})


def _rate(values: Iterable[float | bool | None]) -> Interval | None:
    """The mean of those that are known, with its score interval; None where none is."""
    known = [float(value) for value in values if value is not None]
    return score_interval(known) if known else None


def _agreement_on(outcomes: Iterable[Outcome]) -> float | None:
    """The mean likeness of pairs of people on one item."""
    pairs = [likeness(one, other) for one, other in combinations(outcomes, 2)]
    known = [value for value in pairs if value is not None]
    return sum(known) / len(known) if known else None


def _alpha(
    shared: Mapping[int, Mapping[int, Outcome]],
    read: Callable[[Outcome], tuple[str | int, ...]],
    alpha: Alpha,
    seed: int,
) -> Interval | None:
    """Krippendorff's alpha of what `read` finds in each answer; items are drawn whole in its bootstrap.

    Who said what plays no part in alpha, so that the rows are first, second ... answers, not people.
    """
    units = [
        (item, question)
        for item, outcomes in shared.items()
        for question in zip(*(read(outcome) for outcome in outcomes.values()), strict=True)
    ]
    if len({label for _, question in units for label in question}) < 2:
        return None
    rows = max(len(question) for _, question in units)
    ratings: Ratings = [
        [question[row] if row < len(question) else None for _, question in units] for row in range(rows)
    ]
    return alpha(ratings, seed=seed, rounds=ROUNDS, clusters=[item for item, _ in units])


def _between(shared: Mapping[int, Mapping[int, Outcome]], people: Mapping[int, str]) -> tuple[Between, ...]:
    """Every two people with an item in common."""
    alike: dict[tuple[int, int], list[float]] = {}
    for outcomes in shared.values():
        for first, second in combinations(sorted(outcomes), 2):
            value = likeness(outcomes[first], outcomes[second])
            if value is not None:
                alike.setdefault((first, second), []).append(value)
    return tuple(
        Between(first=people[first], second=people[second], agreement=score_interval(values))
        for (first, second), values in sorted(alike.items())
    )


def _annotators(
    given: _Given, shared: Mapping[int, Mapping[int, Outcome]], people: Mapping[int, str]
) -> tuple[Annotator, ...]:
    paces = _paces(given.answers)
    sides = {
        person: [won for one in _of(given.answers, person) if (won := first_shown_won(one)) is not None]
        for person in people
    }
    tests = [test for person in people for test in side_tests(person, sides[person])]
    checks = adjust([*tests, *disagreement_tests(list(shared.values()))])
    return tuple(
        _annotator(
            given,
            person,
            name,
            agreement=_with_others(shared, person),
            side=_side(sides[person]),
            pace=paces.get(person),
            checks=checks.get(person, ()),
        )
        for person, name in people.items()
    )


def _annotator(
    given: _Given,
    person: int,
    name: str,
    *,
    agreement: Interval | None,
    side: Side | None,
    pace: Pace | None,
    checks: tuple[Check, ...],
) -> Annotator:
    first, gold = _of(given.first, person), _of(given.gold, person)
    repeats, other = _of(given.repeats, person), [said(one.outcome) for one in _of(given.other, person)]
    before = {one.item: one.outcome for one in (*first, *gold)}
    return Annotator(
        person=person,
        name=name,
        judgments=len(first),
        extra=sum(one.extra for one in first),
        gold=len(gold),
        repeats=len(repeats),
        skipped=other.count("skipped"),
        flagged=other.count("flagged"),
        agreement=agreement,
        gold_accuracy=_rate(_likeness_to_gold(one, given.items[one.item]) for one in gold),
        consistency=_rate(likeness(one.outcome, before[one.item]) for one in repeats if one.item in before),
        side=side,
        longer=_rate(longer_won(one.outcome, given.items[one.item]) for one in first),
        pace=pace,
        checks=checks,
    )


def _of(judgments: Sequence[Judgment], person: int) -> list[Judgment]:
    return [one for one in judgments if one.person == person]


def _likeness_to_gold(judgment: Judgment, item: Item) -> float | None:
    return None if item.gold is None else likeness(judgment.outcome, item.gold)


def _with_others(shared: Mapping[int, Mapping[int, Outcome]], person: int) -> Interval | None:
    """Over items: the mean likeness of a person's answer to those of all others."""
    values = []
    for outcomes in shared.values():
        if person in outcomes:
            pairs = [likeness(outcomes[person], said) for other, said in outcomes.items() if other != person]
            known = [value for value in pairs if value is not None]
            values += [sum(known) / len(known)] if known else []
    return _rate(values)


def _side(first_won: Sequence[bool]) -> Side | None:
    if not first_won:
        return None
    first, second = sum(first_won), len(first_won) - sum(first_won)
    p_value = sign_test(first, second).p_value
    return Side(first=first, second=second, share=score_interval(first_won), p_value=p_value)


def _paces(answers: Sequence[Judgment]) -> dict[int, Pace]:
    """Each person's, measured against the times of all people together."""
    scores = robust_z([math.log(max(one.seconds, SHORTEST)) for one in answers])
    far = [0.0] * len(answers) if scores is None else scores.tolist()
    times: dict[int, list[tuple[float, float]]] = {}
    for one, score in zip(answers, far, strict=True):
        times.setdefault(one.person, []).append((one.seconds, score))
    return {
        person: Pace(
            median=median(seconds for seconds, _ in mine),
            fast=sum(score < -OUTLYING for _, score in mine),
            slow=sum(score > OUTLYING for _, score in mine),
        )
        for person, mine in times.items()
    }
