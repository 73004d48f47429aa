"""Keep what a pipeline's run has measured: settings, metrics, costs, the report's numbers, one picture.

    python docs/results/collect.py runs/hh-smollm2 docs/results/hh-smollm2

Copies no weights, no samples and no page: those stay in the run folder.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"sft": "#6b7280", "ppo": "#c2410c", "dpo": "#1d4ed8"}


def collect(run: Path, destination: Path) -> None:
    """Copy the small files of every stage and draw the picture."""
    destination.mkdir(parents=True, exist_ok=True)
    for facts in sorted(run.glob("*/run.json")):
        stage = facts.parent
        kept = destination / stage.name
        kept.mkdir(exist_ok=True)
        for name in ("config.yaml", "run.json", "metrics.jsonl"):
            if (stage / name).exists():
                shutil.copy(stage / name, kept / name)
    report = json.loads((run / "compare" / "report.json").read_text(encoding="utf-8"))
    report.pop("samples")
    report.pop("curves")
    (destination / "report.json").write_text(
        json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    draw(report, destination / "picture.png")


def draw(report: dict[str, Any], path: Path) -> None:
    """Reward against KL by the judge, win rates, and what each method cost."""
    figure, (frontier, wins, cost) = plt.subplots(1, 3, figsize=(12.5, 3.6), width_ratios=(1.3, 1.2, 1))
    for policy in report["policies"]:
        _point(frontier, policy)
    frontier.set_xlabel("KL from the SFT model, nats per response")
    frontier.set_ylabel("mean reward by the judge")
    frontier.set_title("reward against KL", loc="left")
    frontier.legend(frameon=False)
    matches = report["matches"][::-1]
    for place, match in enumerate(matches):
        rate = match["win_rate"]
        wins.errorbar(
            100 * rate["estimate"],
            place,
            xerr=[[100 * (rate["estimate"] - rate["low"])], [100 * (rate["high"] - rate["estimate"])]],
            fmt="o",
            color="#111827",
            capsize=3,
        )
    wins.axvline(50, color="#9ca3af", linewidth=1)
    wins.set_yticks(range(len(matches)), [f"{match['left']} over {match['right']}" for match in matches])
    wins.set_ylim(-0.6, len(matches) - 0.4)
    wins.set_xlabel("preferred on % of prompts, 95 % interval")
    wins.set_title(_judge_line(report["judge"]), loc="left")
    _bars(cost, report["costs"])
    for axes in (frontier, wins, cost):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _point(axes: Any, policy: dict[str, Any]) -> None:
    kl, reward = policy["kl"], policy["judge_reward"]
    axes.errorbar(
        kl["estimate"],
        reward["estimate"],
        xerr=[[kl["estimate"] - kl["low"]], [kl["high"] - kl["estimate"]]],
        yerr=[[reward["estimate"] - reward["low"]], [reward["high"] - reward["estimate"]]],
        fmt="o",
        capsize=3,
        color=COLOURS.get(policy["name"], "#111827"),
        label=policy["name"].upper(),
    )


def _judge_line(judge: dict[str, Any]) -> str:
    accuracy = judge["accuracy"]
    return f"judge agrees with people on {100 * accuracy['estimate']:.0f} % of {accuracy['n']}"


def _bars(axes: Any, costs: list[dict[str, Any]]) -> None:
    charged = {"DPO": ("sft", "reference", "dpo"), "PPO": ("sft", "reward", "ppo")}
    shades = ("#9ca3af", "#cbd5e1", "#475569")
    minutes_of = {cost["stage"]: cost["wall_s"] / 60 for cost in costs}
    longest = max(sum(minutes_of.get(stage, 0.0) for stage in stages) for stages in charged.values())
    for place, (_, stages) in enumerate(charged.items()):
        left = 0.0
        for shade, stage in zip(shades, stages, strict=True):
            minutes = minutes_of.get(stage, 0.0)
            axes.barh(place, minutes, left=left, color=shade, height=0.5)
            if minutes > 0.12 * longest:
                axes.text(left + minutes / 2, place, stage, ha="center", va="center", fontsize=8)
            left += minutes
    axes.set_yticks(range(len(charged)), list(charged))
    axes.set_xlabel("minutes of wall time")
    axes.set_title("what each method cost", loc="left")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    collect(Path(sys.argv[1]), Path(sys.argv[2]))
