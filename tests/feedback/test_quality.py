"""Quality of judgments against the krippendorff package, scipy, hand-made cases and simulated people."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import combinations, count
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from trimtab.feedback.quality import Annotator, Quality, quality
from trimtab.feedback.records import (
    Candidate,
    Compared,
    Edited,
    Flagged,
    Graded,
    Item,
    Judgment,
    Kind,
    Outcome,
    Ranked,
    Skipped,
    Written,
)
from trimtab.feedback.store.facts import Settings, StoredItem
from trimtab.feedback.store.store import open_store

NUMBERS = count(1)
A, B = Compared(preferred="a"), Compared(preferred="b")
TIE, BAD = Compared(preferred="tie"), Compared(preferred="both_bad")


def item(number: int, lengths: Sequence[int] = (3, 5), gold: Outcome | None = None) -> StoredItem:
    answers = tuple(Candidate(text="x" * length) for length in lengths)
    return StoredItem(id=number, project=1, content=Item(prompt="p", answers=answers, gold=gold), judged=0)


def judged(item: int, person: int, outcome: Outcome, **more: Any) -> Judgment:
    number = next(NUMBERS)
    answers = len(outcome.places) if isinstance(outcome, Ranked) else 2
    values: dict[str, Any] = {
        "id": number, "item": item, "project": 1, "person": person, "outcome": outcome,
        "shown": tuple(range(answers)), "blind": True, "guidelines": 0, "seconds": 4.0,
        "policies": ("",) * answers, "client": "", "key": str(number), "round": 0, "extra": False,
        "supersedes": None, "at": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    return Judgment(**{**values, **more})


def of_table(table: Sequence[Sequence[Outcome | None]], kind: Kind = "compare", **more: Any) -> Quality:
    """Rows are people, columns items."""
    said = [
        judged(number, person, outcome)
        for person, row in enumerate(table, 1)
        for number, outcome in enumerate(row, 1)
        if outcome is not None
    ]
    return quality([item(number) for number in range(1, len(table[0]) + 1)], said, kind=kind, **more)


def person(found: Quality, number: int) -> Annotator:
    (one,) = [one for one in found.annotators if one.person == number]
    return one


def theirs(matrix: np.ndarray, scale: str) -> float:
    """The package's alpha of [raters, units]; units with one rating are none of its business."""
    paired = matrix[:, (~np.isnan(matrix)).sum(axis=0) > 1]
    return float(krippendorff.alpha(reliability_data=paired, level_of_measurement=scale))


def vary(matrix: np.ndarray) -> bool:
    paired = matrix[:, (~np.isnan(matrix)).sum(axis=0) > 1]
    return len(set(paired[~np.isnan(paired)])) > 1


COMPARED = st.builds(
    lambda preferred, strength: Compared(
        preferred=preferred, strength=strength if preferred in ("a", "b") else None
    ),
    st.sampled_from(["a", "b", "tie", "both_bad"]),
    st.sampled_from([None, 1, 2, 3]),
)


@given(st.integers(2, 4).flatmap(
    lambda people: st.lists(
        st.lists(st.none() | COMPARED, min_size=people, max_size=people), min_size=1, max_size=8
    )
))  # fmt: skip
@settings(max_examples=60)
def test_alpha_of_comparisons_is_the_packages(items: list[list[Compared | None]]) -> None:
    table = [list(row) for row in zip(*items, strict=True)]
    nominal = {"a": 0, "b": 1, "tie": 2, "both_bad": 3}
    ordinal = {
        ("b", 3): -3, ("b", 2): -2, ("b", None): -2, ("b", 1): -1, ("tie", None): 0, ("both_bad", None): 0,
        ("a", 1): 1, ("a", 2): 2, ("a", None): 2, ("a", 3): 3,
    }  # fmt: skip
    found = of_table(table)
    for alpha, scale, code in (
        (found.alpha_nominal, "nominal", lambda one: nominal[one.preferred]),
        (found.alpha_ordinal, "ordinal", lambda one: ordinal[one.preferred, one.strength]),
    ):
        matrix = np.array([[np.nan if one is None else code(one) for one in row] for row in table], float)
        if vary(matrix):
            assert alpha is not None and alpha.estimate == pytest.approx(theirs(matrix, scale), abs=1e-9)
            assert alpha.n == found.shared and alpha.low <= alpha.high
        else:
            assert alpha is None


RANKED = st.lists(st.integers(1, 3), min_size=3, max_size=3).map(
    lambda places: Ranked(places=tuple(sorted(set(places)).index(place) + 1 for place in places))
)


@given(st.lists(st.lists(st.none() | RANKED, min_size=3, max_size=3), min_size=1, max_size=6))
@settings(max_examples=40)
def test_alpha_of_rankings_is_of_pairs_and_of_places(items: list[list[Ranked | None]]) -> None:
    table = [list(row) for row in zip(*items, strict=True)]
    found = of_table(table, "rank")
    pairs = [
        [
            np.nan if one is None else float(np.sign(one.places[j] - one.places[i]))
            for one in row
            for i, j in combinations(range(3), 2)
        ]
        for row in table
    ]
    places = [[np.nan if one is None else one.places[i] for one in row for i in range(3)] for row in table]
    for alpha, scale, rows in (
        (found.alpha_nominal, "nominal", pairs),
        (found.alpha_ordinal, "ordinal", places),
    ):
        matrix = np.array(rows, float)
        assume(vary(matrix))
        assert alpha is not None and alpha.estimate == pytest.approx(theirs(matrix, scale), abs=1e-9)
        assert alpha.n == found.shared  # items are drawn, not their pairs


def test_alpha_of_grades_is_the_packages() -> None:
    grades = [[1, 2, 7, None, 4, 5], [2, 2, 6, 3, None, 5], [1, 3, 7, None, None, 2]]
    found = of_table([[None if g is None else Graded(grade=g) for g in row] for row in grades], "rate")
    matrix = np.array(grades, float)
    assert found.alpha_nominal and found.alpha_ordinal
    assert found.alpha_nominal.estimate == pytest.approx(theirs(matrix, "nominal"), abs=1e-9)
    assert found.alpha_ordinal.estimate == pytest.approx(theirs(matrix, "ordinal"), abs=1e-9)


def test_a_case_by_hand() -> None:
    """Agreement by item: 1/3, 1, 0; alpha from its coincidences: observed 1/2 + ... written out below."""
    found = of_table([[A, B, A, TIE], [A, B, BAD, None], [B, None, None, None]])
    assert (found.items, found.shared, found.judgments) == (4, 3, 8)
    assert found.agreement and found.agreement.estimate == pytest.approx((1 / 3 + 1 + 0) / 3)
    # Coincidences: item 1 gives aa 1, ab 1, ba 1; item 2 gives bb 2; item 3 gives a-bad 1, bad-a 1.
    # Totals a 3, b 3, bad 1 of 7; observed apart 4; expected apart (7^2 - 9 - 9 - 1) / 6 = 5.
    assert found.alpha_nominal and found.alpha_nominal.estimate == pytest.approx(1 - 4 / 5)
    shares = {(one.first, one.second): one.agreement for one in found.between}
    assert {pair: share.estimate for pair, share in shares.items()} == {
        ("1", "2"): 2 / 3, ("1", "3"): 0, ("2", "3"): 0
    }  # fmt: skip
    assert shares["1", "2"].n == 3
    mine = person(found, 1).agreement
    assert mine and mine.estimate == pytest.approx((1 / 2 + 1 + 0) / 3) and mine.n == 3


def test_strength_is_no_disagreement_and_grades_may_be_one_apart() -> None:
    strong, weak = Compared(preferred="a", strength=3), Compared(preferred="a", strength=1)
    assert of_table([[strong], [weak]]).agreement.estimate == 1  # type: ignore[union-attr]
    grades = [[Graded(grade=grade) for grade in row] for row in ([3, 3], [4, 5])]
    assert of_table(grades, "rate").agreement.estimate == 0.5  # type: ignore[union-attr]


def test_rankings_agree_by_their_pairs() -> None:
    found = of_table([[Ranked(places=(1, 2, 3))], [Ranked(places=(1, 3, 2))]], "rank")
    assert found.agreement and found.agreement.estimate == pytest.approx(2 / 3)


@pytest.mark.parametrize("table", [[[A, B]], [[A, None], [None, B]], [[A], [A]]])
def test_what_cannot_be_measured_is_none(table: list[list[Compared | None]]) -> None:
    found = of_table(table)
    assert found.alpha_nominal is None and found.alpha_ordinal is None
    assert (found.agreement is None) == (found.shared == 0)


def test_an_empty_project_has_no_measures() -> None:
    found = quality([item(1)], [], kind="compare")
    assert (found.judgments, found.annotators, found.agreement, found.longer) == (0, (), None, None)


def test_gold_items_tell_accuracy_and_nothing_else() -> None:
    items = [item(1, gold=A), item(2, gold=B), item(3, gold=TIE), item(4)]
    said = [judged(1, 1, A), judged(2, 1, A), judged(3, 1, TIE), judged(4, 1, A), judged(1, 2, B)]
    found = quality(items, said, kind="compare")
    one, two = person(found, 1), person(found, 2)
    assert one.gold_accuracy and two.gold_accuracy
    assert (one.gold_accuracy.estimate, one.gold_accuracy.n, one.gold) == (2 / 3, 3, 3)
    assert (two.gold_accuracy.estimate, two.gold_accuracy.n) == (0, 1)
    assert (one.judgments, two.judgments, found.shared) == (1, 0, 0)


def test_repeats_of_gold_items_tell_self_consistency_alone() -> None:
    said = [judged(1, 1, A), judged(1, 1, B, round=1)]
    one = person(quality([item(1, gold=A)], said, kind="compare"), 1)
    assert one.gold_accuracy and one.consistency
    assert (one.gold_accuracy.n, one.gold_accuracy.estimate, one.consistency.estimate) == (1, 1, 0)


def test_repeats_tell_self_consistency_and_nothing_else() -> None:
    said = [
        judged(1, 1, A), judged(2, 1, B), judged(3, 1, TIE), judged(1, 2, A), judged(2, 2, B),
        judged(1, 1, A, round=1), judged(2, 1, A, round=1), judged(3, 1, BAD, round=1),
    ]  # fmt: skip
    found = quality([item(number) for number in range(1, 4)], said, kind="compare")
    one = person(found, 1)
    assert one.consistency and one.consistency.estimate == pytest.approx(1 / 3) and one.consistency.n == 3
    assert (one.judgments, one.repeats) == (3, 3)
    assert found.agreement and found.agreement.estimate == 1
    assert person(found, 2).consistency is None


def test_skips_and_flags_are_counted_and_never_votes() -> None:
    said = [judged(1, 1, A), judged(1, 2, Skipped()), judged(2, 2, Flagged(reason="spam")), judged(1, 3, A)]
    found = quality([item(1), item(2)], said, kind="compare")
    assert (person(found, 2).skipped, person(found, 2).flagged, person(found, 2).judgments) == (1, 1, 0)
    assert person(found, 2).pace is None
    assert (found.judgments, found.items, found.shared) == (2, 1, 1)


def test_extra_answers_tell_agreement_too() -> None:
    found = quality([item(1)], [judged(1, 1, A), judged(1, 2, B, extra=True)], kind="compare")
    assert found.agreement and found.agreement.estimate == 0
    assert (person(found, 1).extra, person(found, 2).extra) == (0, 1)


def test_the_side_is_what_was_shown_first() -> None:
    said = [
        judged(1, 1, A, shown=(0, 1)),
        judged(2, 1, A, shown=(1, 0)),
        judged(3, 1, B, shown=(1, 0)),
        judged(4, 1, TIE, shown=(0, 1)),
        judged(5, 1, B, shown=(1, 0), round=1),
    ]
    found = person(quality([item(number) for number in range(1, 6)], said, kind="compare"), 1).side
    assert found and (found.first, found.second, found.share.estimate) == (3, 1, 0.75)
    assert found.p_value == pytest.approx(stats.binomtest(3, 4).pvalue)


def test_the_side_of_a_ranking_is_first_against_last() -> None:
    said = [
        judged(1, 1, Ranked(places=(1, 2, 3)), shown=(0, 1, 2)),
        judged(2, 1, Ranked(places=(1, 2, 3)), shown=(2, 0, 1)),
        judged(3, 1, Ranked(places=(1, 2, 1)), shown=(0, 1, 2)),
    ]
    items = [item(number, (3, 9, 5)) for number in range(1, 4)]
    found = quality(items, said, kind="rank")
    side = person(found, 1).side
    assert side and (side.first, side.second) == (1, 1)
    # The longest is the second answer, the shortest the first, who is above it every time.
    assert found.longer and (found.longer.estimate, found.longer.n) == (0, 3)


def test_the_longer_answer_in_characters() -> None:
    items = [item(1, (3, 5)), item(2, (3, 5)), item(3, (4, 4)), item(4, (9, 1))]
    said = [
        judged(1, 1, B),
        judged(2, 1, A),
        judged(3, 1, A),
        judged(4, 1, Edited(preferred="a", response="r")),
    ]
    found = quality(items, [*said, judged(1, 1, B, round=1)], kind="compare")
    assert found.longer and found.longer.estimate == pytest.approx(2 / 3) and found.longer.n == 3


def test_answers_far_from_the_usual_time_are_counted() -> None:
    seconds = [*np.geomspace(4, 16, 21), 0.01, 900]
    said = [
        judged(number, 1 if number < 22 else 2, A, seconds=float(time))
        for number, time in enumerate(seconds, 1)
    ]
    found = quality([item(number) for number in range(1, 24)], said, kind="compare")
    one, two = person(found, 1).pace, person(found, 2).pace
    assert one and two
    assert (one.fast, one.slow, one.median) == (0, 0, pytest.approx(8))
    assert (two.fast, two.slow, two.median) == (1, 1, pytest.approx(450.005))


def test_what_people_write_has_counts_and_times_alone() -> None:
    items = [item(1, ()), item(2, ())]
    said = [judged(number, who, Written(response="r"), shown=()) for number in (1, 2) for who in (1, 2)]
    found = quality(items, said, kind="demonstrate")
    assert (found.judgments, found.shared, found.agreement, found.alpha_nominal) == (4, 2, None, None)
    assert person(found, 1).side is None and person(found, 1).pace is not None


def simulated(seed: int, *, people: int, items: int, overlap: int, habits: Mapping[int, Any]) -> Quality:
    """Honest people see which answer is better four times in five; `habits` says otherwise for some."""
    draw = random.Random(seed)
    said = []
    for number in range(1, items + 1):
        for who in draw.sample(range(1, people + 1), overlap):
            shown = draw.choice([(0, 1), (1, 0)])
            better = number % 2 if draw.random() < 0.8 else 1 - number % 2
            chosen = habits[who](draw, shown) if who in habits else better
            said.append(judged(number, who, Compared(preferred="ab"[chosen]), shown=shown))
    return quality([item(number) for number in range(1, items + 1)], said, kind="compare")


def suspects(found: Quality) -> dict[int, set[str]]:
    return {
        one.person: {check.name for check in one.checks if check.suspicious}
        for one in found.annotators
        if one.suspicious
    }


@pytest.mark.parametrize(
    ("overlap", "test"), [(2, "agrees in pairs"), (3, "odd one out")], ids=["two judge", "three judge"]
)
def test_who_clicks_at_random_agrees_too_seldom(overlap: int, test: str) -> None:
    found = simulated(
        1, people=6, items=300, overlap=overlap, habits={4: lambda draw, shown: draw.randrange(2)}
    )
    assert suspects(found) == {4: {test}}


def test_the_odd_one_out_by_hand() -> None:
    """Ten items of three: person 3 stands alone on seven of them, all agree on two, all differ on one."""
    table = [[A] * 7 + [A, A, A], [A] * 7 + [A, A, B], [B] * 7 + [A, A, TIE]]
    checks = {
        one.person: {check.name: check for check in one.checks}["odd one out"]
        for one in of_table(table).annotators
    }
    # Where one stands alone it is as likely any of the three; elsewhere nobody is below the average.
    assert checks[3].p_value == pytest.approx((1 / 3) ** 7)
    assert checks[1].p_value == 1
    assert checks[3].what == "agreed less than average on 7 of 10 items; by chance on 2.3"


def test_who_always_takes_the_first_is_found_by_side_and_run() -> None:
    found = simulated(2, people=4, items=100, overlap=1, habits={2: lambda draw, shown: shown[0]})
    assert suspects(found) == {2: {"side", "run"}}
    checks = {check.name: check for check in person(found, 2).checks}
    n = person(found, 2).judgments
    assert checks["side"].p_value == pytest.approx(stats.binomtest(n, n).pvalue)
    assert checks["run"].p_value == pytest.approx(2.0 ** (1 - n))
    assert checks["side"].what == f"chose what was shown first {n} times in {n}"


def test_honest_people_are_seldom_named() -> None:
    """At most one project in twenty by design: three of sixty; nine would be far too many."""
    named = sum(bool(suspects(simulated(s, people=4, items=40, overlap=3, habits={}))) for s in range(60))
    assert named < 9


def test_p_values_are_adjusted_for_all_tests_together() -> None:
    found = simulated(3, people=5, items=60, overlap=3, habits={})
    checks = [check for one in found.annotators for check in one.checks]
    smallest = min(checks, key=lambda check: check.p_value)
    assert len(checks) == 15  # side, run and odd one out, five people
    assert smallest.adjusted == pytest.approx(min(1, 15 * smallest.p_value))


def test_few_votes_are_not_tested() -> None:
    found = quality([item(n) for n in range(1, 10)], [judged(n, 1, A) for n in range(1, 10)], kind="compare")
    assert person(found, 1).checks == ()


def test_as_json_is_json() -> None:
    found = simulated(0, people=3, items=20, overlap=2, habits={})
    text = json.dumps(found.as_json(), allow_nan=False)
    back = json.loads(text)
    assert back["alpha_nominal"]["estimate"] == found.alpha_nominal.estimate  # type: ignore[union-attr]
    assert len(back["annotators"]) == 3 and back["kind"] == "compare"


def test_a_project_of_a_store(tmp_path: Any) -> None:
    from trimtab.feedback.quality import project_quality
    from trimtab.feedback.records import Draft

    with open_store(tmp_path / "feedback.sqlite") as store:
        project = store.create_project("films", Settings(kind="compare", overlap=2))
        answers = (Candidate(text="one"), Candidate(text="another"))
        store.add_items(project.id, [Item(prompt=f"p{n}", answers=answers) for n in range(3)])
        for name, outcomes in (("mara", (A, B, Skipped())), ("noor", (A, A, TIE))):
            who = store.add_person(name)
            tasks = sorted(store.claim(project.id, who.id, 3), key=lambda task: task.item)
            for task, outcome in zip(tasks, outcomes, strict=True):
                store.save(
                    Draft(
                        item=task.item, person=who.id, outcome=outcome, shown=task.shown, blind=True,
                        guidelines=0, seconds=1.0, key=f"{name} {task.item}",
                    )
                )  # fmt: skip
        found = project_quality(store, project.id)
    assert (found.project, found.kind, found.judgments, found.shared) == ("films", "compare", 5, 2)
    assert found.agreement and found.agreement.estimate == 0.5
    assert [one.name for one in found.annotators] == ["mara", "noor"]
    assert found.annotators[0].skipped == 1
