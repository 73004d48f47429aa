"""Who was preferred, how sure that is, and whether the judge can be trusted with the question.

A match is between two policies that answered the same prompts; the prompt is the unit. Left out:
length-controlled rates and rankings of many policies.

Shapes: N = prompts, P = held-out pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.statistics.bootstrap import FloatArray, bootstrap_mean
from trimtab.statistics.intervals import Interval, wilson

CHANCE = 0.5
"""What a coin scores, as a judge and as a player."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAnswers:
    """What one policy answered, one response a prompt, with the judge's scores."""

    policy: str
    texts: Sequence[str]
    """[N]"""
    scores: Sequence[float] | FloatArray
    """[N] higher is better; comparable between policies on the same prompt only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two policies on the same prompts: how often the left one was preferred."""

    left: str
    right: str
    win_rate: Interval
    """Share of prompts on which `left` was preferred; a tie is half."""
    wins: int
    ties: int
    losses: int

    def __post_init__(self) -> None:
        if self.wins + self.ties + self.losses != self.win_rate.n:
            counts = f"{self.wins} wins, {self.ties} ties and {self.losses} losses"
            raise ValueError(f"{counts} are not {self.win_rate.n} prompts")

    @property
    def winner(self) -> str | None:
        """The policy that the whole interval speaks for; None when it contains 50 %."""
        if self.win_rate.contains(CHANCE):
            return None
        return self.left if self.win_rate.low > CHANCE else self.right

    @property
    def sentence(self) -> str:
        """The verdict in words; it names a winner only when the interval is clear of 50 %."""
        rate = f"{self.left} was preferred on {self.win_rate.percent_of('prompts')}"
        if self.winner is None:
            return f"No difference found between {self.left} and {self.right}: {rate}."
        loser = self.right if self.winner == self.left else self.left
        return f"{self.winner} beats {loser}: {rate}."


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeQuality:
    """How far the judge's word goes: measured on pairs that people judged and no one trained on."""

    name: str
    """The judge's run or model."""
    accuracy: Interval
    """Share of held-out pairs on which it prefers the reply that people chose."""
    shorter_wins: Interval
    """Share of the same pairs on which people chose the shorter reply: the rule to beat."""

    def __post_init__(self) -> None:
        if self.accuracy.n != self.shorter_wins.n:
            found = f"{self.accuracy.n} and {self.shorter_wins.n}"
            raise ValueError(f"judge and rule must be scored on the same pairs, got {found}")

    @property
    def can_tell(self) -> bool:
        """Whether it is better than a coin: its whole interval lies above 50 %."""
        return self.accuracy.low > CHANCE

    @property
    def sentence(self) -> str:
        """Its accuracy beside the rule's, for the line under the headline."""
        pairs = f"{self.accuracy.n} held-out pairs"
        rule = f"“the shorter reply wins” scores {self.shorter_wins.percent()} on the same rows"
        doubt = (
            "" if self.accuracy.low > self.shorter_wins.estimate else ", so it is not clearly above that rule"
        )
        return f"This judge agrees with people on {self.accuracy.percent()} of {pairs}; {rule}{doubt}."


def prompt_outcomes(left: ScoredAnswers, right: ScoredAnswers) -> FloatArray:
    """[N] 1 where `left` scored higher, 0 where `right` did, 0.5 for equal scores or identical texts.

    Raises:
        ValueError: no prompts, different numbers of them, or a score that is NaN.
    """
    sizes = {len(left.texts), len(left.scores), len(right.texts), len(right.scores)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"both sides need one text and one score for each prompt, got {sorted(sizes)}")
    left_scores, right_scores = _scores(left.scores, left.policy), _scores(right.scores, right.policy)
    outcomes = ((left_scores > right_scores) + 1.0 * (left_scores >= right_scores)) / 2
    # Scores of one text can differ in the last bits from batch to batch; the text is the same.
    same = np.array([a == b for a, b in zip(left.texts, right.texts, strict=True)])
    return np.where(same, 0.5, outcomes)


def win_rate(outcomes: FloatArray, *, seed: int, level: float = 0.95) -> Interval:
    """The mean outcome with its interval over prompts.

    Plain wins and losses get the Wilson score interval; as soon as a prompt counts a fraction (a
    tie, or the mean over several samples) the bootstrap over prompts takes its place.

    Args:
        outcomes: [N], each in [0, 1].
    Raises:
        ValueError: an outcome outside [0, 1] or NaN, or none.
    """
    if not outcomes.size or not ((outcomes >= 0) & (outcomes <= 1)).all():
        raise ValueError("outcomes must be one or more numbers in [0, 1]")
    if np.isin(outcomes, (0, 1)).all():
        return wilson(int(outcomes.sum()), outcomes.size, level)
    return bootstrap_mean(outcomes, seed=seed, level=level)


def match_up(left: ScoredAnswers, right: ScoredAnswers, *, seed: int, level: float = 0.95) -> Match:
    """Count the wins of `left` over `right`. Raises ValueError as `prompt_outcomes` does."""
    outcomes = prompt_outcomes(left, right)
    return Match(
        left=left.policy,
        right=right.policy,
        win_rate=win_rate(outcomes, seed=seed, level=level),
        wins=int((outcomes == 1).sum()),
        ties=int((outcomes == 0.5).sum()),
        losses=int((outcomes == 0).sum()),
    )


def judge_accuracy(
    chosen_scores: Sequence[float] | FloatArray,
    rejected_scores: Sequence[float] | FloatArray,
    level: float = 0.95,
) -> Interval:
    """Share of pairs whose chosen reply scores strictly higher; a tie is wrong. [P] scores a side.

    Raises:
        ValueError: no pairs, sides of different length, or a score that is NaN.
    """
    chosen, rejected = _pairs(chosen_scores, rejected_scores)
    return wilson(int((chosen > rejected).sum()), chosen.size, level)


def shorter_wins(
    chosen_lengths: Sequence[int], rejected_lengths: Sequence[int], level: float = 0.95
) -> Interval:
    """Share of pairs whose chosen reply is strictly shorter; a tie is wrong. [P] lengths a side.

    Raises:
        ValueError: no pairs, or sides of different length.
    """
    chosen, rejected = _pairs(chosen_lengths, rejected_lengths)
    return wilson(int((chosen < rejected).sum()), chosen.size, level)


def verdict(match: Match, judge: JudgeQuality) -> str:
    """The match in a few words; nobody's win when the judge cannot tell."""
    if not judge.can_tell:
        return "this judge cannot tell"
    return "no difference found" if match.winner is None else f"{match.winner} preferred"


def headline(match: Match, judge: JudgeQuality) -> str:
    """The first sentence of a report. It names no winner when the judge is not clear of a coin."""
    if judge.can_tell:
        return match.sentence
    return (
        f"No winner named between {match.left} and {match.right}: this judge cannot tell. "
        f"It agrees with people on {judge.accuracy.percent_of('held-out pairs')}; a coin scores 50 %."
    )


def _scores(scores: Sequence[float] | FloatArray, whose: str) -> FloatArray:
    """[N] float64; NaN is refused, since every comparison with it is silently false."""
    array = np.asarray(scores, dtype=np.float64)
    broken = np.flatnonzero(np.isnan(array))
    if broken.size:
        raise ValueError(f"{whose}: score {broken[0]} is NaN ({broken.size} of {array.size})")
    return array


def _pairs(
    chosen: Sequence[float] | FloatArray, rejected: Sequence[float] | FloatArray
) -> tuple[FloatArray, FloatArray]:
    """[P] a side, equally many."""
    sides = _scores(chosen, "chosen"), _scores(rejected, "rejected")
    if sides[0].shape != sides[1].shape or sides[0].ndim != 1:
        raise ValueError(f"both sides need one number a pair, got {sides[0].shape} and {sides[1].shape}")
    return sides
