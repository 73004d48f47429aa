"""Agreement of judges counted by hand, whichever way round their files put the answers."""

from __future__ import annotations

import json

import pytest

from trimtab.errors import DataError
from trimtab.evaluation.agreement import (
    agreement,
    agreement_json,
    agreement_rows,
    alpha_sentence,
    votes_of,
)
from trimtab.records import Comparison, Preferred, Verdict


def judged(*verdicts: tuple[str, str, Preferred]) -> list[Comparison]:
    return [
        Comparison(prompt=f"about {a[-1]}", a=a, b=b, verdict=Verdict(preferred=preferred))
        for a, b, preferred in verdicts
    ]


PEOPLE = judged(("x1", "y1", "a"), ("x2", "y2", "a"), ("x3", "y3", "b"), ("x4", "y4", "tie"))
SWAPPED = judged(("y1", "x1", "b"), ("y2", "x2", "a"), ("y3", "x3", "a"), ("y4", "x4", "tie"))


def test_sides_may_be_swapped_between_files() -> None:
    found = agreement({"people": votes_of(PEOPLE), "model": votes_of(SWAPPED)})
    (between,) = found.between
    assert (between.first, between.second, between.share.n) == ("people", "model", 4)
    assert between.share.estimate == 0.75  # on x2 against y2 they differ
    # People say x, x, y, tie; the model x, y, y, tie: by chance (2*1 + 1*2 + 1*1) / 16.
    assert between.kappa is not None
    assert between.kappa.estimate == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    assert found.comparisons == 4 and found.alpha is not None


def test_what_only_one_judged_counts_for_nobody() -> None:
    more = [*PEOPLE, *judged(("x5", "y5", "a")), Comparison(prompt="about 6", a="x6", b="y6")]
    found = agreement({"people": votes_of(more), "model": votes_of(SWAPPED[:2]), "third": votes_of(PEOPLE)})
    assert [one.share.n for one in found.between] == [2, 4, 2]
    assert found.comparisons == 4


def test_the_same_comparison_twice_is_matched_in_order() -> None:
    twice = judged(("x1", "y1", "a"), ("x1", "y1", "b"))
    (between,) = agreement({"one": votes_of(twice), "other": votes_of(twice)}).between
    assert between.share.estimate == 1.0 and between.share.n == 2


def test_one_answer_only_leaves_kappa_undefined() -> None:
    same = votes_of(judged(("x1", "y1", "a"), ("x2", "y2", "a")))
    found = agreement({"one": same, "other": same})
    assert found.alpha is None and found.between[0].kappa is None
    assert agreement_rows(found)[1][-1] == "undefined: one answer only"
    assert "undefined" in alpha_sentence(found)
    assert json.loads(agreement_json(found))["between"][0]["share"]["estimate"] == 1.0


def test_files_of_other_comparisons_are_refused() -> None:
    with pytest.raises(DataError, match="no judged comparison in common"):
        agreement({"one": votes_of(PEOPLE), "other": votes_of(judged(("x9", "y9", "a")))})
