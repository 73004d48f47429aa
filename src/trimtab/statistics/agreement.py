"""How far judges agree with each other, and how far beyond chance.

An item is what was judged, such as a comparison; it is the unit that bootstraps draw. Labels can be
anything hashable for nominal measures and numbers for ordinal ones; None is a missing rating.

Shapes: A = raters, N = items, C = different labels, U = items with different counts of labels (items with
    equal counts are alike), R = bootstrap rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from trimtab.statistics.intervals import Interval, check_level
from trimtab.statistics.rates import RateInterval, rate_interval
from trimtab.statistics.resampling import LEAST_ROUNDS, FloatArray, bca_ends

Ratings = Sequence[Sequence[Hashable | None]]
"""[A][N] labels; None where a rater did not judge an item."""


def raw_agreement(ratings: Ratings, *, seed: int, level: float = 0.95) -> RateInterval:
    """The share of agreeing pairs of raters, averaged over the items that two or more of them judged.

    For two raters this is the share of items on which they agree. Each item counts the same.

    Raises:
        ValueError: fewer than two raters, rows of different length, or no item that two of them judged.
    """
    counts, _ = _label_counts(ratings, sorted_labels=_any_order)
    present = counts.sum(axis=1)
    agreeing = (counts * (counts - 1)).sum(axis=1) / (present * (present - 1))
    return rate_interval(agreeing, seed=seed, level=level)


def cohens_kappa(
    first: Sequence[Hashable | None],
    second: Sequence[Hashable | None],
    *,
    seed: int,
    level: float = 0.95,
    rounds: int = 2_000,
) -> Interval:
    """Cohen's kappa of two raters, (observed - expected) / (1 - expected), with its BCa interval over items.

    1 is full agreement, 0 what two raters with these habits would reach by chance. Items that one of them
    did not judge are left out, and so are rounds in which both know a single label, where kappa is undefined.

    Args:
        first, second: [N] labels.
    Raises:
        ValueError: rows of different length, no item that both judged, one label only, so that chance
            cannot be told from agreement, or fewer than 100 rounds.
    Source: Cohen 1960, Educational and Psychological Measurement 20(1), 37-46.
    """
    if len(first) != len(second):
        raise ValueError(f"both raters need one label for each item, got {len(first)} and {len(second)}")
    both = [(_present(a), _present(b)) for a, b in zip(first, second, strict=True)]
    both = [(a, b) for a, b in both if a is not None and b is not None]
    labels = {
        label: index for index, label in enumerate(dict.fromkeys(label for pair in both for label in pair))
    }
    if len(labels) < 2:
        raise ValueError(f"kappa needs items that both judged and more than one label, got {list(labels)}")
    cells = np.zeros((len(both), len(labels), len(labels)))
    for item, (a, b) in enumerate(both):
        cells[item, labels[a], labels[b]] = 1
    return _over_items(cells.reshape(len(both), -1), _kappa, seed=seed, level=level, rounds=rounds)


def nominal_alpha(
    ratings: Ratings,
    *,
    seed: int,
    level: float = 0.95,
    rounds: int = 2_000,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Krippendorff's alpha of any number of raters, all different labels being equally different.

    1 is full agreement, 0 what chance would give, below 0 systematic disagreement. The interval is BCa
    over items. Items with fewer than two ratings say nothing about agreement and are left out.

    Args:
        ratings: [A][N], None where missing.
        clusters: [N] what each item is a part of, such as the ranking that implies a pair: the bootstrap
            draws clusters whole, and they are what the interval counts. None: each item stands alone.
    Raises:
        ValueError: as `raw_agreement`; one label only, where alpha is undefined; fewer than 100 rounds.
    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"; 2004, Human Communication
        Research 30(3), 411-433.
    """
    counts, kept = _label_counts(ratings, sorted_labels=_any_order)
    units = _cluster_numbers(clusters, kept)
    return _alpha(counts, units, _nominal_distances, seed=seed, level=level, rounds=rounds)


def ordinal_alpha(
    ratings: Ratings,
    *,
    seed: int,
    level: float = 0.95,
    rounds: int = 2_000,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Krippendorff's alpha for ordered labels: two are as different as there are ratings between them.

    Args:
        ratings: [A][N] numbers, of which only the order counts; None where missing.
        clusters: as for `nominal_alpha`.
    Raises:
        ValueError: as `nominal_alpha`, or a label that is no number.
    Source: as `nominal_alpha`.
    """
    counts, kept = _label_counts(ratings, sorted_labels=_by_size)
    units = _cluster_numbers(clusters, kept)
    return _alpha(counts, units, _ordinal_distances, seed=seed, level=level, rounds=rounds)


def _present(label: Hashable | None) -> Hashable | None:
    """None for NaN too, which is how tables say missing."""
    return None if isinstance(label, float) and label != label else label


def _any_order(labels: set[Hashable]) -> list[Hashable]:
    # By type and text, so that draws do not depend on the order of a set, which differs from run to run.
    return sorted(labels, key=lambda label: (str(type(label)), repr(label)))


def _by_size(labels: set[Hashable]) -> list[Hashable]:
    numbers = [label for label in labels if isinstance(label, int | float)]
    if len(numbers) != len(labels):
        raise ValueError(f"ordered labels are numbers, got {labels - set(numbers)}")
    return [*sorted(numbers)]


def _label_counts(
    ratings: Ratings, *, sorted_labels: Callable[[set[Hashable]], list[Hashable]]
) -> tuple[FloatArray, list[int]]:
    """[N, C] how many raters gave each label to each item that two or more rated; which items these are."""
    if len(ratings) < 2 or len({len(row) for row in ratings}) != 1:
        raise ValueError("agreement needs two or more raters with one entry for each item")
    items = [
        [label for label in map(_present, column) if label is not None]
        for column in zip(*ratings, strict=True)
    ]
    kept = [index for index, item in enumerate(items) if len(item) > 1]
    items = [items[index] for index in kept]
    if not items:
        raise ValueError("no item was judged by two raters")
    labels = sorted_labels({label for item in items for label in item})
    position = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(items), len(labels)))
    for index, item in enumerate(items):
        for label in item:
            counts[index, position[label]] += 1
    return counts, kept


def _cluster_numbers(clusters: Sequence[Hashable] | None, kept: Sequence[int]) -> list[int]:
    """[N] the number of each kept item's cluster, from 0 without gaps."""
    if clusters is None:
        return list(range(len(kept)))
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(clusters[index], len(numbers)) for index in kept]


def _kappa(tables: FloatArray) -> FloatArray:
    """[R] kappa of [R, C * C] tables of counts; NaN where it is undefined."""
    side = round(tables.shape[1] ** 0.5)
    shares = (tables / tables.sum(axis=1, keepdims=True)).reshape(-1, side, side)
    observed = np.trace(shares, axis1=1, axis2=2)
    expected = (shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1)
    return _ratio(observed - expected, 1 - expected)


def _alpha(
    counts: FloatArray,
    units: Sequence[int],
    distances: Callable[[FloatArray], FloatArray],
    *,
    seed: int,
    level: float,
    rounds: int,
) -> Interval:
    """1 - observed / expected disagreement, from the coincidences within each unit that is drawn."""
    labels = counts.shape[1]
    if labels < 2:
        raise ValueError("alpha needs more than one label: with one, agreement and chance are the same")
    pairs = counts[:, :, None] * counts[:, None, :] - np.eye(labels) * counts[:, :, None]
    coincidences = (pairs / (counts.sum(axis=1) - 1)[:, None, None]).reshape(len(counts), -1)
    drawn = np.zeros((max(units) + 1, labels * labels))
    np.add.at(drawn, list(units), coincidences)

    def alphas(sums: FloatArray) -> FloatArray:
        together = sums.reshape(-1, labels, labels)
        totals = together.sum(axis=2)
        apart = distances(totals)
        n = totals.sum(axis=1)
        observed = (together * apart).sum(axis=(1, 2))
        expected = np.einsum("rc,rk,rck->r", totals, totals, apart) / (n - 1)
        return _ratio(expected - observed, expected)

    return _over_items(drawn, alphas, seed=seed, level=level, rounds=rounds)


def _nominal_distances(totals: FloatArray) -> FloatArray:
    """[R, C, C] 1 between different labels."""
    return np.broadcast_to(1 - np.eye(totals.shape[1]), (*totals.shape, totals.shape[1]))


def _ordinal_distances(totals: FloatArray) -> FloatArray:
    """[R, C, C] squared: the ratings between two labels, half of each label's own among them."""
    ranks = totals.cumsum(axis=1) - totals / 2
    squares: FloatArray = (ranks[:, :, None] - ranks[:, None, :]) ** 2
    return squares


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """NaN where nothing varies; the bound is above rounding and far below what one item can do."""
    varies = below > 1e-12
    return np.divide(above, below, out=np.full_like(below, np.nan), where=varies)


def _over_items(
    items: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    seed: int,
    level: float,
    rounds: int,
) -> Interval:
    """A statistic of the items' sum with its BCa interval.

    Items that contribute the same are alike, so their counts are drawn from a multinomial: the bootstrap's
    own law, at the price of U instead of N.
    """
    check_level(level)
    if rounds < LEAST_ROUNDS:
        raise ValueError(
            f"rounds must be at least {LEAST_ROUNDS}, got {rounds}: the interval's ends are noise"
        )
    kinds, number = np.unique(items, axis=0, return_counts=True)
    n = int(number.sum())
    total = number @ kinds
    estimate = float(statistic(total[None])[0])
    drawn = np.random.default_rng(seed).multinomial(n, number / n, rounds).astype(np.float64)
    replicates = statistic(drawn @ kinds)
    replicates = replicates[np.isfinite(replicates)]
    without = statistic(total - kinds) if n > 1 else np.full(1, np.nan)
    # A label that one item alone knows leaves nothing to measure without it; that item then counts as none.
    influence = np.where(np.isfinite(without), estimate - without, 0.0)
    low, high = bca_ends(estimate, replicates, influence, number.astype(np.float64), level)
    return Interval(estimate, low, high, level, n, "BCa bootstrap over items")
