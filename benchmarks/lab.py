"""The trainers in worlds with a known optimum: several betas and seeds, and how errors shrink with data.

Every run is one line of OUT/lab.jsonl, written when it ends; what is there already is not run again. With
--pictures the lines become docs/results/lab/*.png and a table on stdout.

    python benchmarks/lab.py --out ../lab            # about 90 minutes on two cores
    python benchmarks/lab.py --out ../lab --pictures docs/results/lab
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trimtab.lab import exact
from trimtab.lab.world import World
from trimtab.lab.worlds import random_world
from trimtab.model.device import Numerics
from trimtab.pipeline.known_optimum import (
    Approach,
    dpo_with_samples,
    dpo_with_weights,
    ppo_as_shipped,
    ppo_with_samples,
    ppo_with_weights,
    reference_of,
)

BETAS = (0.3, 0.7, 1.5)
SEEDS = range(5)
PAIRS = (300, 1_000, 3_000, 10_000, 30_000, 100_000)
EPISODES = 199_680
"""390 updates of 512: fixed before the first run, and below 200,000."""
WORLD = {"vocabulary": 3, "limit": 3}
"""15 responses to one prompt."""
SAMPLED_WORLD = random_world(beta=0.7, seed=0, **WORLD)
"""One world, so that seeds differ in what is drawn alone."""
NUMERICS = Numerics(torch.device("cpu"), None)


@dataclass(frozen=True)
class Arm:
    """One run to be done."""

    name: str
    beta: float
    seed: int
    size: int
    """Pairs, episodes, or updates with exact weights."""
    run: Callable[[], Approach]

    @property
    def key(self) -> str:
        """Under which it is found again."""
        return f"{self.name}/{self.beta}/{self.size}/{self.seed}"


def arms() -> Iterator[Arm]:
    """Everything that is run, the quick ones first."""
    for beta in BETAS:
        for seed in SEEDS[:3]:
            yield from _exact_arms(beta, seed)
    for seed in SEEDS:
        yield from _sampled_arms(SAMPLED_WORLD, seed)


def _exact_arms(beta: float, seed: int) -> Iterator[Arm]:
    """Exact weights leave nothing to draw: the seed chooses the world's rewards."""
    world = random_world(beta=beta, seed=seed, **WORLD)
    run = partial(dpo_with_weights, world, NUMERICS, steps=400, seed=seed)
    yield Arm("dpo-exact", beta, seed, 400, run)
    run = partial(ppo_with_weights, world, NUMERICS, updates=1500, seed=seed)
    yield Arm("ppo-exact", beta, seed, 1500, run)


def _sampled_arms(world: World, seed: int) -> Iterator[Arm]:
    for pairs in PAIRS:
        given = {"pairs": pairs, "steps": 400, "seed": seed}
        yield Arm("dpo-sampled", world.beta, seed, pairs, partial(dpo_with_samples, world, NUMERICS, **given))
    given = {"episodes": EPISODES, "seed": seed}
    for name, run in (("ppo-sampled", ppo_with_samples), ("ppo-defaults", ppo_as_shipped)):
        yield Arm(name, world.beta, seed, EPISODES, partial(run, world, NUMERICS, **given))


def run_all(out: Path) -> None:
    """Run what is not there yet."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "lab.jsonl"
    done = {row["key"] for row in read(path)}
    waiting = [arm for arm in arms() if arm.key not in done]
    for index, arm in enumerate(waiting):
        began = time.perf_counter()
        approach = arm.run()
        row = {
            "key": arm.key,
            "arm": arm.name,
            "beta": arm.beta,
            "seed": arm.seed,
            "size": arm.size,
            "range": rounded(approach.range),
            "final": rounded(approach.final),
            "gaps": [(step, rounded(gap)) for step, gap in thinned(approach.gaps)],
            "seconds": round(time.perf_counter() - began, 1),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{index + 1}/{len(waiting)} {arm.key}: "
            f"{approach.final:.2e} of {approach.range:.3f}, {row['seconds']} s",
            flush=True,
        )


def rounded(value: float) -> float:
    """Five digits: more would only make the file longer."""
    return float(f"{value:.4e}")


def thinned(gaps: tuple[float, ...], count: int = 100) -> list[tuple[int, float]]:
    """(step, gap) of about `count` steps, the first and the last among them."""
    stride = max(1, len(gaps) // count)
    steps = sorted({*range(0, len(gaps), stride), len(gaps) - 1})
    return [(step, gaps[step]) for step in steps]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def law(pairs: int) -> float:
    """The gap that theory expects DPO to be left with."""
    reference = SAMPLED_WORLD.logprobs(reference_of(SAMPLED_WORLD, NUMERICS))
    goal, drawn = SAMPLED_WORLD.optimum(reference), SAMPLED_WORLD.pair_probabilities(reference)
    return exact.sampling_gap(goal, drawn, beta=SAMPLED_WORLD.beta, pairs=pairs)


def main() -> None:
    """Parse, run or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of lab.jsonl")
    parser.add_argument(
        "--pictures", type=Path, help="draw what is there into this folder instead of running"
    )
    arguments = parser.parse_args()
    if arguments.pictures is None:
        run_all(arguments.out)
    else:
        from lab_pictures import draw

        draw(read(arguments.out / "lab.jsonl"), arguments.pictures, {pairs: law(pairs) for pairs in PAIRS})


if __name__ == "__main__":
    main()
