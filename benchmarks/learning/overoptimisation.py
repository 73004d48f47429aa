"""Whether gold falls while the proxy rises: from the curves of PPO with fixed KL weights.

A run's updates are averaged in blocks of one lap of the prompts, so that neighbouring points have answered
the same ones. The highest of several noisy means lies too high; so the peak of each seed is looked for in the
other seeds' curves, and its height taken from this seed's own.

Dimensions: S = seeds, B = blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Z = 1.959963984540054
"""Of the normal distribution: 95 % lie within."""


@dataclass(frozen=True)
class Curve:
    """One run in blocks: means, and the standard errors that its answers give them."""

    seed: int
    kl: FloatArray  # [B] nats a response
    gold: FloatArray  # [B]
    gold_error: FloatArray
    proxy: FloatArray  # [B] deviations of the reference's answers
    proxy_error: FloatArray


@dataclass(frozen=True)
class Change:
    """From the peak of gold to the end: mean over seeds, 95 % by the answers' spread."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    """What one KL weight gave."""

    beta: float
    peaks: tuple[int, ...]
    """The block of each seed's peak, from 0."""
    kl_at_peak: float
    kl_at_end: float
    gold_at_peak: float
    gold_at_end: float
    gold: Change
    proxy: Change

    @property
    def over_optimised(self) -> bool:
        """Whether gold fell and the proxy rose, both beyond their intervals."""
        return self.gold.high < 0 < self.proxy.low

    def text(self) -> str:
        """A sentence."""
        if self.over_optimised:
            verdict = "over-optimised: gold falls while the proxy rises"
        elif self.gold.low > 0:
            verdict = "not over-optimised: gold still rises"
        else:
            verdict = "no over-optimisation shown"
        peak, end = (f"(KL {nats:.1f})" for nats in (self.kl_at_peak, self.kl_at_end))
        return (
            f"β = {self.beta:g}: from its peak {peak} to the end {end} gold goes from "
            f"{self.gold_at_peak:.3f} to {self.gold_at_end:.3f}, by {_told(self.gold)}, the "
            f"proxy by {_told(self.proxy)}: {verdict}"
        )


def curve(run: Mapping[str, Any], block: int) -> Curve:
    """The blocks of a run's log; updates that fill no block are left out at the beginning."""
    rows = run["updates"]
    count = len(rows) // block
    rows = rows[len(rows) - count * block :]
    answers = block * run["rollouts"]

    def means(name: str) -> FloatArray:
        found: FloatArray = np.reshape([row[name] for row in rows], (count, block)).mean(axis=1)
        return found

    def errors(name: str) -> FloatArray:
        squares = np.reshape([row[f"{name}_deviation"] ** 2 for row in rows], (count, block))
        found: FloatArray = np.sqrt(squares.mean(axis=1) / answers)
        return found

    return Curve(run["seed"], means("kl"), means("gold"), errors("gold"), means("proxy"), errors("proxy"))


def finding(beta: float, curves: Sequence[Curve]) -> Finding:
    """Peak and end of the runs with one KL weight."""
    peaks = tuple(peak_of_others(curves, index) for index in range(len(curves)))

    def at_peaks(name: str) -> float:
        return float(np.mean([getattr(one, name)[peak] for one, peak in zip(curves, peaks, strict=True)]))

    def at_end(name: str) -> float:
        return float(np.mean([getattr(one, name)[-1] for one in curves]))

    return Finding(
        beta=beta,
        peaks=peaks,
        kl_at_peak=at_peaks("kl"),
        kl_at_end=at_end("kl"),
        gold_at_peak=at_peaks("gold"),
        gold_at_end=at_end("gold"),
        gold=_change(curves, peaks, "gold"),
        proxy=_change(curves, peaks, "proxy"),
    )


def peak_of_others(curves: Sequence[Curve], index: int) -> int:
    """The block where the mean gold of all seeds but this one is highest."""
    others = [one.gold for place, one in enumerate(curves) if place != index or len(curves) == 1]
    return int(np.mean(others, axis=0).argmax())


def _change(curves: Sequence[Curve], peaks: Sequence[int], name: str) -> Change:
    changes, variance = [], 0.0
    for one, peak in zip(curves, peaks, strict=True):
        values, errors = getattr(one, name), getattr(one, f"{name}_error")
        changes.append(values[-1] - values[peak])
        if peak != len(values) - 1:
            variance += float(errors[-1] ** 2 + errors[peak] ** 2)
    mean, error = float(np.mean(changes)), math.sqrt(variance) / len(curves)
    return Change(mean, mean - Z * error, mean + Z * error)


def _told(change: Change) -> str:
    return f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
