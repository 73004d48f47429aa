"""Matches counted by hand; what the headline may and may not say."""

import dataclasses
import math

import pytest

from trimtab.arena.winrate import (
    JudgeQuality,
    Judgments,
    Match,
    agreement,
    headline,
    length_rule,
    match_up,
    ranking,
    verdict,
)
from trimtab.records import Comparison, Verdict
from trimtab.statistics.intervals import Interval, wilson
from trimtab.statistics.paired import SignTest, sign_test
from trimtab.statistics.rates import RateInterval


def judged(preferred, left="dpo", right="ppo", lengths=None):
    """One prompt a letter: a, b, t(ie), x both bad, - no verdict; answers as long as `lengths` says."""
    names = {"a": "a", "b": "b", "t": "tie", "x": "both_bad"}
    lengths = lengths or [(3, 3)] * len(preferred)
    comparisons = [Comparison(prompt=f"p{i}", a="u" * m, b="v" * n) for i, (m, n) in enumerate(lengths)]
    verdicts = [Verdict(preferred=names[one]) if one in names else None for one in preferred]
    return Judgments(left, right, comparisons, verdicts)


def judge(right, n=250, rule=144):
    return JudgeQuality(
        name="judge", accuracy=wilson(right, n), rule=wilson(rule, n), rule_name="shorter wins"
    )


def match(estimate, low, high, n=200):
    wins = round(estimate * n)
    rate = Interval(estimate, low, high, 0.95, n)
    return Match(
        left="dpo",
        right="ppo",
        rate=RateInterval(bootstrap=rate, score=rate, caution=""),
        controlled=None,
        test=sign_test(wins, n - wins),
        p_adjusted=sign_test(wins, n - wins).p_value,
        unjudged=0,
    )


GOOD_JUDGE, COIN = judge(175), judge(130)


def test_a_match_counts_and_swaps():
    (forth,) = match_up([judged("aaabtx-")], seed=0)
    (back,) = match_up([judged("bbbatx-", "ppo", "dpo")], seed=0)
    assert (forth.wins, forth.ties, forth.losses, forth.unjudged) == (3, 2, 1, 1)
    assert forth.win_rate.estimate == pytest.approx(4 / 6) and forth.win_rate.n == 6
    assert (back.wins, back.losses) == (1, 3)
    assert back.win_rate.estimate == pytest.approx(2 / 6)
    assert forth.rate_of("ppo").estimate == pytest.approx(back.win_rate.estimate)
    assert forth.rate_of("ppo").low == pytest.approx(1 - forth.win_rate.high)


def test_nothing_judged_is_no_match():
    with pytest.raises(ValueError, match="no prompt of dpo against ppo was judged"):
        match_up([judged("---")], seed=0)


def test_p_values_are_raised_for_the_number_of_matches():
    many = [judged("a" * 14 + "b" * 2), judged("a" * 9 + "b" * 7), judged("a" * 16)]
    found = match_up(many, seed=0)
    exact = [sum(math.comb(16, k) for k in range(b + 1)) * 2 / 2**16 for b in (2, 7, 0)]
    assert [one.test.p_value for one in found] == pytest.approx(exact)
    # Holm: the smallest times 3, the next times 2, the largest as it is.
    assert [one.p_adjusted for one in found] == pytest.approx([2 * exact[0], exact[1], 3 * exact[2]])


def test_differences_of_scores_are_paired_and_adjusted():
    """Prompts differ by hundreds, policies by one: only the paired difference can tell."""
    base = [100.0 * prompt for prompt in range(16)]
    better = judged("a" * 16)
    gains = [1.0 + 0.01 * prompt for prompt in range(16)]
    scored = [(b + gain, b) for b, gain in zip(base, gains, strict=True)]
    one = dataclasses.replace(better, scores=scored)
    other = dataclasses.replace(better, scores=[*[(b + (-1) ** i, b) for i, b in enumerate(base[:15])], None])
    unscored = better
    first, second, third = match_up([one, other, unscored], seed=0)
    assert third.difference is None
    assert first.difference.mean.estimate == pytest.approx(1.075)
    assert 1.0 < first.difference.mean.low < 1.075 < first.difference.mean.high < 1.15
    # All 16 positive: of 2^16 patterns of signs only two are as far; two tests, so times 2 (Holm).
    assert first.difference.test.p_value == 2 / 2**16 and first.difference.p_adjusted == 4 / 2**16
    assert second.difference.mean.n == 15
    assert second.difference.p_adjusted == second.difference.test.p_value == 1.0


def test_equal_length_takes_away_what_length_gave():
    """Left is preferred exactly where it is longer, and is longer on most prompts."""
    lengths = [(9, 3)] * 60 + [(3, 9)] * 40
    (found,) = match_up([judged("a" * 55 + "b" * 5 + "b" * 36 + "a" * 4, lengths=lengths)], seed=0)
    assert found.win_rate.estimate == pytest.approx(0.59)
    assert found.controlled.controlled.contains(0.5) and found.controlled.controlled.estimate < 0.55
    assert (found.controlled.mean_left, found.controlled.mean_right) == pytest.approx((6.6, 5.4))


def test_one_prompt_has_no_controlled_rate():
    (found,) = match_up([judged("a")], seed=0)
    assert found.controlled is None and found.win_rate == wilson(1, 1)


def test_a_ranking_is_of_three_and_more():
    two = [judged("aab")]
    assert ranking(["dpo", "ppo"], two, seed=0) is None
    three = [
        judged("a" * 30 + "b" * 10 + "-"),
        judged("a" * 35 + "b" * 5 + "t", right="sft"),
        judged("a" * 25 + "b" * 15 + "x", "ppo", "sft"),
    ]
    found = ranking(["sft", "ppo", "dpo"], three, seed=0)
    sft, ppo, dpo = (one.estimate for one in found.strengths)
    assert dpo > ppo > sft and sft + ppo + dpo == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "winner"),
    [
        ((0.6, 0.51, 0.7), "dpo"),
        ((0.4, 0.3, 0.49), "ppo"),
        ((0.54, 0.47, 0.61), None),
        ((0.57, 0.5, 0.64), None),
        ((0.43, 0.36, 0.5), None),
    ],
)
def test_a_winner_needs_an_interval_clear_of_half(rate, winner):
    result = match(*rate)
    assert result.winner == winner
    begin = {"dpo": "dpo beats ppo: it was", "ppo": "ppo beats dpo: it was", None: "No clear winner between "}
    assert headline(result, GOOD_JUDGE).startswith(begin[winner])
    assert verdict(result, GOOD_JUDGE) == (f"{winner} preferred" if winner else "no clear winner")


def test_the_headline_holds_the_numbers_of_who_is_ahead():
    rate = "of 200 prompts (95\u00a0% interval"
    said = headline(match(0.6, 0.51, 0.7), GOOD_JUDGE)
    assert said == f"dpo beats ppo: it was preferred on 60\u00a0% {rate} 51 to 70\u00a0%)."
    said = headline(match(0.4, 0.3, 0.49), GOOD_JUDGE, "at a third of the cost")
    assert (
        said
        == f"ppo beats dpo: it was preferred on 60\u00a0% {rate} 51 to 70\u00a0%), at a third of the cost."
    )
    said = headline(match(0.46, 0.4, 0.52), GOOD_JUDGE)
    assert said.startswith(
        f"No clear winner between ppo and dpo: ppo was preferred on 54\u00a0% {rate} 48 to 60"
    )


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.5004, 0.64, "50.04 to 64.00"), (0.4996, 0.64, "49.96 to 64.00"), (0.36, 0.4951, "36.0 to 49.5"),
     (0.5, 0.6, "50 to 60"), (0.47, 0.61, "47 to 61")],
)  # fmt: skip
def test_rounding_does_not_move_an_end_across_half(low, high, said):
    middle = (low + high) / 2
    found = headline(match(middle, low, high), GOOD_JUDGE)
    ends = (
        said if middle >= 0.5 else " to ".join(f"{100 - float(end):.1f}" for end in said.split(" to ")[::-1])
    )
    assert f"interval {ends}\u00a0%)" in found


def test_no_winner_from_a_judge_that_cannot_tell():
    clear = match(0.9, 0.85, 0.95)
    said = headline(clear, COIN)
    assert not COIN.can_tell and COIN.accuracy.low < 0.5 < COIN.accuracy.high
    assert said.startswith("No winner named") and "this judge cannot tell" in said and "beats" not in said
    assert COIN.accuracy.percent_of("held-out pairs") in said
    assert verdict(clear, COIN) == "this judge cannot tell"


@pytest.mark.parametrize(("low", "can"), [(0.5, False), (0.5001, True), (0.2, False)])
def test_reaching_down_to_half_is_enough_to_doubt(low, can):
    accuracy = Interval(max(low, 0.52), low, 0.9, 0.95, 250)
    assert (
        JudgeQuality(name="j", accuracy=accuracy, rule=wilson(144, 250), rule_name="shorter wins").can_tell
        is can
    )


def test_a_judge_worse_than_a_coin_cannot_tell():
    assert not judge(50).can_tell


def test_a_judges_tie_is_half():
    """Then the one that cannot decide is measured against a coin fairly: 5 of 5 ties are 50 %."""
    given = [Verdict(preferred=one) for one in ("a", "tie", "b", "both_bad", "b")]
    people = [Verdict(preferred=one) for one in ("a", "a", "a", "b", "b")]
    found = agreement(given, people, seed=0)
    assert found.estimate == pytest.approx(3 / 5) and found.n == 5
    undecided = agreement([Verdict(preferred="tie")] * 5, people, seed=0)
    assert undecided.estimate == 0.5


def test_a_judge_that_ties_often_can_still_tell():
    """90 right, 10 wrong, 100 ties: of what it decides it is right nine times in ten."""
    given = [Verdict(preferred=one) for one in ["a"] * 90 + ["b"] * 10 + ["tie"] * 100]
    found = agreement(given, [Verdict(preferred="a")] * 200, seed=0)
    quality = JudgeQuality(
        name="j", accuracy=found, ties=100, rule=wilson(100, 200), rule_name="the longer reply wins", by="Ann"
    )
    assert found.estimate == pytest.approx(0.7) and quality.can_tell
    assert "agrees with Ann on 70.0" in quality.sentence and "(its 100 ties count half)" in quality.sentence


def test_people_must_have_named_a_winner():
    with pytest.raises(ValueError, match="no winner"):
        agreement([Verdict(preferred="a")], [Verdict(preferred="tie")], seed=0)


def test_the_rule_to_beat_is_the_better_of_two():
    name, rate = length_rule([1, 5, 3, 2, 9], [2, 5, 1, 3, 8], seed=0)
    assert (name, rate.estimate) == ("the shorter reply wins", pytest.approx(2.5 / 5))
    name, rate = length_rule([9, 9, 9, 1], [1, 1, 1, 2], seed=0)
    assert (name, rate.estimate) == ("the longer reply wins", pytest.approx(3 / 4))


@pytest.mark.parametrize("sides", [([1], [1, 2]), ([], [])])
def test_pairs_that_do_not_fit_are_refused(sides):
    with pytest.raises(ValueError):
        length_rule(*sides, seed=0)


def test_the_judge_is_shown_beside_the_rule():
    said = judge(145).sentence
    assert "58.0\u00a0% [51.8, 64.0] of 250 held-out pairs" in said and "57.6\u00a0%" in said
    assert "not clearly above that rule" in said
    assert "not clearly" not in GOOD_JUDGE.sentence


def test_judge_and_rule_need_the_same_pairs():
    with pytest.raises(ValueError, match="same pairs"):
        JudgeQuality(name="j", accuracy=wilson(5, 10), rule=wilson(5, 11), rule_name="shorter wins")


def test_counts_that_do_not_add_up_are_refused():
    test = SignTest(p_value=1.0, wins=5, losses=4, ties=0)
    rate = RateInterval(bootstrap=None, score=wilson(5, 10), caution="")
    with pytest.raises(ValueError, match="prompts"):
        Match(left="a", right="b", rate=rate, controlled=None, test=test, p_adjusted=1.0, unjudged=0)
