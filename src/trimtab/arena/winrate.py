"""Who was preferred, how sure that is, and whether the judge can be trusted with the question.

A match is between two policies that answered the same prompts; the prompt is the unit. What a judge could
not decide is left out and counted.

Shapes: N = judged prompts of a match, P = held-out pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.records import Comparison, Preferred, Verdict
from trimtab.statistics.bootstrap import bootstrap_mean
from trimtab.statistics.intervals import PERCENT, Interval, number
from trimtab.statistics.length_control import LengthControlled, length_controlled
from trimtab.statistics.paired import SignFlipTest, SignTest, holm, sign_flip_test, sign_test
from trimtab.statistics.ranking import Judged, Ranking, rank
from trimtab.statistics.rates import RateInterval, rate_interval

CHANCE = 0.5
"""What a coin scores, as a judge and as a player."""

OUTCOMES: Mapping[Preferred, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
"""What a verdict counts for the policy that wrote `a`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDifference:
    """By how much a judge scores one policy's answers above another's, prompt by prompt."""

    mean: Interval
    """Left's score less right's, in the judge's units; the prompts' own difficulty cancels out."""
    test: SignFlipTest
    """Whether the differences could be as often negative as positive."""
    p_adjusted: float
    """Its p-value, raised for the number of matches (Holm)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two policies on the same prompts: how often the left one was preferred."""

    left: str
    right: str
    rate: RateInterval
    """Share of judged prompts on which `left` was preferred; a tie is half."""
    controlled: LengthControlled | None
    """The same at equal length; None where there are fewer than two prompts."""
    test: SignTest
    """Whether wins and losses could be a coin's."""
    p_adjusted: float
    """The sign test's p-value, raised for the number of matches (Holm)."""
    unjudged: int
    """Prompts on which the judge gave no verdict."""
    difference: ScoreDifference | None = None
    """None for a judge that gives no scores, or scores for fewer than two prompts."""

    def __post_init__(self) -> None:
        judged = self.wins + self.ties + self.losses
        if judged != self.win_rate.n:
            raise ValueError(f"{judged} wins, ties and losses are not {self.win_rate.n} prompts")

    @property
    def win_rate(self) -> Interval:
        """The interval that is quoted."""
        return self.rate.quoted

    @property
    def wins(self) -> int:
        """Prompts on which `left` was preferred."""
        return self.test.wins

    @property
    def losses(self) -> int:
        """Prompts on which `right` was preferred."""
        return self.test.losses

    @property
    def ties(self) -> int:
        """Prompts on which neither was."""
        return self.test.ties

    @property
    def winner(self) -> str | None:
        """The policy that the whole interval speaks for, and the test adjusted for the number of matches."""
        if self.win_rate.contains(CHANCE) or self.clear_alone:
            return None
        return self.left if self.win_rate.low > CHANCE else self.right

    @property
    def clear_alone(self) -> bool:
        """Whether interval and test would name a winner if this were the only match, and do not so."""
        significant = 1 - self.win_rate.level
        alone = not self.win_rate.contains(CHANCE) and self.test.p_value <= significant
        return alone and self.p_adjusted > significant

    def rate_of(self, policy: str) -> Interval:
        """The share of prompts on which this one of the two was preferred."""
        rate = self.win_rate
        if policy == self.left:
            return rate
        return Interval(1 - rate.estimate, 1 - rate.high, 1 - rate.low, rate.level, rate.n, rate.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeQuality:
    """How far the judge's word goes: measured on pairs that people judged and no one trained on."""

    name: str
    """The judge's run or model."""
    accuracy: Interval
    """Share of held-out pairs on which it prefers the reply that people chose; its tie is half."""
    ties: int = 0
    """Pairs on which it prefers neither."""
    rule: Interval
    """The same share for the better of two simple rules: the shorter reply wins, or the longer one."""
    rule_name: str
    """Which of the two."""
    by: str = "people"
    """Whose verdicts it is measured on."""

    def __post_init__(self) -> None:
        if self.accuracy.n != self.rule.n:
            found = f"{self.accuracy.n} and {self.rule.n}"
            raise ValueError(f"judge and rule must be scored on the same pairs, got {found}")

    @property
    def can_tell(self) -> bool:
        """Whether it is better than a coin: its whole interval lies above 50 %."""
        return self.accuracy.low > CHANCE

    @property
    def sentence(self) -> str:
        """Its accuracy beside the rule's, for the line under the headline."""
        pairs = f"{self.accuracy.n} held-out pairs"
        ties = f" (its {self.ties} ties count half)" if self.ties else ""
        rule = f"“{self.rule_name}” scores {self.rule.percent()} on the same rows"
        doubt = "" if self.accuracy.low > self.rule.estimate else ", so it is not clearly above that rule"
        return (
            f"This judge agrees with {self.by} on {self.accuracy.percent()} of {pairs}{ties}; {rule}{doubt}."
        )


@dataclass(frozen=True, slots=True)
class Judgments:
    """A judge's verdicts on all prompts of one match."""

    left: str
    right: str
    comparisons: Sequence[Comparison]
    """One a prompt; `a` is left's answer."""
    verdicts: Sequence[Verdict | None]
    """One a comparison; None where the judge could not decide."""
    scores: Sequence[tuple[float, float] | None] = ()
    """Left's and right's, one pair a comparison, None where one is missing; empty for a judge without."""

    @property
    def outcomes(self) -> list[float | None]:
        """What each prompt counts for `left`."""
        return [None if one is None else OUTCOMES[one.preferred] for one in self.verdicts]


def match_up(judged: Sequence[Judgments], *, seed: int) -> tuple[Match, ...]:
    """The matches of one comparison.

    Raises:
        ValueError: a match in which no prompt was judged.
    """
    tests = [_test(one.outcomes) for one in judged]
    adjusted = holm([test.p_value for test in tests])
    differences = _score_differences(judged, seed)
    return tuple(
        _match(one, test, p, difference, seed)
        for one, test, p, difference in zip(judged, tests, adjusted, differences, strict=True)
    )


def _score_differences(judged: Sequence[Judgments], seed: int) -> list[ScoreDifference | None]:
    apart = [[pair[0] - pair[1] for pair in one.scores if pair is not None] for one in judged]
    tests = [sign_flip_test(values, seed=seed) if len(values) > 1 else None for values in apart]
    adjusted = iter(holm([test.p_value for test in tests if test is not None]))
    return [
        None
        if test is None
        else ScoreDifference(mean=bootstrap_mean(values, seed=seed), test=test, p_adjusted=next(adjusted))
        for values, test in zip(apart, tests, strict=True)
    ]


def _match(
    judged: Judgments, test: SignTest, p_adjusted: float, difference: ScoreDifference | None, seed: int
) -> Match:
    kept = [
        (outcome, len(comparison.a), len(comparison.b))
        for outcome, comparison in zip(judged.outcomes, judged.comparisons, strict=True)
        if outcome is not None
    ]
    if not kept:
        raise ValueError(f"no prompt of {judged.left} against {judged.right} was judged")
    outcomes, left, right = np.array(kept, dtype=np.float64).T
    return Match(
        left=judged.left,
        right=judged.right,
        rate=rate_interval(outcomes, seed=seed),
        controlled=length_controlled(outcomes, left, right, seed=seed) if len(kept) > 1 else None,
        test=test,
        p_adjusted=p_adjusted,
        unjudged=len(judged.verdicts) - len(kept),
        difference=difference,
    )


def _test(outcomes: Sequence[float | None]) -> SignTest:
    return sign_test(outcomes.count(1.0), outcomes.count(0.0), outcomes.count(0.5))


def ranking(policies: Sequence[str], judged: Sequence[Judgments], *, seed: int) -> Ranking | None:
    """Strengths of three policies or more; of two, the match says all there is."""
    if len(policies) < 3:
        return None
    place = {name: index for index, name in enumerate(policies)}
    rows = [
        Judged(prompt, place[one.left], place[one.right], outcome)
        for one in judged
        for prompt, outcome in enumerate(one.outcomes)
        if outcome is not None
    ]
    return rank(policies, rows, seed=seed)


def agreement(verdicts: Sequence[Verdict], people: Sequence[Verdict], *, seed: int) -> Interval:
    """Share of pairs on which a judge prefers what people chose; its tie is half. [P] verdicts a side.

    Half, so that a judge that cannot decide is no better and no worse than the coin that it is measured
    against. Benchmarks of reward models count ties as wrong: `evaluation.rewardbench`.

    Raises:
        ValueError: no pairs, or people who named no winner.
    """
    if any(one.preferred not in ("a", "b") for one in people):
        raise ValueError("people named no winner in a pair")
    agreed = [
        OUTCOMES[one.preferred] if other.preferred == "a" else 1 - OUTCOMES[one.preferred]
        for one, other in zip(verdicts, people, strict=True)
    ]
    return rate_interval(agreed, seed=seed).quoted


def length_rule(
    chosen_lengths: Sequence[int], rejected_lengths: Sequence[int], *, seed: int
) -> tuple[str, Interval]:
    """The better of “the shorter reply wins” and “the longer reply wins”; equal lengths count half.

    [P] lengths a side.

    Raises:
        ValueError: no pairs, or sides of different length.
    """
    shorter = [0.5 if a == b else float(a < b) for a, b in zip(chosen_lengths, rejected_lengths, strict=True)]
    longer = [1 - one for one in shorter]
    name, outcomes = ("shorter", shorter) if sum(shorter) >= sum(longer) else ("longer", longer)
    return f"the {name} reply wins", rate_interval(outcomes, seed=seed).quoted


def verdict(match: Match, judge: JudgeQuality) -> str:
    """The match in a few words; nobody's win when the judge cannot tell."""
    if not judge.can_tell:
        return "this judge cannot tell"
    return "no clear winner" if match.winner is None else f"{match.winner} preferred"


def headline(match: Match, judge: JudgeQuality, cost: str = "") -> str:
    """The first sentence of a report.

    Its verb needs an interval that is clear of 50 %, and a judge that is clear of a coin.

    Args:
        cost: how the preferred policy's cost compares, such as `at 34 % of PPO's cost`; may be empty.
    """
    if not judge.can_tell:
        return (
            f"No winner named between {match.left} and {match.right}: this judge cannot tell. "
            f"It agrees with {judge.by} on {judge.accuracy.percent_of('held-out pairs')}; a coin scores 50 %."
        )
    ahead = match.left if match.win_rate.estimate >= CHANCE else match.right
    behind = match.right if ahead == match.left else match.left
    rate = _rate(match.rate_of(ahead))
    tail = f", {cost}" if cost else ""
    if match.winner is None:
        among = ", adjusted for several comparisons" if match.clear_alone else ""
        return f"No clear winner between {ahead} and {behind}{among}: {ahead} was preferred on {rate}{tail}."
    return f"{ahead} beats {behind}: it was preferred on {rate}{tail}."


def _rate(rate: Interval) -> str:
    """`54 % of 200 prompts (95 % interval 49 to 59 %)`; with as many digits as tell its ends from 50 %."""
    digits = next((few for few in range(4) if _keeps_its_side(rate, few)), 4)
    estimate, low, high = (number(100 * value, digits) for value in (rate.estimate, rate.low, rate.high))
    interval = f"{100 * rate.level:g}{PERCENT} interval {low} to {high}{PERCENT}"
    return f"{estimate}{PERCENT} of {rate.n} prompts ({interval})"


def _keeps_its_side(rate: Interval, digits: int) -> bool:
    """Whether both ends are on the side of 50 % on which they are, once they are rounded."""
    ends = [100 * value for value in (rate.low, rate.high)]
    return all(
        (round(end, digits) > 50) == (end > 50) and (round(end, digits) < 50) == (end < 50) for end in ends
    )
