"""The memory of PPO on one trunk: a model of a given shape with random weights, adapters of rank 8.

    python benchmarks/ppo/one_trunk.py --out ../trimtab-measured/one-trunk --shape 0.5B

Prints what the process holds when the models are loaded and after every update. Making the model happens in a
process of its own, whose memory does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "training"))
import made
import torch
from meter import peak_bytes

from trimtab.config import build
from trimtab.data.tokens import Example
from trimtab.model.device import choose
from trimtab.model.save import save_model
from trimtab.runs.run import Run, open_run
from trimtab.train import lora, ppo
from trimtab.train.ppo_models import load_ppo_models
from trimtab.train.settings import PPOSettings, RewardSettings

PROMPT, NEW = 8, 48
EPISODES, MINIBATCH = 32, 8


def prepare(out: Path, shape: str) -> None:
    """The trunk, and a reward model that is an adapter on it, unless they are there."""
    made.write_model(out / "model", shape, made.VOCABULARIES[shape])
    if (out / "reward").exists():
        return
    settings = build(RewardSettings, {"model": str(out / "model"), "data": "none", "lora": {}})
    with (
        tempfile.TemporaryDirectory(dir=out) as folder,
        open_run(Path(folder) / "run", "reward", settings, resume=False) as run,
    ):
        generator = torch.Generator().manual_seed(0)
        scorer = lora.new_scorer(settings, settings.lora, choose("cpu", "float32"), run, generator)
        save_model(scorer.model, scorer.codec, out / "reward")


def settings_of(out: Path, updates: int, epochs: int) -> PPOSettings:
    """PPO on prompts of random tokens."""
    tree: dict[str, Any] = {
        "model": str(out / "model"),
        "reward_model": str(out / "reward"),
        "data": "made from a seed",
        "lora": {},
        "episodes": EPISODES * updates,
        "rollouts": EPISODES,
        "minibatch": MINIBATCH,
        "epochs": epochs,
        "max_prompt": PROMPT,
        "max_response": NEW,
        "checkpoint_every": updates + 1,
    }
    settings: PPOSettings = build(PPOSettings, tree)
    return settings


def measure(out: Path, shape: str, updates: int, epochs: int) -> None:
    """Run the updates, telling the largest memory so far after each."""

    def told(what: str) -> None:
        print(f"{what}: {peak_bytes() / 1e9:.2f} GB", flush=True)

    told("imports")
    settings, draw = settings_of(out, updates, epochs), random.Random(0)
    ids = range(len(made.SPECIAL), made.VOCABULARIES[shape])
    prompts = [Example(tuple(draw.choices(ids, k=PROMPT)), ()) for _ in range(settings.episodes)]
    with (
        tempfile.TemporaryDirectory(dir=out) as folder,
        open_run(Path(folder) / "run", "ppo", settings, resume=False) as run,
    ):
        models = load_ppo_models(settings, run)
        told("loaded")
        log = Run.log

        def watched(self: Run, at: int, **values: Any) -> None:
            log(self, at, **values)
            told(f"update {at}")

        Run.log = watched  # type: ignore[method-assign]
        ppo.optimize(models, prompts, [], settings, run)


def main() -> None:
    """Make what is missing, then measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--shape", choices=made.SHAPES, default="0.5B")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    making = multiprocessing.get_context("spawn").Process(target=prepare, args=(out, arguments.shape))
    making.start()
    making.join()
    if making.exitcode:
        sys.exit("the model could not be made")
    measure(out, arguments.shape, arguments.updates, arguments.epochs)


if __name__ == "__main__":
    main()
