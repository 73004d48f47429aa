"""PPO by TRL 1.12's PPOTrainer, as it is but for where responses end. Runs where TRL 1.12 is.

python their_arm_ppo.py SPEC RESULT

TRL samples every response to the limit and cuts it at its first stop token: one is written where the list
says, and any other becomes the token after it. Autocast in bfloat16, no checkpointing, no padding among the
prompts; one minibatch an epoch, in micro-batches of `micro_batch` episodes.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "training"))
import torch
from datasets import Dataset
from meter import Meter, TokenCount, write_result
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

RATE = 1e-6
PAD = "<|endoftext|>"
"""TRL takes every token of this kind for padding, so it must not be the stop token."""


class Stamped:
    """Batches of prompts, and the time at which each was asked for: an update begins with it."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches
        self.asked: list[float] = []

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batches:
            self.asked.append(time.perf_counter())
            yield {"input_ids": batch}


def ends_at(lengths: list[int], limit: int, stop_id: int) -> Any:
    """TRL's sampling of a batch, whose responses then end where the list says."""
    sample, waiting = ppo_trainer.batch_generation, iter(lengths)

    def batch_generation(model: Any, queries: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        found, logits = sample(model, queries, *rest)
        responses = found[:, queries.shape[1] :]
        assert responses.shape[1] == limit
        responses[responses == stop_id] = stop_id + 1
        for response in responses:
            if (length := next(waiting)) < limit:
                response[length - 1] = stop_id
        return found, logits

    return batch_generation


def main() -> None:
    """Run the updates and write their seconds."""
    meter = Meter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(spec["model"], padding_side="left")
    tokenizer.pad_token = PAD
    count, draw = spec["updates"] + 1, random.Random(0)
    batches = [
        torch.tensor(
            [[draw.randrange(1000, 40000) for _ in range(spec["prompt"])] for _ in range(spec["episodes"])]
        )
        for _ in range(count)
    ]
    lengths = spec["lengths"]
    models = {
        "model": AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32),
        "ref_model": AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32),
        "reward_model": scalar(spec["reward"]),
        "value_model": scalar(spec["reward"]),
    }
    micro_batch = spec.get("micro_batch", spec["episodes"])
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=spec["scratch"], report_to=[], use_cpu=True, bf16=True, save_strategy="no",
            gradient_checkpointing=False, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=spec["episodes"] // micro_batch, num_mini_batches=1,
            total_episodes=spec["episodes"] * count, num_ppo_epochs=spec["epochs"], learning_rate=RATE,
            temperature=1.0, stop_token="eos", response_length=spec["limit"], num_sample_generations=0,
            local_rollout_forward_batch_size=spec["episodes"], missing_eos_penalty=1.0,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"input_ids": ids} for batch in batches for ids in batch.tolist()]),
        **models,
    )  # fmt: skip
    trainer.dataloader = stamped = Stamped(batches)
    total = spec["episodes"] * count
    ends = [lengths[number % len(lengths)] for number in range(total)]
    ppo_trainer.batch_generation = ends_at(ends, spec["limit"], tokenizer.eos_token_id)
    counted = TokenCount(models["model"])
    meter.begin()
    trainer.train()
    times = [*stamped.asked[:count], time.perf_counter()]
    result = {
        "updates": [{"seconds": after - before} for before, after in pairwise(times)],
        "policy_tokens": counted.take(),
    }
    write_result(Path(sys.argv[2]), {**result, **meter.shares(), **meter.memory()})


def scalar(folder: str) -> Any:
    """A model with one output a token, in float32."""
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)


if __name__ == "__main__":
    main()
