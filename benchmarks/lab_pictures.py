"""The pictures and the table of benchmarks/lab.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"dpo": "#3f83cc", "ppo": "#cf7a1f"}
SHADES = {0.3: ":", 0.7: "-", 1.5: "--"}

Rows = Sequence[Mapping[str, Any]]


def draw(rows: Rows, folder: Path, law: Mapping[int, float]) -> None:
    """Write convergence.png and sampling.png, and print the table of final gaps."""
    matplotlib.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    _convergence(rows, folder / "convergence.png")
    _sampling(rows, folder / "sampling.png", law)
    for line in table(rows, law):
        print(line)


def table(rows: Rows, law: Mapping[int, float]) -> Iterable[str]:
    """Markdown: the final gap of each arm, mean and largest over seeds."""
    yield "| arm | beta | size | seeds | gap, mean | gap, largest | mean, share of J* - J_ref | law |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for (arm, beta, size), group in _grouped(rows).items():
        finals = [row["final"] for row in group]
        share = mean(row["final"] / row["range"] for row in group)
        expected = f"{law[size]:.1e}" if arm == "dpo-sampled" else ""
        yield (
            f"| {arm} | {beta} | {size:,} | {len(group)} | {mean(finals):.1e} | {max(finals):.1e} "
            f"| {100 * share:.2f} % | {expected} |"
        )


def _grouped(rows: Rows) -> dict[tuple[str, float, int], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, float, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["arm"], row["beta"], row["size"]].append(row)
    return groups


def _convergence(rows: Rows, path: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, arm, title in (
        (left, "dpo-exact", "DPO, exact weights (line: what is allowed)"),
        (right, "ppo-exact", "PPO, exact weights (line: what is allowed)"),
    ):
        _curves(axes, [row for row in rows if row["arm"] == arm], arm)
        axes.set_title(title)
        axes.set_xlabel("step")
    left.set_ylabel("KL(π‖π*) = gap / β, nats")
    figure.savefig(path, dpi=150)


def _curves(axes: Axes, rows: Rows, arm: str) -> None:
    for row in rows:
        steps, gaps = zip(*row["gaps"], strict=True)
        label = f"β = {row['beta']}" if row["seed"] == 0 else None
        axes.plot(
            steps,
            [gap / row["beta"] for gap in gaps],
            SHADES[row["beta"]],
            color=COLOURS[arm[:3]],
            linewidth=1,
            label=label,
        )
    axes.axhline(1e-3, color="#8a8f96", linewidth=1)
    axes.set_yscale("log")
    axes.legend(frameon=False)


def _sampling(rows: Rows, path: Path, law: Mapping[int, float]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = [row for row in rows if row["arm"] == "dpo-sampled"]
    left.plot(
        [row["size"] for row in drawn], [row["final"] for row in drawn], "o", color=COLOURS["dpo"], ms=4
    )
    left.plot(list(law), list(law.values()), color="#59616a", linewidth=1, label="tr(C I⁺) / (2βN)")
    left.set(
        xscale="log",
        yscale="log",
        xlabel="judged pairs N",
        ylabel="gap, reward",
        title="DPO's sampling error",
    )
    left.legend(frameon=False)
    for arm, style, label in (
        ("ppo-sampled", "-", "centred, λ = 1, rate → 0"),
        ("ppo-defaults", ":", "defaults"),
    ):
        for row in (row for row in rows if row["arm"] == arm):
            steps, gaps = zip(*row["gaps"], strict=True)
            episodes = [step * 512 / 1000 for step in steps]
            named = label if row["seed"] == 0 else None
            right.plot(episodes, gaps, style, color=COLOURS["ppo"], linewidth=1, label=named)
            limit = 0.02 * row["range"]
            right.axhline(limit, color="#8a8f96", linewidth=1)
    right.set(
        yscale="log", xlabel="episodes, thousands", title="PPO with the sampler (line: 2 % of J* − J_ref)"
    )
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)
