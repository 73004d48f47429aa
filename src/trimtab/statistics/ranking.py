"""Ranks many policies from judged pairs: Bradley-Terry strengths with intervals over prompts.

    P(i preferred to j) = sigma(strength_i - strength_j)

Strengths are in nats of log-odds, with mean 0: a difference of 1 is a win rate of 73 %. Times 400 / ln 10
(173.7) they would be on Elo's scale. Left out on purpose: online Elo, which depends on the order of the
judgments.

Shapes: K = players, J = judgments, N = prompts, M = pairs of players that met, R = bootstrap rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from trimtab.statistics.intervals import Interval, check_level
from trimtab.statistics.newton import maximise
from trimtab.statistics.rates import FEW_OUTCOMES, FEW_PROMPTS, design_effect
from trimtab.statistics.resampling import FloatArray, IntArray, draw_counts

ALIKE = 1e-9
"""Nats: bootstrap rounds that spread less than this differ by rounding only."""


class Judged(NamedTuple):
    """One judgment of two players' answers to one prompt."""

    prompt: int
    """Any number, the same for all judgments of a prompt."""
    left: int
    """Position of the player among the names."""
    right: int
    score: float
    """1 left preferred, 0 right preferred, 0.5 a tie; anything between for several votes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Players in the order given, with what can be said about their order."""

    names: tuple[str, ...]
    strengths: tuple[Interval, ...]
    """[K] in nats, mean 0. `n` is the number of prompts on which the player was judged."""
    ranks: tuple[int, ...]
    """[K] 1 + the number of players whose whole interval lies above this one's; ranks can be shared."""
    caution: str
    """Where intervals are rough; empty when they are not."""


class _Table(NamedTuple):
    """The judgments, summed by prompt and pair."""

    pairs: IntArray
    """[M, 2] players, the smaller position first."""
    wins: FloatArray
    """[N, M] of the first of each pair, ties half."""
    games: FloatArray
    """[N, M]"""


def rank(
    names: Sequence[str],
    judgments: Sequence[Judged],
    *,
    seed: int,
    level: float = 0.95,
    rounds: int = 2_000,
) -> Ranking:
    """Maximum-likelihood strengths, nearly: a tiny prior keeps a player finite who never lost.

    The prior adds K - 1 judgments in all, ties, spread evenly over the pairs that met: as many as there
    are free strengths, which for two players is Jeffreys' prior. All judgments of a prompt are drawn
    together in the bootstrap, since they share its answers. The interval is the estimate ± z bootstrap
    standard errors, as in `length_control` and for its reasons. For a player with fewer than 10 prompts'
    worth of wins or losses (ties are neither), or whose strength is the same in every round, the larger of
    these and the curvature's standard error is taken, with every prompt counted as one judgment and scaled
    for ties as in `length_control`, and `caution` names the player.

    Raises:
        ValueError: fewer than two players, a name twice, a judgment of a player by itself, of a position
            that has no name, or with a score outside [0, 1]; players that no chain of judgments connects;
            fewer than 100 rounds.
    Source: Bradley and Terry 1952, Biometrika 39, 324-345; ranks as in Chiang et al. 2024, "Chatbot
        Arena", arXiv:2403.04132.
    """
    check_level(level)
    table = _table(names, judgments)
    _require_connected(names, table.pairs)
    wins, games = table.wins.sum(axis=0), table.games.sum(axis=0)
    estimate = _fit(table.pairs, wins[None], games[None], np.zeros((1, len(names))))
    replicates = np.concatenate(
        [
            _fit(table.pairs, counts @ table.wins, counts @ table.games, estimate.repeat(len(counts), axis=0))
            for counts in draw_counts(len(table.games), rounds, seed)
        ]
    )
    errors = np.sqrt(((replicates - replicates.mean(axis=0)) ** 2).mean(axis=0))
    rough = _few(table, len(names)) | (errors < ALIKE)
    errors = np.where(rough, np.maximum(errors, _curvature_errors(table, estimate, level)), errors)
    strengths = _intervals(
        estimate[0], float(ndtri((1 + level) / 2)) * errors, level, _prompts(table, len(names))
    )
    return Ranking(
        names=tuple(names),
        strengths=strengths,
        ranks=ranks_by_overlap(strengths),
        caution=_caution([name for name, so in zip(names, rough, strict=True) if so], len(table.games)),
    )


def ranks_by_overlap(intervals: Sequence[Interval]) -> tuple[int, ...]:
    """[K] 1 + the number of intervals that lie wholly above each."""
    return tuple(1 + sum(other.low > own.high for other in intervals) for own in intervals)


def _table(names: Sequence[str], judgments: Sequence[Judged]) -> _Table:
    players = len(names)
    if players < 2 or len(set(names)) != players:
        raise ValueError(f"a ranking needs at least two players with names of their own, got {list(names)}")
    if not judgments:
        raise ValueError("a ranking needs judgments, got none")
    rows = np.array(judgments, dtype=np.float64)
    sides, scores = rows[:, 1:3].astype(np.int64), rows[:, 3]
    if (sides < 0).any() or (sides >= players).any() or (sides[:, 0] == sides[:, 1]).any():
        raise ValueError(f"each judgment is of two different players out of 0 to {players - 1}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores lie in [0, 1]")
    first_wins = np.where(sides[:, 0] < sides[:, 1], scores, 1 - scores)
    sides.sort(axis=1)
    pairs, pair = np.unique(sides, axis=0, return_inverse=True)
    prompts, prompt = np.unique(rows[:, 0], return_inverse=True)
    wins, games = np.zeros((2, len(prompts), len(pairs)))
    np.add.at(wins, (prompt, pair), first_wins)
    np.add.at(games, (prompt, pair), 1.0)
    return _Table(pairs, wins, games)


def _require_connected(names: Sequence[str], pairs: IntArray) -> None:
    """Raise ValueError naming a group that never met the others."""
    group = {0}
    while True:
        reached = {int(player) for pair in pairs if group & set(pair.tolist()) for player in pair} | group
        if reached == group:
            break
        group = reached
    if len(group) < len(names):
        inside = ", ".join(names[player] for player in sorted(group))
        outside = ", ".join(name for player, name in enumerate(names) if player not in group)
        raise ValueError(f"no judgment connects {inside} with {outside}: they cannot be ranked together")


def _fit(pairs: IntArray, wins: FloatArray, games: FloatArray, start: FloatArray) -> FloatArray:
    """[R, K] strengths with mean 0 from [R, M] wins of the first of each pair, and games."""
    players = start.shape[1]
    prior = (players - 1) / len(pairs)
    design = np.zeros((len(pairs), players))
    design[np.arange(len(pairs)), pairs[:, 0]] = 1
    design[np.arange(len(pairs)), pairs[:, 1]] = -1

    def derivatives(strengths: FloatArray) -> tuple[FloatArray, FloatArray]:
        chances = expit(strengths @ design.T)
        gradients = (wins + prior / 2 - (games + prior) * chances) @ design
        weights = (games + prior) * chances * (1 - chances)
        curvatures = np.einsum("rm,mk,ml->rkl", weights, design, design, optimize=True)
        return gradients, curvatures + 1 / players  # the mean's direction, which the data leave open

    return maximise(derivatives, lambda steps: np.ptp(steps, axis=1), start)


def _curvature_errors(table: _Table, estimate: FloatArray, level: float) -> FloatArray:
    """[K] standard errors if each prompt said one thing only about each player, smaller for ties."""
    players = estimate.shape[1]
    gaps = estimate[0, table.pairs[:, 0]] - estimate[0, table.pairs[:, 1]]
    weights = (table.games.sum(axis=0) + (players - 1) / len(table.pairs)) * expit(gaps) * expit(-gaps)
    curvature = np.zeros((players, players))
    for (first, second), weight in zip(table.pairs.tolist(), weights.tolist(), strict=True):
        curvature[[first, second], [first, second]] += weight
        curvature[[first, second], [second, first]] -= weight
    covariance = np.linalg.inv(curvature + 1 / players) - 1 / players
    each = _by_player(table.games, table.pairs, players).sum(axis=0) / _prompts(table, players)
    ties = [design_effect(_shares(table, player), level) for player in range(players)]
    errors: FloatArray = np.sqrt(np.diagonal(covariance) * each * ties)
    return errors


def _shares(table: _Table, player: int) -> FloatArray:
    """The player's share of each meeting of a pair on a prompt, all in one row."""
    first, second = (table.pairs == player).T
    wins = np.concatenate([table.wins[:, first], (table.games - table.wins)[:, second]], axis=1)
    games = np.concatenate([table.games[:, first], table.games[:, second]], axis=1)
    shares: FloatArray = wins[games > 0] / games[games > 0]
    return shares


def _by_player(values: FloatArray, pairs: IntArray, players: int) -> FloatArray:
    """[N, K] sums over the pairs that a player is in."""
    member = (pairs[:, :, None] == np.arange(players)).any(axis=1).astype(np.float64)
    sums: FloatArray = values @ member
    return sums


def _prompts(table: _Table, players: int) -> IntArray:
    """[K] on how many prompts each player was judged."""
    prompts: IntArray = (_by_player(table.games, table.pairs, players) > 0).sum(axis=0)
    return prompts


def _few(table: _Table, players: int) -> NDArray[np.bool_]:
    """[K] whether a player has too few wins or losses, in prompts' worth; ties are neither."""
    games = _by_player(table.games, table.pairs, players)
    share = np.divide(table.wins, table.games, out=np.full_like(table.wins, 0.5), where=table.games > 0)
    first_won, second_won = table.games * (share > 0.5), table.games * (share < 0.5)
    wins, losses = np.zeros((2, *games.shape))
    for index, (first, second) in enumerate(table.pairs.tolist()):
        wins[:, first] += first_won[:, index]
        losses[:, first] += second_won[:, index]
        wins[:, second] += second_won[:, index]
        losses[:, second] += first_won[:, index]
    worth = [
        np.divide(won, games, out=np.zeros_like(games), where=games > 0).sum(axis=0) for won in (wins, losses)
    ]
    few: NDArray[np.bool_] = np.minimum(*worth) < FEW_OUTCOMES
    return few


def _intervals(
    estimate: FloatArray, half: FloatArray, level: float, prompts: IntArray
) -> tuple[Interval, ...]:
    return tuple(
        Interval(middle, middle - width, middle + width, level, n, "bootstrap over prompts of the whole fit")
        for middle, width, n in zip(estimate.tolist(), half.tolist(), prompts.tolist(), strict=True)
    )


def _caution(rough: Sequence[str], prompts: int) -> str:
    parts = [f"Only {prompts} prompts: the intervals are rough."] if prompts < FEW_PROMPTS else []
    if rough:
        parts.append(
            f"Fewer than {FEW_OUTCOMES} prompts' worth of wins or losses, or the same on every prompt: "
            f"{', '.join(rough)}. A strength that rests on so few is held finite by a small prior, and its "
            "interval is rough."
        )
    return " ".join(parts)
