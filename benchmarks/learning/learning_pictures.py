"""The pictures of learning.py: SmolLM2 as it learns, and gold and proxy against KL at fixed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from overoptimisation import Curve

GOLD, PROXY, PLAIN, PALE = "#cf7a1f", "#3f83cc", "#59616a", "#8a8f96"
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white"}
MARKS = "os^Dv"


def draw_betas(curves: Mapping[float, Sequence[Curve]], path: Path) -> None:
    """One panel a weight: gold on the left axis, the proxy on the right; a mark is a lap of the prompts."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * len(curves), 4), layout="constrained")
        panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        rights = [axes.twinx() for axes in panels]
        for axes, right, (beta, runs) in zip(panels, rights, curves.items(), strict=True):
            for number, one in enumerate(runs):
                mark = MARKS[number % len(MARKS)]
                right.plot(one.kl, one.proxy, f"{mark}--", color=PROXY, ms=3, linewidth=1)
                axes.plot(one.kl, one.gold, f"{mark}-", color=GOLD, ms=4, linewidth=1.5)
            axes.set_title(f"β = {beta:g}")
            axes.set_xlabel("KL from the reference, nats a response")
            right.spines["right"].set_visible(True)
        proxies = [float(value) for runs in curves.values() for one in runs for value in one.proxy]
        for right in rights:
            right.set_ylim(min(0.0, *proxies), 1.05 * max(proxies))
            right.tick_params(axis="y", colors=PROXY, labelright=right is rights[-1])
        panels[0].set_ylabel("gold P(positive), solid", color=GOLD)
        rights[-1].set_ylabel("proxy, deviations, dashed", color=PROXY)
        figure.suptitle("PPO with fixed KL weights on the bundled model; a mark shape is a seed", fontsize=11)
        figure.savefig(path, dpi=120)


def draw_learning(
    runs: Sequence[Mapping[str, Any]], policies: Mapping[str, Mapping[str, Any]], target: float, path: Path
) -> None:
    """Gold of each update's rollouts, their KL and its target, and gold against KL on test prompts."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for number, run in enumerate(runs):
            shade = {"color": GOLD, "alpha": 1 - 0.3 * (number % 3), "linewidth": 1.2}
            episodes = [row["step"] * run["rollouts"] for row in run["updates"]]
            left.plot(episodes, [row["gold"] for row in run["updates"]], **shade)
            middle.plot(episodes, [row["kl"] for row in run["updates"]], **shade, label=f"seed {run['seed']}")
        middle.axhline(target, color=PALE, linewidth=1)
        middle.legend(frameon=False)
        left.set(xlabel="episodes", ylabel="gold P(positive) of the rollouts", title="PPO on SmolLM2-135M")
        middle.set(xlabel="episodes", ylabel="KL, nats a response", title="Adaptive KL (line: the target)")
        _frontier(right, policies)
        figure.savefig(path, dpi=120)


def _frontier(axes: Axes, policies: Mapping[str, Mapping[str, Any]]) -> None:
    for name, one in policies.items():
        colour = GOLD if name.startswith("PPO") else PLAIN
        axes.plot([one["kl"]], [one["gold"]], "o", color=colour, ms=5)
        axes.annotate(name, (one["kl"], one["gold"]), xytext=(5, -3), textcoords="offset points", fontsize=9)
    axes.margins(x=0.2)
    axes.set(
        xlabel="KL, nats a response (best of n: at most)", ylabel="gold P(positive)", title="Test prompts"
    )
