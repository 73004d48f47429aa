"""PPO by trimtab, all weights or one trunk with adapters, on prompts of random tokens. A process of its own.

python our_arm_ppo.py SPEC RESULT
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "training"))
from forced import lengths_of
from meter import Meter, TokenCount, write_result

from trimtab.config import build
from trimtab.data.tokens import Example
from trimtab.runs.run import open_run, read_metrics
from trimtab.train import loop, ppo
from trimtab.train.ppo_models import load_ppo_models
from trimtab.train.settings import PPOSettings

RATE = 1e-6


def settings_of(spec: dict[str, Any]) -> PPOSettings:
    """One minibatch an epoch, as TRL has it."""
    optimizer = {"learning_rate": RATE, "schedule": "constant", "warmup": 0.0}
    episodes = spec["episodes"]
    settings: PPOSettings = build(
        PPOSettings,
        {
            "model": spec["model"],
            "reward_model": spec["reward"],
            "data": "made from a seed",
            "lora": {} if spec["lora"] else None,
            "precision": "bfloat16",
            "episodes": episodes * (spec["updates"] + 1),
            "rollouts": episodes,
            "minibatch": episodes,
            "epochs": spec["epochs"],
            "max_prompt": spec["prompt"],
            "max_response": spec["limit"],
            "checkpoint_every": spec["updates"] + 2,
            "optimizer": optimizer,
            "value_optimizer": optimizer,
        },
    )
    return settings


def wanted(spec: dict[str, Any], settings: PPOSettings) -> dict[int, int]:
    """The length of the response that each seed draws."""
    lengths = spec["lengths"]
    order = [(update, index) for update in range(settings.updates) for index in range(settings.rollouts)]
    return {
        loop.seed_for(settings.seed, "rollout", *place): lengths[number % len(lengths)]
        for number, place in enumerate(order)
    }


def main() -> None:
    """Run the updates and write their seconds, phase by phase."""
    meter = Meter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    settings, draw = settings_of(spec), random.Random(0)
    prompts = [
        Example(tuple(draw.randrange(1000, 40000) for _ in range(spec["prompt"])), ())
        for _ in range(settings.episodes)
    ]
    scratch = Path(spec["scratch"])
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        with open_run(Path(folder) / "run", "ppo", settings, resume=False) as run:
            models = load_ppo_models(settings, run)
            counted = TokenCount(models.policy.model)
            meter.begin()
            with lengths_of(wanted(spec, settings), models.policy.codec.stop_id):
                ppo.optimize(models, prompts, [], settings, run)
        lines = [line for line in read_metrics(Path(folder) / "run") if "policy_loss" in line]
    updates = [{name: value for name, value in line.items() if name.endswith("_s")} for line in lines]
    result = {
        "updates": [{"seconds": sum(one.values()), **one} for one in updates],
        "length": [line["length"] for line in lines],
        "policy_tokens": counted.take(),
    }
    write_result(Path(sys.argv[2]), {**result, **meter.shares(), **meter.memory()})


if __name__ == "__main__":
    main()
