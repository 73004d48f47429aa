"""Matches counted by hand; what the headline may and may not say."""

import math

import numpy as np
import pytest

from trimtab.arena.winrate import (
    JudgeQuality,
    Match,
    ScoredAnswers,
    headline,
    judge_accuracy,
    match_up,
    prompt_outcomes,
    shorter_wins,
    verdict,
    win_rate,
)
from trimtab.statistics.intervals import Interval, wilson


def answers(policy, scores, texts=None):
    texts = texts or [f"{policy} answer {index}" for index in range(len(scores))]
    return ScoredAnswers(policy=policy, texts=texts, scores=scores)


def judge(right, n=250, rule=144):
    return JudgeQuality(name="judge", accuracy=wilson(right, n), shorter_wins=wilson(rule, n))


def match(estimate, low, high, n=200):
    wins = round(estimate * n)
    rate = Interval(estimate, low, high, 0.95, n)
    return Match(left="dpo", right="ppo", win_rate=rate, wins=wins, ties=0, losses=n - wins)


GOOD_JUDGE, COIN = judge(175), judge(130)


def test_outcomes_by_hand():
    left = answers("a", [1.0, 2.0, 0.5, 0.7, -math.inf], ["x", "y", "z", "same", "v"])
    right = answers("b", [0.0, 3.0, 0.5, 0.2, -math.inf], ["p", "q", "r", "same", "w"])
    assert prompt_outcomes(left, right).tolist() == [1.0, 0.0, 0.5, 0.5, 0.5]


def test_a_match_counts_and_swaps():
    left = answers("dpo", [1, 1, 1, 0, 0.5])
    right = answers("ppo", [0, 0, 0, 1, 0.5])
    forth, back = match_up(left, right, seed=0), match_up(right, left, seed=0)
    assert (forth.wins, forth.ties, forth.losses) == (3, 1, 1)
    assert forth.win_rate.estimate == pytest.approx(0.7)
    assert (back.wins, back.ties, back.losses) == (1, 1, 3)
    assert back.win_rate.estimate == pytest.approx(0.3)


@pytest.mark.parametrize("broken", [[math.nan, 1.0], [1.0], [1.0, 2.0, 3.0], []])
def test_scores_that_do_not_fit_are_refused(broken):
    with pytest.raises(ValueError):
        match_up(answers("a", broken, ["x"] * len(broken)), answers("b", [0.0, 0.0]), seed=0)


def test_missing_texts_are_refused():
    with pytest.raises(ValueError):
        prompt_outcomes(answers("a", [1.0, 2.0], ["x"]), answers("b", [0.0, 0.0]))


def test_plain_wins_and_losses_get_wilson():
    assert win_rate(np.array([1.0] * 20), seed=0) == wilson(20, 20)


def test_ties_and_several_samples_get_the_bootstrap():
    for outcomes in ([1.0, 0.5, 0.0, 1.0], [0.25, 0.75, 1.0, 1.0]):
        interval = win_rate(np.array(outcomes), seed=0)
        assert "bootstrap" in interval.method
        assert interval.estimate == pytest.approx(sum(outcomes) / 4)


@pytest.mark.parametrize("outcomes", [[], [1.5, 0.0], [math.nan, 1.0]])
def test_outcomes_outside_their_range_are_refused(outcomes):
    with pytest.raises(ValueError):
        win_rate(np.array(outcomes), seed=0)


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
    begin = {"dpo": "dpo beats ppo", "ppo": "ppo beats dpo", None: "No difference found between dpo and ppo"}[
        winner
    ]
    assert result.sentence.startswith(begin)
    assert headline(result, GOOD_JUDGE) == result.sentence
    assert verdict(result, GOOD_JUDGE) == (f"{winner} preferred" if winner else "no difference found")


def test_the_sentence_holds_the_numbers():
    assert (
        "dpo was preferred on 60.0\u00a0% of 200 prompts (95\u00a0% interval 51.0 to 70.0\u00a0%)"
        in match(0.6, 0.51, 0.7).sentence
    )


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
    assert JudgeQuality(name="j", accuracy=accuracy, shorter_wins=wilson(144, 250)).can_tell is can


def test_a_judge_worse_than_a_coin_cannot_tell():
    assert not judge(50).can_tell


def test_accuracy_is_strict():
    interval = judge_accuracy([1.0, 2.0, 0.0, 5.0], [0.0, 2.0, 1.0, 4.0])
    assert interval == wilson(2, 4)


def test_shorter_is_strict():
    assert shorter_wins([1, 5, 3, 2, 9], [2, 5, 1, 3, 8]) == wilson(2, 5)


@pytest.mark.parametrize("sides", [([math.nan], [1.0]), ([1.0], [1.0, 2.0]), ([], [])])
def test_pairs_that_do_not_fit_are_refused(sides):
    with pytest.raises(ValueError):
        judge_accuracy(*sides)


def test_the_judge_is_shown_beside_the_rule():
    said = judge(145).sentence
    assert "58.0\u00a0% [51.8, 64.0] of 250 held-out pairs" in said and "57.6\u00a0%" in said
    assert "not clearly above that rule" in said
    assert "not clearly" not in GOOD_JUDGE.sentence


def test_judge_and_rule_need_the_same_pairs():
    with pytest.raises(ValueError, match="same pairs"):
        JudgeQuality(name="j", accuracy=wilson(5, 10), shorter_wins=wilson(5, 11))


def test_counts_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="prompts"):
        Match(left="a", right="b", win_rate=wilson(5, 10), wins=5, ties=0, losses=4)
