"""The numerics gate: what is not the same computation is not timed. Pure functions of losses and norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FIRST, LOSS, NORM = 1e-5, 1e-4, 1e-4
"""Relative differences that are let pass: of the first loss, of every loss, of every gradient norm."""
FURTHER = 1.0
"""Times TRL's distance that trimtab's bfloat16 losses may be from the float32 ones."""
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

    Only the losses decide. Both are rounding noise, so over a few steps either may be ahead.
    """
    losses, norms = (
        [[abs(a[name] - b[name]) for a, b in zip(one, curve, strict=True)] for one in (ours, theirs)]
        for name in ("loss", "grad_norm")
    )
    far = " / ".join(f"{max(one):.1e}" for one in losses)
    mean = " / ".join(f"{sum(one) / len(one):.1e}" for one in losses)
    far_norms = " / ".join(f"{max(one):.1e}" for one in norms)
    return Verdict(
        max(losses[0]) <= FURTHER * max(losses[1]),
        f"bfloat16, {len(curve)} steps, trimtab / TRL: losses at most {far} from float32 (mean {mean}), "
        f"gradient norms at most {far_norms}",
    )


def _apart(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)
