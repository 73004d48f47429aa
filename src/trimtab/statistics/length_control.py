"""How often one policy would be preferred if its answers were as long as the other's.

Judges, people among them, like longer answers, so a raw win rate pays for length. The model here is
antisymmetric: exchanging the two policies turns every rate into one minus itself.

    P(left preferred on prompt i) = sigma(theta + phi * t_i),   t_i = tanh((left_i - right_i) / s)

s is the root mean square of the length differences, so that t has no unit and negates with the sides.
tanh, because the tenth extra paragraph impresses less than the first. There is no further intercept: at
equal length (t = 0) only theta, what the policies themselves differ by, is left, and sigma(theta) is the
length-controlled rate. A tie counts as half a win.

Left out on purpose: a difficulty of each prompt, which would need many judgments of each.

Shapes: N = prompts, R = fits at once (1, or bootstrap rounds).

Source: the idea, and tanh of the standardised difference, are those of Dubois et al. 2024, "Length-Controlled
    AlpacaEval", arXiv:2404.04475, without its difficulty term and with an interval of the whole fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtri

from trimtab.statistics.intervals import PERCENT, Interval, check_level
from trimtab.statistics.newton import maximise
from trimtab.statistics.rates import (
    FEW_OUTCOMES,
    FEW_PROMPTS,
    checked_outcomes,
    design_effect,
    rate_interval,
    too_few,
)
from trimtab.statistics.resampling import FloatArray, draws

PRIOR = 1.0
"""Judgments added to each of theta and phi, half of them wins: the log-F(1, 1) prior.

With phi = 0 it is Jeffreys' prior (Firth's penalty) of theta exactly; with both it is preferred to
Jeffreys', which is improper where all differences are equal or 0, as they can be in a bootstrap round, and
not concave. Source: Greenland and Mansournia 2015, Statistics in Medicine 34(23), 3133-3143; Firth 1993,
Biometrika 80(1), 27-38.
"""
ONE_SIDED = 0.95
"""If more prompts than this share have the same side longer, the rate at equal length is extrapolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControlled:
    """The raw and the length-controlled rate of the left policy, to be shown together."""

    raw: Interval
    """Share of prompts on which left was preferred, ties half."""
    controlled: Interval
    """The same at equal length."""
    length_effect: Interval
    """phi, in nats of log-odds: what being much longer is worth; positive when longer is preferred."""
    mean_left: float
    """Mean length of left's answers, in the unit given."""
    mean_right: float
    caution: str
    """Why the controlled rate should be read with care; empty when there is no reason."""


def length_controlled(
    outcomes: FloatArray | Sequence[float],
    left_lengths: FloatArray | Sequence[float],
    right_lengths: FloatArray | Sequence[float],
    *,
    seed: int,
    level: float = 0.95,
    rounds: int = 2_000,
) -> LengthControlled:
    """The raw rate, the rate at equal length, and what length is worth.

    Args:
        outcomes: [N], one a prompt: 1 where left was preferred, 0 where right was, 0.5 for a tie.
        left_lengths: [N] lengths of left's answers, in characters or tokens.
        right_lengths: [N] the same of right's.
        rounds: of the fit's bootstrap; the raw rate has those of `rates.rate_interval`.
    Raises:
        ValueError: sides of different length, fewer than two prompts, a length that is negative or not
            finite, an outcome outside [0, 1], fewer than 100 rounds.
    """
    sample = checked_outcomes(outcomes)
    left, right = _lengths(left_lengths, sample.size), _lengths(right_lengths, sample.size)
    controlled, effect = fit_intervals(sample, left - right, seed=seed, level=level, rounds=rounds)
    return LengthControlled(
        raw=rate_interval(sample, seed=seed, level=level).quoted,
        controlled=controlled,
        length_effect=effect,
        mean_left=float(left.mean()),
        mean_right=float(right.mean()),
        caution=_caution(sample, left - right),
    )


def fit_intervals(
    outcomes: FloatArray, differences: FloatArray, *, seed: int, level: float = 0.95, rounds: int = 2_000
) -> tuple[Interval, Interval]:
    """Fit the model, and again in every round of a bootstrap over prompts, s included.

    The intervals are the estimates ± z bootstrap standard errors in log-odds; that of theta is then made
    a rate. In simulations with known truth (benchmarks/interval_coverage.py) it holds theta 93 to 97
    times in 100 from 200 prompts on. Percentile, BCa and bootstrap-t intervals of the same rounds came out 1
    to 3 points lower: the spread of a log-odds grows outwards, so their outer end is too far and their inner
    too near.

    Where the fit is all but certain of every outcome (fewer than 10 are expected to go against it, because
    one policy always wins or because the longer answer does), or where nearly all are ties (fewer than 10
    wins or losses), all rounds are alike and their spread means nothing: the larger of it and the curvature's
    standard error is used then. The curvature takes every outcome for a win or a loss; ties vary less, so
    its error is scaled by the root of their design effect (`rates.design_effect`; 1 without ties).

    Args:
        outcomes: [N] in [0, 1]
        differences: [N] left's length less right's.
    Returns:
        The length-controlled rate, and phi in nats.
    Raises:
        ValueError: fewer than 100 rounds, or a level outside (0, 1).
    """
    check_level(level)
    estimate, curvature_errors, surprises = _fit_once(outcomes, differences)
    replicates = np.concatenate(
        [
            _fit(outcomes[drawn], differences[drawn], np.broadcast_to(estimate, (len(drawn), 2)))
            for drawn in draws(outcomes.size, rounds, seed)
        ]
    )
    errors = np.sqrt(((replicates - replicates.mean(axis=0)) ** 2).mean(axis=0))
    if surprises < FEW_OUTCOMES or too_few(outcomes):
        errors = np.maximum(errors, design_effect(outcomes, level) ** 0.5 * curvature_errors)
    half = float(ndtri((1 + level) / 2)) * errors
    ends = np.stack([estimate, estimate - half, estimate + half])
    return (
        _interval(expit(ends[:, 0]), level, outcomes.size),
        _interval(ends[:, 1], level, outcomes.size),
    )


def _interval(ends: FloatArray, level: float, prompts: int) -> Interval:
    estimate, low, high = ends.tolist()
    return Interval(estimate, low, high, level, prompts, "bootstrap over prompts of the whole fit")


def _lengths(values: FloatArray | Sequence[float], prompts: int) -> FloatArray:
    lengths = np.asarray(values, dtype=np.float64)
    if prompts < 2 or lengths.shape != (prompts,):
        raise ValueError(f"each side needs one length a prompt, and at least two, got {lengths.shape}")
    if not (np.isfinite(lengths) & (lengths >= 0)).all():
        raise ValueError("a length is negative or not finite")
    return lengths


def _fit_once(outcomes: FloatArray, differences: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """[2] theta and phi, [2] their errors by the curvature, and how many outcomes are expected against."""
    contrasts = _contrasts(differences[None])
    fitted = _fit(outcomes[None], differences[None], np.zeros((1, 2)))
    _, curvature = _derivatives(fitted, outcomes[None], contrasts)
    surprises = expit(-np.abs(fitted[:, :1] + fitted[:, 1:] * contrasts)).sum()
    return fitted[0], np.sqrt(np.diagonal(np.linalg.inv(curvature[0]))), float(surprises)


def _fit(outcomes: FloatArray, differences: FloatArray, start: FloatArray) -> FloatArray:
    """[R, 2] theta and phi of R data sets [R, N]."""
    contrasts = _contrasts(differences)
    return maximise(
        lambda parameters: _derivatives(parameters, outcomes, contrasts),
        lambda steps: np.abs(steps).sum(axis=1),  # |t| <= 1
        start,
    )


def _contrasts(differences: FloatArray) -> FloatArray:
    """[R, N] t; 0 where all differences of a data set are 0, which have no scale."""
    scale = np.sqrt(np.einsum("rn,rn->r", differences, differences) / differences.shape[1])
    contrasts: FloatArray = np.tanh(differences / np.where(scale > 0, scale, 1.0)[:, None])
    return contrasts


def _derivatives(
    parameters: FloatArray, outcomes: FloatArray, contrasts: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Gradients [R, 2] and negated Hessians [R, 2, 2] of the log-likelihood with its prior."""
    chances = expit(parameters[:, :1] + parameters[:, 1:] * contrasts)
    surplus = outcomes - chances
    spread = chances * (1 - chances)
    across = spread * contrasts
    prior = expit(parameters)
    gradients = PRIOR * (0.5 - prior)
    gradients += np.stack([surplus.sum(axis=1), np.einsum("rn,rn->r", surplus, contrasts)], axis=1)
    mixed = across.sum(axis=1)
    curvatures = np.stack(
        [spread.sum(axis=1), mixed, mixed, np.einsum("rn,rn->r", across, contrasts)], axis=1
    )
    curvatures[:, [0, 3]] += PRIOR * prior * (1 - prior)
    return gradients, curvatures.reshape(-1, 2, 2)


def _caution(outcomes: FloatArray, differences: FloatArray) -> str:
    """What speaks against the controlled rate, the gravest first."""
    longer = float((differences > 0).mean())
    longer, side = max((longer, "left"), (float((differences < 0).mean()), "right"))
    few = too_few(outcomes)
    decided = not few and _fit_once(outcomes, differences)[2] < FEW_OUTCOMES
    reasons = [
        (not differences.any(), "All pairs are of equal length, so there was nothing to control for."),
        (
            longer > ONE_SIDED,
            f"The {side} answer is the longer one on {100 * longer:.0f}{PERCENT} of prompts, so the rate at "
            "equal length is extrapolated.",
        ),
        (bool(few), f"Only {few} prompts: the interval is rough."),
        (decided, "Length alone tells nearly every outcome, so little is left to tell the policies by."),
        (
            outcomes.size < FEW_PROMPTS and not few,
            f"Only {outcomes.size} prompts: the interval is rough.",
        ),
    ]
    return " ".join(text for applies, text in reasons if applies)
