"""PPO learns: gold reward, KL and variety with SmolLM2, adaptive KL, over-optimisation; on a CPU.

    python benchmarks/learning/learning.py --out ../learning                          # all of it: some hours
    python benchmarks/learning/learning.py --out ../learning --parts 'ppo-*'          # some parts
    python benchmarks/learning/learning.py --out ../learning --table                  # what is there already
    python benchmarks/learning/learning.py --out ../learning --pictures docs/results/learning

Each part is a process of its own, and its result a small JSON file; a part that has one is not run again, and
an interrupted run of PPO goes on from its last checkpoint. What is run is in learning_plan.py.

SmolLM2-135M-Instruct has to be there (`trimtab models get smollm2-135m-instruct`), and the two files of
reviews that examples/small-model/README.md names.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from learning_plan import Plan, planned

REVIEWS = Path(__file__).parents[3] / "shared" / "data" / "movie-reviews"
Do = Callable[[], dict[str, Any]]


def parts(plan: Plan, out: Path, reviews: Path) -> dict[str, Do]:
    """Every part by its name, in the order in which they are needed."""
    from learning_answers import evaluate_ppo, evaluate_sft
    from learning_parts import bundled, prepare, real

    smollm, small = real(plan, out), bundled(plan, out)
    found: dict[str, Do] = {"prepare": partial(prepare, plan, smollm, reviews)}
    for seed in plan.seeds:
        found[f"ppo-{seed}"] = partial(real_ppo, plan, out, seed)
    found["evaluate-sft"] = partial(evaluate_sft, plan, smollm)

    def judged(seed: int) -> dict[str, Any]:
        sft = result(out, "evaluate-sft")
        assert sft is not None, "evaluate-sft comes first"
        return evaluate_ppo(plan, smollm, out / f"ppo-{seed}", sft)

    for seed in plan.seeds:
        found[f"evaluate-{seed}"] = partial(judged, seed)
    found["prepare-bundled"] = partial(prepare, plan, small, reviews)
    for target in plan.targets:
        for seed in plan.seeds:
            found[f"target-{target:g}-{seed}"] = partial(target_ppo, plan, out, target, seed)
    for beta in plan.betas:
        for seed in plan.seeds:
            found[f"beta-{beta:g}-{seed}"] = partial(beta_ppo, plan, out, beta, seed)
    return found


def real_ppo(plan: Plan, out: Path, seed: int) -> dict[str, Any]:
    """SmolLM2 with adaptive KL, and its first step by itself."""
    from learning_parts import first_minibatch, ppo_settings, real, run_ppo

    settings = ppo_settings(
        plan,
        real(plan, out),
        seed=seed,
        episodes=plan.real_episodes,
        kl_weight=plan.kl_weight,
        target=plan.real_target,
        changes={},
    )
    first = first_minibatch(settings)
    return {"first_minibatch": first, **run_ppo(settings, out / f"ppo-{seed}")}


def target_ppo(plan: Plan, out: Path, target: float, seed: int) -> dict[str, Any]:
    """The bundled model with adaptive KL."""
    from learning_parts import bundled, ppo_settings, run_ppo

    settings = ppo_settings(
        plan,
        bundled(plan, out),
        seed=seed,
        episodes=plan.target_episodes,
        kl_weight=plan.kl_weight,
        target=target,
        changes={},
    )
    return run_ppo(settings, out / "bundled" / f"target-{target:g}-{seed}")


def beta_ppo(plan: Plan, out: Path, beta: float, seed: int) -> dict[str, Any]:
    """The bundled model with a fixed weight."""
    from learning_parts import bundled, ppo_settings, run_ppo

    settings = ppo_settings(
        plan,
        bundled(plan, out),
        seed=seed,
        episodes=plan.beta_episodes,
        kl_weight=beta,
        target=None,
        changes=plan.beta_ppo,
    )
    return run_ppo(settings, out / "bundled" / f"beta-{beta:g}-{seed}")


def run_part(plan: Plan, out: Path, name: str, reviews: Path = REVIEWS) -> None:
    """Do one part in this process and write its result, unless it is there."""
    require_same_plan(plan, out)
    if result(out, name) is not None:
        return
    from trimtab.runs.files import write_json

    found = parts(plan, out, reviews)[name]()
    path = _path(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)


def require_same_plan(plan: Plan, out: Path) -> None:
    """Keep the plan where there is none yet; else it has to be this one."""
    kept, tree = out / "plan.json", json.dumps(asdict(plan), default=str, indent=1)
    if not kept.exists():
        out.mkdir(parents=True, exist_ok=True)
        kept.write_text(tree)
    elif kept.read_text() != tree:
        sys.exit(f"{out} was begun with another plan: take another --out")


def result(out: Path, name: str) -> dict[str, Any] | None:
    """What a part has found; None where it has not ended."""
    path = _path(out, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _path(out: Path, name: str) -> Path:
    return out / "results" / f"{name}.json"


def run_all(out: Path, names: Sequence[str], reviews: Path) -> None:
    """Each missing part in a process of its own; the first that fails ends it all."""
    for number, name in enumerate(names, 1):
        if _path(out, name).exists():
            continue
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--out", str(out), "--reviews", str(reviews), "--part", name]
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.exit(f"{name} ended with exit code {code}; what is done is kept: the same command goes on")


def main() -> None:
    """Run what is missing, print the table, draw the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--parts", nargs="+", default=["*"], help="names or patterns, such as 'beta-*'")
    parser.add_argument("--reviews", type=Path, default=REVIEWS, help="folder of the two zip files")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--pictures", type=Path, help="only draw what is there, into this folder")
    parser.add_argument("--part", help="this one alone, in this process")
    arguments = parser.parse_args()
    plan, out = planned(), arguments.out.resolve()
    if arguments.part:
        run_part(plan, out, arguments.part, arguments.reviews)
        return
    from learning_table import pictures, table

    if arguments.pictures is not None:
        pictures(plan, out, arguments.pictures)
        return
    if not arguments.table:
        known = list(parts(plan, out, arguments.reviews))
        chosen = [name for name in known if any(fnmatch(name, one) for one in arguments.parts)]
        if not chosen:
            parser.error(f"no such part; there are: {', '.join(known)}")
        run_all(out, chosen, arguments.reviews.resolve())
    print(table(plan, out))


if __name__ == "__main__":
    main()
