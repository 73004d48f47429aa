"""The numerics gate: what is not the same computation is not timed. Pure functions of losses and norms."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

FIRST, LOSS, NORM = 1e-5, 1e-4, 1e-4
"""Relative differences that are let pass: of the first loss, of every loss, of every gradient norm."""
FURTHER = 1.0
"""Times TRL's distance that trimtab's bfloat16 losses may be from the float32 ones."""
RESAMPLES, BLOCK, OUTSIDE = 2000, 4, 0.05
"""Of the interval beside the verdict: draws, steps drawn together, and the share left out on either side."""
Step = dict[str, Any]
"""Of an arm: loss, grad_norm."""


@dataclass(frozen=True)
class Verdict:
    """What was compared, whether it passes, and the line that says so."""

    passed: bool
    text: str


def float32_verdict(name: str, ours: Sequence[Step], theirs: Sequence[Step]) -> Verdict:
    """Our float32 steps beside those of a TRL arm, which may be fewer."""
    ours = ours[: len(theirs)]
    losses = [_apart(a["loss"], b["loss"]) for a, b in zip(ours, theirs, strict=True)]
    norms = [_apart(a["grad_norm"], b["grad_norm"]) for a, b in zip(ours, theirs, strict=True)]
    passed = losses[0] <= FIRST and max(losses) <= LOSS and max(norms) <= NORM
    return Verdict(
        passed,
        f"float32, {len(theirs)} steps beside {name}: first loss {losses[0]:.1e} apart, "
        f"all losses {max(losses):.1e}, gradient norms {max(norms):.1e}",
    )


def bfloat16_verdict(ours: Sequence[Step], theirs: Sequence[Step], curve: Sequence[Step]) -> Verdict:
    """Distances of both bfloat16 curves from the same float32 one: TRL's own.

    What decides is the root mean square of the losses' distances over all steps. Each distance is rounding
    noise: the largest of them, or the last, is one draw of it and falls either way between equals, while the
    root mean square estimates the noise's size from every step. Between equals it still falls either way; the
    limit is 1 all the same, and the interval says how firm the ratio is. It is drawn from blocks of steps, as
    neighbouring distances resemble each other, and the same steps of both arms, as a batch that is hard to
    round is so for both.
    """
    mine, other = (
        [abs(a["loss"] - b["loss"]) for a, b in zip(one, curve, strict=True)] for one in (ours, theirs)
    )
    norms = (
        max(abs(a["grad_norm"] - b["grad_norm"]) for a, b in zip(one, curve, strict=True))
        for one in (ours, theirs)
    )
    low, high = ratio_interval(mine, other)
    nearer = sum(a < b for a, b in zip(mine, other, strict=True))
    both = (mine, other)
    return Verdict(
        _rms(mine) <= FURTHER * _rms(other),
        f"bfloat16, {len(curve)} steps, losses' distance from float32, trimtab / TRL: root mean square "
        f"{_told(map(_rms, both))}, ratio {_ratio(_rms(mine), _rms(other)):.2f} "
        f"({100 * (1 - 2 * OUTSIDE):.0f} % of resampled blocks {low:.2f} - {high:.2f}, at most {FURTHER:g} "
        f"passes); mean {_told(sum(one) / len(one) for one in both)}, largest {_told(map(max, both))}, "
        f"last {_told(one[-1] for one in both)}; trimtab is nearer at {nearer} steps; gradient norms at most "
        f"{_told(norms)} away",
    )


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Where the ratio of root mean squares lies in most redraws of blocks of steps, of both arms alike."""
    count = len(ours)
    length = min(BLOCK, max(count // 4, 1))
    generator = random.Random(0)
    ratios = []
    for _ in range(RESAMPLES):
        firsts = [generator.randrange(count) for _ in range(-(-count // length))]
        steps = [(first + offset) % count for first in firsts for offset in range(length)][:count]
        ratios.append(_ratio(*(_rms([one[step] for step in steps]) for one in (ours, theirs))))
    ratios.sort()
    outside = int(OUTSIDE * RESAMPLES)
    return ratios[outside], ratios[-1 - outside]


def _rms(distances: Sequence[float]) -> float:
    return math.sqrt(sum(distance**2 for distance in distances) / len(distances))


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.inf if ours else 1.0


def _told(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.1e}" for value in values)


def _apart(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)
