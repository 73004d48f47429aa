"""TRL's arm of bench.py: `Trainer.train` as it is, on given token ids. Runs where TRL 1.16.0 is.

    python their_arm.py SPEC RESULT

Nothing of TRL is imitated and nothing of trimtab is imported. What is put in place of TRL's own: the token
ids (its own tokenisation is skipped) and their order (its own sampler, set to sequential). What TRL 1.16.0
does on a CPU unless told otherwise, read in its source and kept in every result under `facts`:

- bf16: `_BaseConfig.bf16` is None and becomes True unless fp16 is set, so the accelerator runs every forward
  pass under bf16 autocast; weights are loaded in float32 (`create_model_from_path`) and stay so;
- gradient_checkpointing: True (`_BaseConfig`);
- DPO: without `precompute_ref_log_probs` (False) a second model from the same folder stays in memory and runs
  in every step; with it the reference is the policy before training, and no second model is kept;
- the optimizer is torch's fused AdamW (betas 0.9 and 0.999, eps 1e-8, no decay), gradients are clipped at
  norm 1: the same as trimtab's defaults; learning rate and schedule are set to be equal;
- entropy, accuracy and mean logits are computed in every step, whether logged or not: there is no switch;
- packing and padding-free: DPO's is disabled in this version, SFT's needs a FlashAttention that no CPU has
  (without it packed examples read each other, another loss); the reward trainer has none.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from meter import Meter, TokenCount, wait, write_result
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

TRAINERS = {
    "dpo": (DPOTrainer, DPOConfig),
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
}
Row = dict[str, list[int]]


def columns(loss: str, row: Row) -> Row:
    """What the trainer's collator reads."""
    prompt, chosen, rejected = (row[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    if loss == "sft":
        return {"input_ids": prompt + chosen, "labels": [-100] * len(prompt) + chosen}
    if loss == "reward":
        return {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
    return row


def logical_tokens(loss: str, row: Row) -> int:
    """What the collator would give without padding."""
    found = columns(loss, row)
    if loss == "sft":
        return len(found["input_ids"])
    shared = 2 * len(found["prompt_ids"]) if loss == "dpo" else 0
    return shared + len(found["chosen_ids"]) + len(found["rejected_ids"])


def as_given(trainer: Any, dataset: Dataset, *arguments: Any, **options: Any) -> Dataset:
    """Stands for `_prepare_dataset`: these are token ids already."""
    return dataset


class ReferenceClock:
    """Seconds of each pass of the reference outside of training steps."""

    def __init__(self, trainer_class: Any) -> None:
        self.seconds: list[float] = []
        compute = trainer_class.compute_ref_log_probs

        def timed(trainer: Any, model: Any, inputs: Any) -> Any:
            began = time.perf_counter()
            found = compute(trainer, model, inputs)
            self.seconds.append(time.perf_counter() - began)
            return found

        trainer_class.compute_ref_log_probs = timed


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Each optimizer step: from the end of the one before (so collating is in it) to its own end."""

    def __init__(self, meter: Meter, warm_up: int) -> None:
        self.meter, self.warm_up = meter, warm_up
        self.steps: list[dict[str, float]] = []
        self._losses: list[torch.Tensor] = []
        self._norm: Any = None
        self._began = 0.0
        self._executed: list[TokenCount] = []

    def watch(self, trainer: Any) -> None:
        """Listen in on what a micro-batch's loss and the gradient's norm were."""
        step, clip = trainer.training_step, trainer.accelerator.clip_grad_norm_
        second = getattr(trainer, "ref_model", None)
        self._executed = [TokenCount(model) for model in (trainer.model, second) if model is not None]

        def training_step(*arguments: Any, **options: Any) -> torch.Tensor:
            self._losses.append(step(*arguments, **options))
            return self._losses[-1]

        def clip_grad_norm_(*arguments: Any, **options: Any) -> Any:
            self._norm = clip(*arguments, **options)
            return self._norm

        trainer.training_step, trainer.accelerator.clip_grad_norm_ = training_step, clip_grad_norm_

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        """The first step begins."""
        self.meter.begin()
        self._began = time.perf_counter()

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        """A step has ended, and the next begins."""
        wait()
        seconds = time.perf_counter() - self._began
        self.steps.append(
            {
                "loss": float(sum(self._losses)),
                "grad_norm": float(self._norm),
                "seconds": seconds,
                "executed": sum(count.take() for count in self._executed),
            }
        )
        self._losses.clear()
        if len(self.steps) == self.warm_up:
            self.meter.begin()
        self._began = time.perf_counter()


def made(spec: dict[str, Any], rows: list[Row], pairs_a_step: int, callback: TrainerCallback) -> Any:
    """The trainer of a loss."""
    trainer_class, config_class = TRAINERS[spec["loss"]]
    trainer_class._prepare_dataset = as_given
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    if spec["precision"] == "float32":
        options["bf16"] = False
    if not spec["checkpointing"]:
        options |= {"gradient_checkpointing": False, "logging_strategy": "no"}
    if spec["loss"] == "dpo":
        options |= {"beta": 0.1, "precompute_ref_log_probs": spec["cached_reference"]}
        if spec["reference"] != spec["model"]:
            extra["ref_model"] = AutoModelForCausalLM.from_pretrained(spec["reference"], dtype=torch.float32)
    settings = config_class(
        output_dir=spec["scratch"],
        use_cpu=spec["device"] == "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        max_steps=spec["steps"] + spec["warm_up"],
        per_device_train_batch_size=spec["micro_batch"],
        gradient_accumulation_steps=pairs_a_step // spec["micro_batch"],
        learning_rate=spec["rate"],
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        **options,
    )
    return trainer_class(
        model=spec["model"],
        args=settings,
        train_dataset=Dataset.from_list([columns(spec["loss"], row) for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        callbacks=[callback],
        **extra,
    )


def facts(trainer: Any) -> dict[str, str]:
    """What was in force, as the trainer itself says."""
    kind = trainer.optimizer.optimizer
    return {
        "arithmetic": str(trainer.accelerator.mixed_precision),
        "weights": str(trainer.model.dtype),
        "checkpointing": str(trainer.model.is_gradient_checkpointing),
        "attention": str(trainer.model.config._attn_implementation),
        "optimizer": f"{type(kind).__name__}, fused {kind.defaults.get('fused')}",
        "clip": str(trainer.args.max_grad_norm),
        "second model": str(getattr(trainer, "ref_model", None) is not None),
    }


def main() -> None:
    """Train for so many steps and write what was measured."""
    meter = Meter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    batches = json.loads(Path(spec["batches"]).read_text())[: spec["warm_up"] + spec["steps"]]
    pairs = len(batches[0])
    clock = ReferenceClock(DPOTrainer)
    recorder = Recorder(meter, spec["warm_up"])
    trainer = made(spec, [row for batch in batches for row in batch], pairs, recorder)
    reference_passes = list(clock.seconds)
    recorder.watch(trainer)
    trainer.train()
    passes = 2 if spec["loss"] == "dpo" and not spec["cached_reference"] else 1
    for step, batch in zip(recorder.steps, batches, strict=True):
        real = passes * sum(logical_tokens(spec["loss"], row) for row in batch)
        step["padding"] = 1 - real / step["executed"]
    result = {
        "steps": recorder.steps,
        "warm_up": spec["warm_up"],
        "reference_seconds": sum(reference_passes[spec["warm_up"] * pairs // spec["micro_batch"] :]),
        **meter.shares(),
        **meter.memory(),
        "threads": torch.get_num_threads(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
        },
        "facts": facts(trainer),
    }
    write_result(Path(sys.argv[2]), result)


if __name__ == "__main__":
    main()
