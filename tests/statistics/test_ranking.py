"""Bradley-Terry strengths against closed forms and a minimiser, intervals against a known truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from trimtab.statistics.intervals import Interval
from trimtab.statistics.ranking import Judged, rank, ranks_by_overlap
from trimtab.statistics.rates import score_interval

TRUTH = np.array([0.9, 0.2, -0.3, -0.8])
PAIRS = [(left, right) for left in range(4) for right in range(left + 1, 4)]


def judged(prompts, seed=0, truth=TRUTH):
    """All pairs of a prompt by one Gumbel utility a player: exactly Bradley-Terry, and never at odds."""
    utilities = truth + np.random.default_rng(seed).gumbel(size=(prompts, 4))
    return [
        Judged(prompt, left, right, float(row[left] > row[right]))
        for prompt, row in enumerate(utilities)
        for left, right in PAIRS
    ]


def estimates(found):
    return np.array([strength.estimate for strength in found.strengths])


def by_minimiser(judgments, players, prior):
    """The likelihood judgment by judgment, with the prior's ties as judgments of their own weight."""
    met = sorted({tuple(sorted(judgment[1:3])) for judgment in judgments})
    rows = np.array([[left, right, score, 1.0] for _, left, right, score in judgments])
    rows = np.concatenate([rows, [[left, right, 0.5, prior] for left, right in met]])
    left, right, scores, weights = rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2], rows[:, 3]

    def cost(strengths):
        gaps = strengths[left] - strengths[right]
        return -(weights * (scores * log_expit(gaps) + (1 - scores) * log_expit(-gaps))).sum()

    found = minimize(cost, np.zeros(players), method="BFGS", options={"gtol": 1e-6}).x
    return found - found.mean()


def test_strengths_are_the_penalised_maximum():
    judgments = judged(15)
    judgments[3:9] = [judgment._replace(score=0.5) for judgment in judgments[3:9]]
    judgments = [judgment for judgment in judgments if judgment[1:3] != (0, 3)]  # five of six pairs met
    found = rank("abcd", judgments, seed=0, rounds=100)
    assert estimates(found) == pytest.approx(by_minimiser(judgments, 4, prior=3 / 5), abs=1e-5)
    assert estimates(found).sum() == pytest.approx(0, abs=1e-12)


def test_two_players_have_a_closed_form():
    judgments = [Judged(prompt, 0, 1, score) for prompt, score in enumerate([1] * 60 + [0.5] * 10 + [0] * 30)]
    found = rank(["left", "right"], judgments, seed=0)
    gap = math.log((65 + 0.5) / (35 + 0.5))  # Jeffreys' half win and half loss
    assert estimates(found) == pytest.approx([gap / 2, -gap / 2], abs=1e-9)
    assert found.ranks == (1, 2) and found.caution == ""


def test_it_is_the_bootstrap_over_prompts_written_out():
    judgments = judged(30)
    generator, rounds = np.random.default_rng(5), []
    for rows in generator.integers(0, 30, (100, 30)):
        again = [judgments[6 * prompt + pair] for prompt in rows for pair in range(6)]
        rounds.append(by_minimiser(again, 4, prior=0.5))
    found = rank("abcd", judgments, seed=5, rounds=100)
    middle = estimates(found)
    half = 1.959964 * np.std(rounds, axis=0)
    compared = [index for index, name in enumerate("abcd") if name not in found.caution.split(": ")[-1]]
    assert compared
    for index in compared:
        strength = found.strengths[index]
        assert (strength.low, strength.high) == pytest.approx(
            (middle[index] - half[index], middle[index] + half[index]), abs=1e-4
        )


def test_intervals_know_that_judgments_of_a_prompt_are_one():
    """Six judgments a prompt by six prompts of one judgment each would look far more certain."""
    together = rank("abcd", judged(60), seed=0)
    apart = rank(
        "abcd", [judgment._replace(prompt=index) for index, judgment in enumerate(judged(60))], seed=0
    )
    assert estimates(together) == pytest.approx(estimates(apart), abs=1e-12)
    width = np.mean([strength.high - strength.low for strength in together.strengths])
    assert width > 1.1 * np.mean([strength.high - strength.low for strength in apart.strengths])


@given(st.integers(0, 10_000), st.permutations(range(4)))
@settings(deadline=None, max_examples=20)
def test_the_order_of_players_and_sides_is_nothing_to_it(seed, order):
    judgments = judged(12, seed)
    turned = [Judged(p, order[right], order[left], 1 - score) for p, left, right, score in judgments]
    here = rank("abcd", judgments, seed=1, rounds=100)
    there = rank("abcd", turned, seed=1, rounds=100)
    for player, strength in enumerate(here.strengths):
        other = there.strengths[order[player]]
        assert (strength.low, strength.estimate, strength.high) == pytest.approx(
            (other.low, other.estimate, other.high), abs=1e-9
        )
        assert here.ranks[player] == there.ranks[order[player]]


def test_prompts_may_have_any_number_and_judgments_any_order():
    judgments = judged(12)
    renamed = [judgment._replace(prompt=10 * judgment.prompt + 7) for judgment in judgments]
    shuffled = [renamed[index] for index in np.random.default_rng(0).permutation(len(renamed))]
    here, there = rank("abcd", judgments, seed=1, rounds=100), rank("abcd", shuffled, seed=1, rounds=100)
    assert here.ranks == there.ranks
    for one, other in zip(here.strengths, there.strengths, strict=True):
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-9)


def test_copies_of_the_judgments_change_little_but_the_prior():
    judgments = judged(100)
    once, twice = rank("abcd", judgments, seed=0), rank("abcd", judgments * 2, seed=0)
    assert estimates(once) == pytest.approx(estimates(twice), abs=0.02)
    for one, other in zip(once.strengths, twice.strengths, strict=True):
        # The same prompts judged twice are no new prompts.
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.05)


def test_an_undefeated_player_is_finite_and_uncertain():
    judgments = [Judged(p, 0, 1, 1.0) for p in range(120)] + [Judged(p, 1, 2, p % 2) for p in range(120)]
    found = rank(["best", "b", "c"], judgments, seed=0)
    best = found.strengths[0]
    assert math.isfinite(best.estimate) and best.high - best.low > 1
    assert "best, b" not in found.caution and ": best." in found.caution
    assert found.ranks == (1, 2, 2)
    assert found.strengths[0].n == 120


def test_ranks_are_by_whole_intervals():
    ends = [(2.0, 3.0), (1.0, 2.5), (0.5, 1.5), (-1.0, 0.4)]
    intervals = [Interval((low + high) / 2, low, high, 0.95, 9) for low, high in ends]
    assert ranks_by_overlap(intervals) == (1, 1, 2, 4)
    assert ranks_by_overlap(intervals[::-1]) == (4, 2, 1, 1)


def test_it_holds_the_truth_as_often_as_it_says():
    held, apart = [], []
    for simulation in range(200):
        judgments = judged(150, seed=simulation)
        found = rank("abcd", judgments, seed=simulation, rounds=100)
        held.append([i.contains(value) for i, value in zip(found.strengths, TRUTH, strict=True)])
        alone = [judgment._replace(prompt=index) for index, judgment in enumerate(judgments)]
        if simulation < 100:
            naive = rank("abcd", alone, seed=simulation, rounds=100)
            apart.append([i.contains(value) for i, value in zip(naive.strengths, TRUTH, strict=True)])
    assert 0.92 < np.mean(held) < 0.98
    assert np.mean(apart) < 0.92  # judgments drawn one by one claim too much


@pytest.mark.parametrize(
    ("names", "judgments", "said"),
    [
        (["a"], [Judged(0, 0, 0, 1)], "two players"),
        (["a", "a"], [Judged(0, 0, 1, 1)], "names of their own"),
        (["a", "b"], [], "got none"),
        (["a", "b"], [Judged(0, 0, 2, 1)], "out of 0 to 1"),
        (["a", "b"], [Judged(0, -1, 1, 1)], "out of 0 to 1"),
        (["a", "b"], [Judged(0, 1, 1, 1)], "two different players"),
        (["a", "b"], [Judged(0, 0, 1, 1.5)], "scores"),
        (["a", "b"], [Judged(0, 0, 1, float("nan"))], "scores"),
        (["a", "b", "c"], [Judged(0, 0, 1, 1)], "no judgment connects a, b with c"),
        ("abcd", [Judged(0, 0, 2, 1), Judged(0, 1, 3, 1)], "no judgment connects a, c with b, d"),
    ],
)
def test_what_cannot_be_ranked_is_refused(names, judgments, said):
    with pytest.raises(ValueError, match=said):
        rank(names, judgments, seed=0)


def test_few_prompts_are_said():
    assert rank("abcd", judged(40), seed=0, rounds=100).caution.startswith("Only 40 prompts: ")


def test_ties_are_neither_wins_nor_losses():
    """3 wins and 197 ties: all rounds put the winner above 0, and a coin does so one time in four."""
    scores = [1.0] * 3 + [0.5] * 197
    judgments = [Judged(prompt, 0, 1, score) for prompt, score in enumerate(scores)]
    judgments += [Judged(prompt, 1, 2, prompt % 2) for prompt in range(200)]
    found = rank(["a", "b", "c"], judgments, seed=0)
    assert found.strengths[0].contains(found.strengths[1].estimate)
    assert ": a. " in found.caution  # b and c won and lost enough of each other
    many = [Judged(prompt, 0, 1, score) for prompt, score in enumerate([1.0] * 20 + [0.0] * 10 + [0.5] * 99)]
    assert rank(["a", "b"], many, seed=0).caution == ""


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_ties_make_up_for_no_wins(score):
    judgments = [Judged(prompt, 0, 1, score if prompt < 15 else 0.5) for prompt in range(200)]
    assert ": a, b. " in rank(["a", "b"], judgments, seed=0).caution


@pytest.mark.parametrize("score", [0.5, 1.0])
def test_no_strength_is_certain_without_a_word(score):
    """All ties; and one who always wins, one who always loses, and one always between them."""
    judgments = [
        Judged(p, left, right, score) for p in range(200) for left, right in ((0, 1), (1, 2), (0, 2))
    ]
    found = rank(["a", "b", "c"], judgments, seed=0)
    assert all(one.high - one.low > 0.01 for one in found.strengths)
    assert "on every prompt: a, b, c. " in found.caution


def test_ties_narrow_the_interval_of_few_wins_as_they_do_that_of_a_rate():
    """Two players' strengths are half the log-odds of the rate, whose own score interval knows of ties."""
    scores = np.array([1.0] * 4 + [0.5] * 496)
    found = rank(["a", "b"], [Judged(p, 0, 1, score) for p, score in enumerate(scores)], seed=0)
    rate = score_interval(scores)
    ends = [2 * found.strengths[0].low, 2 * found.strengths[0].high]
    assert expit(ends) == pytest.approx([rate.low, rate.high], abs=5e-4)
