"""Counts and rates, by hand."""

from __future__ import annotations

import pytest

from trimtab.judges.both_orders import Judgment, OrderVerdict, Outcome, combined
from trimtab.judges.llm_report import JudgeReport, Tokens, Traffic, report
from trimtab.judges.llm_settings import LLMJudgeSettings
from trimtab.judges.questions import Choice
from trimtab.judges.replies import Reply
from trimtab.records import Comparison, Preferred, Verdict

PAIR = Comparison(prompt="p", a="x", b="y")
NONE = Tokens(input=0, output=0, uncounted=0)


def outcome(choice: Choice | None, at: str = "2026-01-01T00:00:00+00:00") -> Outcome:
    reply = Reply(text="", finish="stop", input_tokens=None, output_tokens=None, at=at)
    return Outcome(choice, "" if choice else "silent", (reply,), False)


def judged(ab: Choice | None, ba: Choice | None, earlier: Preferred | None = None) -> Judgment:
    """`ab` and `ba`: what was said with that order shown."""
    pair = PAIR.judged(Verdict(preferred=earlier)) if earlier else PAIR
    return combined(pair, [outcome(ab), outcome(ba)], "j")


def reported(*judgments: Judgment) -> JudgeReport:
    traffic = Traffic(
        questions=0, from_cache=0, requests=0, retries=0, asked_again=0, tokens=NONE, new_tokens=NONE
    )
    return report(judgments, traffic, LLMJudgeSettings(model="m"))


@pytest.mark.parametrize(
    ("ab", "ba", "preferred"),
    [
        ("1", "2", "a"),
        ("2", "1", "b"),
        ("TIE", "TIE", "tie"),
        ("1", "1", "tie"),
        ("2", "2", "tie"),
        ("1", "TIE", "tie"),
        ("TIE", "1", "tie"),
    ],
)
def test_two_orders_make_one_verdict(ab: Choice, ba: Choice, preferred: str) -> None:
    one = judged(ab, ba)
    assert one.verdict and (one.verdict.preferred, one.verdict.shown, one.reason) == (preferred, None, "")


@pytest.mark.parametrize(("ab", "ba"), [(None, "1"), ("1", None), (None, None)])
def test_a_missing_order_leaves_no_verdict(ab: Choice | None, ba: Choice | None) -> None:
    one = judged(ab, ba)
    assert one.verdict is None and "silent" in one.reason
    assert not one.read and not one.consistent and not one.flipped


def test_the_verdict_is_as_late_as_its_later_half() -> None:
    one = combined(PAIR, [outcome("1", "2026-01-02T00:00:00+00:00"), outcome("2")], "j")
    assert one.verdict and one.verdict.at == "2026-01-02T00:00:00+00:00"


def test_an_order_has_a_verdict_or_a_failure() -> None:
    with pytest.raises(ValueError):
        OrderVerdict(shown="ab", verdict=None, failure="", replies=(), from_cache=False)


def test_the_whole_report() -> None:
    same = combined(Comparison(prompt="p", a="x", b="x", verdict=Verdict(preferred="a")), [], "j")
    made = reported(
        judged("1", "2", "a"),  # a, as before
        judged("2", "1", "a"),  # b, other than before
        judged("1", "1", "b"),  # flips to the first: tie
        judged("1", "1"),
        judged("2", "2"),  # flips to the second: tie
        judged("1", "TIE"),
        judged("TIE", "TIE"),
        judged("1", None, "a"),
        same,
    )
    assert (made.comparisons, made.identical, made.agreed, made.inconsistent, made.left_out) == (
        9,
        1,
        3,
        4,
        1,
    )
    assert (made.preferred_a, made.preferred_b, made.ties) == (1, 1, 6)
    assert made.self_consistency and made.self_consistency.text() == wilson_by_hand(3, 7)
    # singles with a winner: 1 of 2, 1 of 2, 2 of 2, 2 of 2, 0 of 2, 1 of 1
    assert made.first_shown and made.first_shown.text() == wilson_by_hand(7, 11)
    assert made.flips_to_first and made.flips_to_first.text() == wilson_by_hand(2, 3)
    assert made.agreement and made.agreement.text() == wilson_by_hand(1, 2)
    assert made.tied_where_decided == 2
    text = "\n".join(made.lines())
    assert "gave 8 of 9 verdicts: 1 for a, 1 for b, 6 ties (4 because" in text and "1 left out" in text
    for rate in (made.self_consistency, made.first_shown, made.flips_to_first, made.agreement):
        assert rate.percent().split(" ")[0] in text


def wilson_by_hand(successes: int, n: int) -> str:
    """The roots of (p - x)^2 = z^2 x (1 - x) / n."""
    z, p = 1.959963984540054, successes / n
    a, b, c = 1 + z * z / n, -(2 * p + z * z / n), p * p
    root = (b * b - 4 * a * c) ** 0.5
    return f"{p:.2f} [{(-b - root) / (2 * a):.2f}, {(-b + root) / (2 * a):.2f}]"


def test_nothing_to_count_is_none_and_not_nought() -> None:
    made = reported()
    assert (made.self_consistency, made.first_shown, made.flips_to_first, made.agreement) == (None,) * 4
    assert len(made.lines()) == 2
