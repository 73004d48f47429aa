"""The one place where the larger of two numbers wins."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.judges.verdicts import verdict_from_scores
from trimtab.records import Comparison

PAIR = Comparison(prompt="A prime: ", a="7", b="9")
SCORES = st.floats(allow_nan=False)


@pytest.mark.parametrize(
    ("score_a", "score_b", "preferred"),
    [(1.0, 0.5, "a"), (-2.0, -1.0, "b"), (0.5, 0.5, "tie"), (0.0, -0.0, "tie"), (math.inf, 1e308, "a")],
)
def test_the_higher_score_wins(score_a: float, score_b: float, preferred: str) -> None:
    assert verdict_from_scores(PAIR, score_a, score_b, judge="r").preferred == preferred


@given(SCORES, SCORES)
def test_the_order_of_the_two_does_not_matter(score_a: float, score_b: float) -> None:
    swapped = Comparison(prompt=PAIR.prompt, a=PAIR.b, b=PAIR.a)
    one = verdict_from_scores(PAIR, score_a, score_b, judge="r").preferred
    other = verdict_from_scores(swapped, score_b, score_a, judge="r").preferred
    assert other == {"a": "b", "b": "a", "tie": "tie"}[one]


def test_identical_texts_are_a_tie_whatever_their_scores() -> None:
    same = Comparison(prompt="A prime: ", a="7", b="7")
    assert verdict_from_scores(same, 1.0, 1.0 + 1e-7, judge="r").preferred == "tie"


@pytest.mark.parametrize(("score_a", "score_b"), [(math.nan, 1.0), (1.0, math.nan), (math.nan, math.nan)])
def test_nan_is_refused(score_a: float, score_b: float) -> None:
    with pytest.raises(ValueError, match="a score is NaN"):
        verdict_from_scores(PAIR, score_a, score_b, judge="r")


def test_the_verdict_says_who_and_when() -> None:
    verdict = verdict_from_scores(PAIR, 1.0, 0.0, judge="runs/judge")
    assert verdict.judge == "runs/judge"
    assert abs(datetime.now(UTC) - datetime.fromisoformat(verdict.at)) < timedelta(minutes=1)
    assert (verdict.strength, verdict.shown) == (None, None)
