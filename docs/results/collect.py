"""Keep what a pipeline's run has measured: settings, metrics, costs, the report's numbers, one picture.

    python docs/results/collect.py runs/hh-smollm2 docs/results/hh-smollm2

Copies no weights, no samples and no page: those stay in the run folder.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from trimtab.arena.cost import MethodCost, method_costs
from trimtab.arena.findings import Findings, PolicyResult, read_findings, to_json
from trimtab.arena.winrate import JudgeQuality, Match

COLOURS = {"sft": "#6b7280", "ppo": "#c2410c", "dpo": "#1d4ed8"}
OTHER_COLOUR = "#111827"
SHADES = {"sft": "#9ca3af", "reward": "#cbd5e1", "reference": "#cbd5e1"}
OWN_SHADE = "#475569"


def collect(run: Path, destination: Path) -> None:
    """Copy the small files of every stage and draw the picture."""
    findings = read_findings(run / "compare" / "report.json")
    destination.mkdir(parents=True, exist_ok=True)
    for facts in sorted(run.glob("*/run.json")):
        stage = facts.parent
        kept = destination / stage.name
        kept.mkdir(exist_ok=True)
        for name in ("config.yaml", "run.json", "metrics.jsonl"):
            if (stage / name).exists():
                shutil.copy(stage / name, kept / name)
    small = replace(findings, samples=(), curves=())
    (destination / "report.json").write_text(to_json(small) + "\n", encoding="utf-8")
    draw(findings, destination / "picture.png")


def draw(findings: Findings, path: Path) -> None:
    """Reward against KL by the judge, win rates, and what each method cost."""
    figure, (frontier, wins, cost) = plt.subplots(1, 3, figsize=(12.5, 3.6), width_ratios=(1.3, 1.2, 1))
    _frontier(frontier, findings.policies)
    _wins(wins, findings.matches[::-1], findings.judge)
    _bars(cost, [sum for sum in method_costs(findings.costs) if sum.method != "sft"])
    for axes in (frontier, wins, cost):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _frontier(axes: Any, policies: Sequence[PolicyResult]) -> None:
    rewards = [policy.judge_reward.estimate for policy in policies if policy.judge_reward]
    for policy in policies:
        kl, reward = policy.kl, policy.judge_reward
        if reward is not None:
            colour = COLOURS.get(policy.method, OTHER_COLOUR)
            axes.errorbar(
                kl.estimate,
                reward.estimate,
                xerr=[[kl.estimate - kl.low], [kl.high - kl.estimate]],
                yerr=[[reward.estimate - reward.low], [reward.high - reward.estimate]],
                fmt="o",
                capsize=3,
                color=colour,
            )
            place = (kl.estimate, reward.estimate)
            above = reward.estimate == max(rewards)  # so that the names of two that are near do not meet
            shift = (7, 6) if above else (7, -13)
            axes.annotate(policy.name, place, shift, textcoords="offset points", color=colour)
    axes.set_xlabel("KL from the SFT model, nats per response")
    axes.set_ylabel("mean reward by the judge")
    axes.set_title("reward against KL", loc="left")
    axes.margins(x=0.22, y=0.12)
    if not axes.has_data():
        axes.text(0.5, 0.5, "the judge gives no scores", ha="center", transform=axes.transAxes)


def _wins(axes: Any, matches: Sequence[Match], judge: JudgeQuality) -> None:
    for place, match in enumerate(matches):
        rate = match.win_rate
        axes.errorbar(
            100 * rate.estimate,
            place,
            xerr=[[100 * (rate.estimate - rate.low)], [100 * (rate.high - rate.estimate)]],
            fmt="o",
            color=OTHER_COLOUR,
            capsize=3,
        )
    axes.axvline(50, color="#9ca3af", linewidth=1)
    axes.set_yticks(range(len(matches)), [f"{match.left} over {match.right}" for match in matches])
    axes.set_ylim(-0.6, len(matches) - 0.4)
    axes.set_xlabel("preferred on % of prompts, 95 % interval")
    accuracy = judge.accuracy
    axes.set_title(
        f"judge agrees with {judge.by} on {100 * accuracy.estimate:.0f} % of {accuracy.n}", loc="left"
    )


def _bars(axes: Any, methods: Sequence[MethodCost]) -> None:
    longest = max((method.wall_s / 60 for method in methods), default=0.0)
    for place, method in enumerate(methods):
        left = 0.0
        for stage in method.stages:
            minutes = stage.wall_s / 60
            shade = SHADES.get(stage.stage, OWN_SHADE)
            axes.barh(place, minutes, left=left, color=shade, height=0.5)
            if minutes > 0.12 * longest:
                ink = "white" if shade == OWN_SHADE else "black"
                upright = 90 if minutes < 0.3 * longest else 0  # a name wider than its bar
                middle = {"ha": "center", "va": "center", "fontsize": 8, "color": ink, "rotation": upright}
                axes.text(left + minutes / 2, place, stage.stage, **middle)
            left += minutes
    names = [
        f"{method.method.upper()}\nwithout {', '.join(method.missing)}"
        if method.missing
        else method.method.upper()
        for method in methods
    ]
    axes.set_yticks(range(len(methods)), names)
    axes.set_xlabel("minutes of wall time")
    axes.set_title("what each method cost", loc="left")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    collect(Path(sys.argv[1]), Path(sys.argv[2]))
