"""What the tests of the stages share: data, a reward model, and a path of its own to log-probabilities."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trimtab.config import build
from trimtab.data.tokens import Example
from trimtab.model.device import Numerics
from trimtab.model.save import save_model
from trimtab.model.scalar import new_scorer
from trimtab.runs.run import open_run, read_metrics
from trimtab.train import dpo, ppo, reward, sft
from trimtab.train.settings import STAGES, StageSettings

TRAIN = {"sft": sft.train, "reward": reward.train, "dpo": dpo.train, "ppo": ppo.train}
COMMON = {
    "device": "cpu",
    "precision": "float32",
    "max_prompt": 64,
    "max_response": 12,
    "row_tokens": 256,
    "samples": 2,
}

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def numerics() -> Numerics:
    return Numerics(torch.device("cpu"), None)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`train`: 12 pairs, `dev`: 4 pairs; lengths differ between pairs and within them."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(5)

    def rows(count: int, tag: str) -> Rows:
        return [
            {
                "prompt": f"{tag} {index} " + "how " * draw.randint(0, 4),
                "chosen": "a" * draw.randint(1, 9),
                "rejected": "".join(draw.choice("bcdxyz") for _ in range(draw.randint(1, 9))),
            }
            for index in range(count)
        ]

    files = {}
    for name, count in (("train", 12), ("dev", 4)):
        files[name] = str(folder / f"{name}.jsonl")
        lines = [json.dumps(row) + "\n" for row in rows(count, name)]
        Path(files[name]).write_text("".join(lines), encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, numerics: Numerics) -> Path:
    """A reward model that nobody trained: the tiny model's backbone under a random head."""
    folder = tmp_path_factory.mktemp("scorer") / "model"
    scorer = new_scorer(str(model_folder), numerics, torch.Generator().manual_seed(3), bytes_per_parameter=4)
    save_model(scorer.model, scorer.codec, folder)
    return folder


@pytest.fixture(scope="session")
def settings_of(data: dict[str, str], model_folder: Path, reward_folder: Path) -> Callable[..., Any]:
    """Settings of a stage on the tiny model; keywords change some."""

    def made(kind: str, **changes: Any) -> StageSettings:
        own: dict[str, Any] = {"batch": 4, "epochs": 2, "optimizer": {"learning_rate": 1e-3}}
        if kind == "ppo":
            own = {
                "reward_model": str(reward_folder),
                "episodes": 24,
                "rollouts": 8,
                "minibatch": 4,
                "epochs": 1,
                "checkpoint_every": 50,
                "optimizer": {"learning_rate": 1e-3, "schedule": "constant"},
            }
        common = {**COMMON, "model": str(model_folder), "data": data["train"], "dev": data["dev"]}
        return build(STAGES[kind], {**common, **own, **changes})

    return made


@pytest.fixture(scope="session")
def train() -> Callable[..., Rows]:
    """Run a stage in a folder; gives its metrics."""

    def run_stage(kind: str, settings: StageSettings, folder: Path, *, resume: bool = False) -> Rows:
        with open_run(folder, kind, settings, resume=resume) as run:
            TRAIN[kind](settings, run)  # type: ignore[operator]
        return read_metrics(folder)

    return run_stage


@pytest.fixture(scope="session")
def plain_logprobs() -> Callable[[Path, Example], list[torch.Tensor]]:
    """Log-probabilities of each response's tokens by transformers alone: one sequence at a time, unpacked."""

    @torch.no_grad()
    def compute(folder: Path, example: Example) -> list[torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        values = []
        for response in example.responses:
            ids = torch.tensor([[*example.prompt, *response.ids]])
            logits = model(ids).logits[0, len(example.prompt) - 1 : -1].double()
            values.append(logits.log_softmax(-1)[torch.arange(len(response.ids)), torch.tensor(response.ids)])
        return values

    return compute
