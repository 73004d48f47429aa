"""Verification: every closed-form property, and one known-optimum run per trainer, as one table.

So that anyone can see on their own machine that the numbers are right. Tests hold the same
properties; this shows how near each came.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from trimtab import __version__
from trimtab.errors import ConfigError
from trimtab.lab.properties import PROPERTIES
from trimtab.lab.properties.property import Lab, Property
from trimtab.lab.world import World
from trimtab.lab.worlds import random_world
from trimtab.model.device import Numerics
from trimtab.pages.page import Figure, Picture, render
from trimtab.pipeline.known_optimum import (
    Approach,
    dpo_with_weights,
    ppo_with_weights,
    reward_with_weights,
    sft_with_weights,
)
from trimtab.runs import progress
from trimtab.runs.files import write_text
from trimtab.statistics.intervals import number

BETA = 0.5


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    formula: str
    measured: float
    allowed: float
    approach: Approach | None = None
    """How a trainer came there; none for a closed form."""

    @property
    def holds(self) -> bool:
        """Whether the error is within what is allowed; one that is not a number is not."""
        return 0 <= self.measured <= self.allowed

    @property
    def verdict(self) -> str:
        """For the table."""
        return "holds" if self.holds else "FAILS"


@dataclass(frozen=True)
class KnownOptimum:
    """A trainer's run in a world whose optimum is known."""

    name: str
    formula: str
    allowed: float
    run: Callable[[World, Numerics], Approach]


KNOWN_OPTIMA = (
    KnownOptimum(
        "SFT comes to the distribution it is shown",
        "KL(p‖π) → 0",
        1e-3,
        lambda world, numerics: sft_with_weights(world, numerics, steps=300),
    ),
    KnownOptimum(
        "the reward model finds the rewards behind the choices",
        "max |r̂ − r − c(x)| → 0",
        0.02,
        lambda world, numerics: reward_with_weights(world, numerics, steps=400),
    ),
    KnownOptimum(
        "DPO comes to π*",
        "β KL(π‖π*) → 0",
        1e-3 * BETA,
        lambda world, numerics: dpo_with_weights(world, numerics, steps=300),
    ),
    KnownOptimum(
        "PPO comes to the same π*",
        "β KL(π‖π*) → 0",
        1e-3 * BETA,
        lambda world, numerics: ppo_with_weights(world, numerics, updates=800),
    ),
)


def verify(numerics: Numerics) -> list[Result]:
    """Every property and every known optimum, with a bar.

    Raises:
        ConfigError: the device has no float64, which closed forms are measured in.
    """
    if numerics.device.type == "mps":
        raise ConfigError(
            "closed forms are measured in float64, which this device has not",
            where="device",
            found=str(numerics.device),
            fix="use --device cpu",
        )
    total = len(PROPERTIES) + len(KNOWN_OPTIMA)
    results = []
    with progress.bar("verifying", total, unit="checks") as bar:
        for result in _results(numerics):
            results.append(result)
            bar.advance(note=result.name)
    return results


def _results(numerics: Numerics) -> Iterator[Result]:
    lab = Lab(numerics)
    with progress.hidden():
        for known in PROPERTIES:
            yield _measured(known, lab)
    world = random_world(vocabulary=3, limit=2, beta=BETA, seed=5)
    for optimum in KNOWN_OPTIMA:
        approach = optimum.run(world, numerics)
        yield Result(optimum.name, optimum.formula, approach.final, optimum.allowed, approach)


def _measured(known: Property, lab: Lab) -> Result:
    return Result(f"{known.number}. {known.name}", known.formula, known.measure(lab), known.allowed)


def table(results: list[Result]) -> list[tuple[str, ...]]:
    """Head and rows, as text."""
    rows = [
        (result.name, result.formula, f"{result.measured:.1e}", f"{result.allowed:.1e}", result.verdict)
        for result in results
    ]
    return [("property", "formula", "measured", "allowed", "verdict"), *rows]


def headline(results: list[Result]) -> str:
    """How many hold."""
    failing = [result for result in results if not result.holds]
    if not failing:
        return f"All {len(results)} checks hold"
    return f"{len(failing)} of {len(results)} checks fail: {', '.join(result.name for result in failing)}"


def write_page(path: Path, results: list[Result], numerics: Numerics) -> Path:
    """The table with the pictures of how each trainer approached its optimum, as one HTML file."""
    pictures = [_picture(result) for result in results if result.approach is not None]
    rows = table(results)
    facts = (
        f"trimtab {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{numerics.name}"
    )
    text = render(
        "pipeline/verification.html",
        nonce=hashlib.sha256(repr(rows).encode()).hexdigest(),
        pictures=pictures,
        headline=headline(results),
        closed=[rows[0], *(row for row, one in zip(rows[1:], results, strict=True) if not one.approach)],
        trained=[rows[0], *(row for row, one in zip(rows[1:], results, strict=True) if one.approach)],
        drawn=pictures,
        facts=facts,
    )
    write_text(path, text)
    return path


def _picture(result: Result) -> Picture:
    approach = result.approach
    assert approach is not None
    ends = f"from {number(approach.range, 3)} to {approach.final:.1e}"
    return Picture(
        key=f"approach-{hashlib.sha256(result.name.encode()).hexdigest()[:8]}",
        title=result.name,
        label=f"What is missing by step, {ends}; allowed: {result.allowed:.1e}.",
        figure=_curve(approach, result.allowed),
    )


def _curve(approach: Approach, allowed: float) -> Figure:
    last = len(approach.gaps) - 1
    line = {"type": "scatter", "mode": "lines", "hovertemplate": "step %{x}: %{y:.2e}<extra></extra>"}
    return {
        "data": [
            {**line, "x": list(range(last + 1)), "y": list(approach.gaps), "line": {"color": "#3f83cc"}},
            {**line, "x": [0, last], "y": [allowed] * 2, "line": {"color": "#8a8f96", "dash": "dash"}},
        ],
        "layout": {
            "height": 240,
            "xaxis": {"title": {"text": "step"}, "zeroline": False},
            "yaxis": {"type": "log", "zeroline": False, "exponentformat": "power", "nticks": 7},
            "margin": {"l": 52, "r": 10, "t": 6, "b": 44},
            "showlegend": False,
        },
    }
