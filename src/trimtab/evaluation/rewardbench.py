"""RewardBench's scoring: which responses a reward model puts first, by subset, section and overall.

RewardBench (pairs): a row is right when its chosen response scores strictly higher; a tie is wrong.
Sections weigh their subsets by the published numbers of rows, math-prm as 984 for its 447, so that it
weighs as much as code. RewardBench 2 (best of n): a correct response at the top earns the share of
correct ones among those that tie for it; the subset Ties has a score of its own; every subset weighs
the same. Rows of other subsets get plain accuracy. Nothing here knows a model: scores go in.

Sources: Lambert et al. 2024, arXiv:2403.13787; Malik et al. 2025, arXiv:2506.01937; reward-bench
`constants.py`, `utils.calculate_scores_per_section`, `utils.process_single_model`.

Shapes: N = rows, R = rounds of the bootstrap, Q = questions of the subset Ties.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.errors import DataError
from trimtab.evaluation.rewardbench_subsets import (
    ALL_SECTIONS,
    FOUR,
    FOUR_AND_PRIOR,
    PUBLISHED,
    SECOND,
    Benchmark,
)
from trimtab.evaluation.row_lengths import longer_side, thirds
from trimtab.evaluation.ties import (
    HIGHEST,
    LOWEST,
    Sides,
    TiesScore,
    question_table,
    resampled_ties,
    score_ties,
)
from trimtab.formats.rewardbench import BenchmarkRow
from trimtab.formats.rows import Row
from trimtab.statistics.intervals import Interval, check_level, wilson
from trimtab.statistics.rates import rate_interval
from trimtab.statistics.resampling import FloatArray

ROUNDS = 10_000
"""Of the bootstrap."""
ALIKE = 1e-9
"""Rounds that spread less than this differ by rounding only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One row with what the model made of it."""

    row: BenchmarkRow
    chosen: tuple[float, ...]
    rejected: tuple[float, ...]
    """Scores of the responses, in their order; comparable within the row only."""

    @property
    def tied(self) -> bool:
        """Whether the best correct response scores just as the best incorrect one."""
        return max(self.chosen) == max(self.rejected)

    @property
    def credit(self) -> float:
        """1 right, 0 wrong; in best of n, where a response that ties for the top is drawn, its chance.

        For one correct response that is RewardBench 2's 1/k. For several, which RewardBench 2 has in the
        subset Ties only, it is the same rule, not a published one.
        """
        best = max(self.chosen + self.rejected)
        if self.row.form == "pair":
            return float(self.chosen[0] > self.rejected[0])
        right = self.chosen.count(best)
        return right / (right + self.rejected.count(best))


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetScore:
    """One subset of a benchmark."""

    name: str
    score: Interval
    """Accuracy, or the Ties score."""
    rows: int
    tied: int
    """Rows on which a correct and an incorrect response share the top."""
    ties: TiesScore | None = None
    """The parts of the Ties score, for that subset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionScore:
    """Several subsets in one figure; subsets that the file lacks leave their weight to the others."""

    name: str
    score: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some of the rows, told apart by something that should not matter."""

    name: str
    rows: int
    tied: int
    accuracy: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """What a reward model makes of a benchmark."""

    benchmark: Benchmark
    subsets: tuple[SubsetScore, ...]
    """In the order of the benchmark, then of the file."""
    sections: tuple[SectionScore, ...]
    """RewardBench's that the file has rows of, Prior Sets last; empty for other benchmarks."""
    overall: Interval | None
    """The benchmark's own figure, for own files the accuracy; None where it lacks a section or subset."""
    overall_with_prior: Interval | None
    """RewardBench with Prior Sets at half weight; None where there are none."""
    accuracy: Interval
    """Share of rows that are right, every row alike; without the subset Ties unless it is alone."""
    incomplete: tuple[str, ...]
    """Subsets of which the file has another number of rows than was published, or none."""
    tied: int
    """Rows on which a correct and an incorrect response share the top."""
    lengths: tuple[Slice, ...]
    """By which side has the longest response, in characters."""
    sizes: tuple[Slice, ...]
    """Thirds of the rows by the mean length of their responses, in characters."""
    positions: tuple[Slice, ...]
    """By where the correct response stood in the file; empty where the file always puts it first."""


def row_results(rows: Sequence[BenchmarkRow], scores: Sequence[Sequence[float]]) -> tuple[RowResult, ...]:
    """Join rows and scores.

    Args:
        scores: for each row one number a response, in the order of `row.responses`.
    Raises:
        ValueError: another number of rows or responses, or a score that is not finite.
    """
    if len(rows) != len(scores):
        raise ValueError(f"one list of scores a row, got {len(scores)} for {len(rows)} rows")
    return tuple(_result(row, [float(v) for v in values]) for row, values in zip(rows, scores, strict=True))


def _result(row: BenchmarkRow, values: list[float]) -> RowResult:
    if len(values) != len(row.responses):
        raise ValueError(f"row {row.id!r}: {len(values)} scores for {len(row.responses)} responses")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"row {row.id!r}: a score is not finite: {values}")
    cut = len(row.chosen)
    return RowResult(row=row, chosen=tuple(values[:cut]), rejected=tuple(values[cut:]))


def check_rows(rows: Sequence[Row[BenchmarkRow]]) -> None:
    """Refuse rows of which no card can be made, before the price of scoring them is paid.

    Raises:
        DataError: pairs and best-of-n rows together; the subset Ties has a question twice, or none with
            both of its rows.
    """
    first: dict[str, Row[BenchmarkRow]] = {}
    for row in rows:
        first.setdefault(row.record.form, row)
    if len(first) > 1:
        one, other = first.values()
        raise DataError(
            "pairs and best-of-n rows cannot be scored together",
            where=other.where,
            found=f"a row that is {other.record.form}; {one.where} is {one.record.form}",
            fix="put the rows of RewardBench (pairs) and of RewardBench 2 (lists) in files of their own",
        )
    ties = [row.record for row in rows if row.record.of_ties]
    if ties:
        _ties_table(row_results(ties, [[0.0] * len(row.responses) for row in ties]))


def scorecard(
    results: Sequence[RowResult],
    *,
    seed: int,
    level: float = 0.95,
    rows: Sequence[BenchmarkRow] | None = None,
) -> Scorecard:
    """All figures with their intervals.

    Subsets and slices get the Wilson interval (the bootstrap where a row can earn a part and there are rows
    enough), sections and overall figures the bootstrap over rows within each subset.

    Args:
        rows: all of the file, also those without a result; by them it is told whether the file is whole.
    Raises:
        ValueError: no rows, or pairs and best-of-n rows together.
        DataError: the subset Ties has a question twice, or none with both of its rows.
    """
    check_level(level)
    benchmark, groups = _recognise(results)
    sample = _Sample(groups, np.random.default_rng(seed), level)
    plain = [result for result in results if not result.row.of_ties]
    accuracy = _accuracy(plain or results, seed, level)
    there = Counter(_subset_name(row) for row in rows or [result.row for result in results])
    return Scorecard(
        benchmark=benchmark,
        subsets=tuple(_subset(name, group, sample, seed) for name, group in groups.items()),
        sections=_sections(sample) if benchmark == "RewardBench" else (),
        overall=_overall(benchmark, sample, accuracy),
        overall_with_prior=sample.over_sections(FOUR_AND_PRIOR) if benchmark == "RewardBench" else None,
        accuracy=accuracy,
        incomplete=tuple(name for name, count in PUBLISHED[benchmark].items() if there[name] != count),
        tied=sum(result.tied for result in results),
        lengths=_slices(plain, longer_side, seed, level),
        sizes=_slices(plain, thirds([result.row for result in plain]), seed, level),
        positions=_slices(plain, lambda row: _POSITION[row.chosen_stood], seed, level),
    )


def _recognise(results: Sequence[RowResult]) -> tuple[Benchmark, dict[str, list[RowResult]]]:
    """The benchmark whose subsets these are, and the rows by subset, in its order."""
    forms = {result.row.form for result in results}
    if len(forms) != 1:
        raise ValueError("pairs and best-of-n rows cannot be scored together" if forms else "no rows")
    groups: dict[str, list[RowResult]] = {}
    for result in results:
        groups.setdefault(_subset_name(result.row), []).append(result)
    benchmark: Benchmark = "RewardBench" if forms == {"pair"} else "RewardBench 2"
    known = PUBLISHED[benchmark]
    if groups.keys().isdisjoint(known):
        return "own", groups
    order = [*(name for name in known if name in groups), *(name for name in groups if name not in known)]
    return benchmark, {name: groups[name] for name in order}


def _subset_name(row: BenchmarkRow) -> str:
    return "Ties" if row.of_ties else row.subset


def _overall(benchmark: Benchmark, sample: _Sample, accuracy: Interval) -> Interval | None:
    if benchmark == "own":
        return accuracy
    if benchmark == "RewardBench":
        return sample.over_sections(FOUR)
    return sample.weighted(dict.fromkeys(SECOND, 1.0)) if SECOND.keys() <= sample.groups.keys() else None


def _sections(sample: _Sample) -> tuple[SectionScore, ...]:
    scores = {name: sample.over_sections({name: 1.0}) for name in ALL_SECTIONS}
    return tuple(SectionScore(name=name, score=score) for name, score in scores.items() if score is not None)


def _subset(name: str, group: Sequence[RowResult], sample: _Sample, seed: int) -> SubsetScore:
    table = sample.ties.get(name)
    return SubsetScore(
        name=name,
        score=_accuracy(group, seed, sample.level) if table is None else sample.weighted({name: 1.0}),
        rows=len(group),
        tied=sum(result.tied for result in group),
        ties=None if table is None else score_ties(table),
    )


class _Sample:
    """Every subset's figure, with what it would be with other rows of the same kind."""

    def __init__(
        self, groups: Mapping[str, Sequence[RowResult]], generator: np.random.Generator, level: float
    ) -> None:
        self.groups = groups
        self.level = level
        self.ties = {name: _ties_table(group) for name, group in groups.items() if group[0].row.of_ties}
        self.estimates: dict[str, float] = {}
        self.draws: dict[str, FloatArray] = {}
        """[R] by subset."""
        for name, group in groups.items():
            if name in self.ties:
                self.estimates[name] = score_ties(self.ties[name]).score
                self.draws[name] = resampled_ties(self.ties[name], ROUNDS, generator)
            else:
                credits = np.array([result.credit for result in group])
                self.estimates[name] = float(credits.mean())
                self.draws[name] = _resampled_means(credits, generator)

    def over_sections(self, shares: Mapping[str, float]) -> Interval | None:
        """The mean of sections; None where the file has no row of one of them."""
        weights: dict[str, float] = {}
        for section, share in shares.items():
            there = {name: weight for name, weight in ALL_SECTIONS[section].items() if name in self.groups}
            if not there:
                return None
            weights |= {name: share * weight / sum(there.values()) for name, weight in there.items()}
        return self.weighted(weights)

    def weighted(self, weights: Mapping[str, float]) -> Interval:
        """The mean of subsets, of which each moves by itself."""
        total = sum(weights.values())
        estimate = sum(weight * self.estimates[name] for name, weight in weights.items()) / total
        draws = sum((weight * self.draws[name] for name, weight in weights.items()), np.zeros(ROUNDS)) / total
        units = sum(len(self.ties.get(name, self.groups[name])) for name in weights)
        if np.ptp(draws) < ALIKE:
            return self._without_spread(estimate, weights, units)
        low, high = np.quantile(draws, [(1 - self.level) / 2, (1 + self.level) / 2]).tolist()
        return Interval(estimate, low, high, self.level, units, "bootstrap over rows within subsets")

    def _without_spread(self, estimate: float, weights: Mapping[str, float], units: int) -> Interval:
        """Where rows within each subset are all alike, so that the bootstrap would claim certainty.

        Of n rows none is otherwise, so that at most Wilson's share of all rows would be; the figure is moved
        by that share of its way to the worst and the best there is.
        """
        otherwise = wilson(0, units, self.level).high
        of_ties = sum(weight for name, weight in weights.items() if name in self.ties) / sum(weights.values())
        lowest, highest = of_ties * LOWEST, 1 + of_ties * (HIGHEST - 1)
        low, high = (estimate + otherwise * (end - estimate) for end in (lowest, highest))
        return Interval(estimate, low, high, self.level, units, "Wilson score of rows that are all alike")


def _resampled_means(credits: FloatArray, generator: np.random.Generator) -> FloatArray:
    """[R] means of as many rows drawn with replacement: how often each value comes is multinomial."""
    values, counts = np.unique(credits, return_counts=True)
    drawn = generator.multinomial(credits.size, counts / credits.size, size=ROUNDS)
    means: FloatArray = drawn @ values / credits.size
    return means


def _ties_table(group: Sequence[RowResult]) -> FloatArray:
    """[Q, 5] of the subset Ties."""
    sides: dict[str, dict[str, Sides]] = {"tied": {}, "ref": {}}
    for result in group:
        kind, question = result.row.id.split(":")
        if question in sides[kind]:
            raise DataError(
                "a question of the subset Ties stands twice in the file",
                where="Ties",
                found=f"id {result.row.id}",
                fix="keep one of the rows",
            )
        sides[kind][question] = (result.chosen, result.rejected)
    return question_table(sides["tied"], sides["ref"])


def _accuracy(group: Sequence[RowResult], seed: int, level: float) -> Interval:
    credits = np.array([result.credit for result in group])
    if np.isin(credits, (0, 1)).all():
        return wilson(int(credits.sum()), credits.size, level)
    return rate_interval(credits, seed=seed, level=level).quoted


def _slices(
    results: Sequence[RowResult], name_of: Callable[[BenchmarkRow], str], seed: int, level: float
) -> tuple[Slice, ...]:
    """The rows by name, in the order of names as they sort; those without a name are left out."""
    slices: dict[str, list[RowResult]] = {}
    for result in results:
        slices.setdefault(name_of(result.row), []).append(result)
    return tuple(
        Slice(
            name=name,
            rows=len(group),
            tied=sum(result.tied for result in group),
            accuracy=_accuracy(group, seed, level),
        )
        for name, group in sorted(slices.items())
        if name
    )


_POSITION: Mapping[Literal["first", "second"] | None, str] = {
    None: "",
    "first": "chosen stood first",
    "second": "chosen stood second",
}
