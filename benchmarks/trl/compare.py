"""Step by step beside TRL: the same token ids in the same order with the same AdamW, in float32.

    python benchmarks/trl/compare.py --out ../trl            # all of it: about two hours on two cores
    python benchmarks/trl/compare.py --out ../trl --table    # what is there already, as Markdown

SmolLM2-135M-Instruct on real HH-RLHF pairs. TRL 1.16.0 answers for SFT, the reward model and the preference
losses, TRL 1.12.0 (the last with PPO) for PPO; each is installed into an environment of its own under OUT.
The policy is the reference with seeded noise on every weight, so that log-ratios differ from 0 and step 1 can
fail. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import our_ppo
import our_stages

HERE = Path(__file__).parent
PINS = HERE.parents[1] / "constraints.txt"
STAGES_TRL, PPO_TRL = "1.16.0", "1.12.0"


def python_with(out: Path, version: str) -> Path:
    """The interpreter of an environment with this version of TRL and our versions of what it stands on."""
    folder = out / f"trl-{version}"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "-c", PINS, f"trl=={version}", "torch"]
        subprocess.run(command, check=True)
        (folder / "installed").touch()
    return python


def run_theirs(out: Path) -> None:
    """TRL's steps, each loss in a process of its own."""
    for loss, steps in our_stages.LOSSES.items():
        if not (out / f"theirs-{loss}.json").exists():
            how = (str(steps), str(our_stages.BETAS.get(loss, "none")))
            python = python_with(out, STAGES_TRL)
            subprocess.run([python, HERE / "their_stages.py", out, loss, *how], check=True)
    for case in our_ppo.CASES:
        if not (out / f"theirs-{case.name}.json").exists():
            python = python_with(out, PPO_TRL)
            subprocess.run([python, HERE / "their_ppo.py", out, case.name], check=True)


def stages_table(out: Path) -> list[str]:
    """Relative differences of loss, gradient norm and reward margin of the stages."""
    lines = [
        "| loss | steps | first loss | difference | of gradient norm | of margin | largest of all steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for loss in our_stages.LOSSES:
        found = _both(out, loss)
        if not found:
            continue
        ours, theirs = found
        losses = [_apart(a["loss"], b["loss"]) for a, b in zip(ours, theirs, strict=True)]
        norm = _apart(ours[0]["grad_norm"], theirs[0]["grad_norm"])
        lines.append(
            f"| {loss} | {len(ours)} | {ours[0]['loss']:.6f} | {losses[0]:.1e} | {norm:.1e} "
            f"| {_margin_apart(ours[0], theirs[0])} | {max(losses):.1e} |"
        )
    return lines


def ppo_table(out: Path) -> list[str]:
    """The largest differences over all steps; relative for what is not centred on 0.

    The first policy loss of an update is 0 by construction (ratios 1, advantages of mean 0), and its scale is
    that of the advantages, 1: so its difference is absolute.
    """
    relative = ("value_loss", "grad_norm", "value_grad_norm")
    lines = [
        "| rollouts | steps | advantages | scores | policy loss | value loss | policy norm | value norm |",
        "| --- |" + " ---: |" * 7,
    ]
    for case in our_ppo.CASES:
        found = _both(out, case.name)
        if not found:
            continue
        ours, theirs = found
        steps = list(zip(ours["steps"], theirs["steps"], strict=True))
        policy = max(abs(a["policy_loss"] - b["policy_loss"]) for a, b in steps)
        worst = [policy, *(max(_apart(a[name], b[name]) for a, b in steps) for name in relative)]
        given = [_largest_gap(ours[name], theirs[name]) for name in ("advantages", "scores")]
        cells = " | ".join(f"{value:.1e}" for value in (*given, *worst))
        lines.append(f"| {case.name} | {len(steps)} | {cells} |")
    return lines


def _both(out: Path, name: str) -> tuple[Any, Any] | None:
    paths = out / f"ours-{name}.json", out / f"theirs-{name}.json"
    if not all(path.exists() for path in paths):
        return None
    ours, theirs = (json.loads(path.read_text()) for path in paths)
    return ours, theirs


def _margin_apart(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Mean reward of chosen less that of rejected; none where there are no rewards (SFT)."""
    metrics = theirs["metrics"]
    margin = metrics.get("rewards/margins", metrics.get("margin"))
    return "" if margin is None else f"{_apart(ours['margin'], margin):.1e}"


def _apart(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


def _largest_gap(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Parse, do what is missing, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for environments, models and results")
    parser.add_argument("--pairs", type=Path, help="comparisons; default: the bundled HH-RLHF sample")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        our_stages.prepare(arguments.out, arguments.pairs)
        our_ppo.prepare(arguments.out)
        our_stages.run(arguments.out)
        our_ppo.run(arguments.out)
        run_theirs(arguments.out)
    print("\n".join([*stages_table(arguments.out), "", *ppo_table(arguments.out)]))


if __name__ == "__main__":
    main()
