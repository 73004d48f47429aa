"""The other side of our_stages.py: TRL's own loss code on given token ids. Runs where TRL 1.16.0 is.

    python their_stages.py WORK LOSS STEPS BETA

reads WORK/pairs.json, WORK/policy, WORK/reference (or WORK/scorer) and writes WORK/theirs-LOSS.json: for each
step the loss, the gradient norm before clipping, and the rewards that TRL reports. Nothing of trimtab is
imported, and nothing of TRL is imitated: the trainer's collator and compute_loss are called as they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

COMMON = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_length": None,
}
ONE_ROW = {"prompt": "a", "chosen": "b", "rejected": "c"}

# Names and options in TRL, for each of ours.
PREFERENCE = {
    "dpo": {"loss_type": ["sigmoid"]},
    "hinge": {"loss_type": ["hinge"]},
    "ipo_mean": {"loss_type": ["ipo"]},
    "cdpo": {"loss_type": ["sigmoid"], "label_smoothing": 0.1},
    "robust": {"loss_type": ["robust"], "label_smoothing": 0.1},
    "exo": {"loss_type": ["exo_pair"], "label_smoothing": 1e-3},
    "nca": {"loss_type": ["nca_pair"]},
    "bco": {"loss_type": ["bco_pair"]},
    "sppo": {"loss_type": ["sppo_hard"]},
    "aot": {"loss_type": ["aot"]},
    "aot_unpaired": {"loss_type": ["aot_unpaired"]},
    "apo_zero": {"loss_type": ["apo_zero"]},
    "apo_down": {"loss_type": ["apo_down"]},
    "discopop": {"loss_type": ["discopop"]},
    "dpo_norm": {"loss_type": ["sigmoid_norm"]},
    "ld_dpo": {"loss_type": ["sigmoid"], "ld_alpha": 0.5},
    "wpo": {"loss_type": ["sigmoid"], "use_weighting": True},
    "js_dpo": {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"},
    "forward_kl_dpo": {"loss_type": ["sigmoid"], "f_divergence_type": "forward_kl"},
}


def preference_trainer(work: Path, loss: str, beta: float) -> Any:
    """A DPOTrainer with policy and reference from the folders."""
    tokenizer = AutoTokenizer.from_pretrained(work / "policy")
    settings = DPOConfig(output_dir=str(work / "trl"), beta=beta, **PREFERENCE[loss], **COMMON)
    return DPOTrainer(
        model=causal(work / "policy"),
        ref_model=causal(work / "reference"),
        args=settings,
        train_dataset=Dataset.from_list([ONE_ROW]),
        processing_class=tokenizer,
    )


def sft_trainer(work: Path) -> Any:
    """An SFTTrainer with its plain token loss."""
    return SFTTrainer(
        model=causal(work / "policy"),
        args=SFTConfig(output_dir=str(work / "trl"), loss_type="nll", **COMMON),
        train_dataset=Dataset.from_list([{"prompt": "a", "completion": "b"}]),
        processing_class=AutoTokenizer.from_pretrained(work / "policy"),
    )


def reward_trainer(work: Path) -> Any:
    """A RewardTrainer with the scalar model from its folder."""
    model = AutoModelForSequenceClassification.from_pretrained(work / "scorer", dtype=torch.float32)
    return RewardTrainer(
        model=model,
        args=RewardConfig(output_dir=str(work / "trl"), **COMMON),
        train_dataset=Dataset.from_list([ONE_ROW]),
        processing_class=AutoTokenizer.from_pretrained(work / "policy"),
    )


def causal(folder: Path) -> Any:
    """A language model in float32, without dropout."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def rows_for(loss: str, batch: list[dict[str, list[int]]]) -> list[dict[str, list[int]]]:
    """The batch in the columns that the trainer's collator reads."""
    if loss == "sft":
        return [
            {
                "input_ids": row["prompt_ids"] + row["chosen_ids"],
                "labels": [-100] * len(row["prompt_ids"]) + row["chosen_ids"],
            }
            for row in batch
        ]
    if loss == "reward":
        return [
            {side: row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids")} for row in batch
        ]
    return batch


def main() -> None:
    """Step through the batches with TRL's loss and the optimizer of the comparison."""
    work, loss, steps, beta = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    plan = json.loads((work / "pairs.json").read_text())
    makers = {"sft": sft_trainer, "reward": reward_trainer}
    trainer = makers[loss](work) if loss in makers else preference_trainer(work, loss, float(beta))
    model = trainer.model.eval()  # no dropout; TRL's metrics differ by mode, its loss does not
    optimizer = torch.optim.AdamW(model.parameters(), **plan["optimizer"])
    found = []
    for batch in plan["batches"][:steps]:
        inputs = trainer.data_collator(rows_for(loss, batch))
        value = trainer.compute_loss(model, inputs)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), plan["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items() if values}
        found.append({"loss": value.item(), "grad_norm": norm.item(), "metrics": metrics})
        print(loss, len(found), found[-1]["loss"], found[-1]["grad_norm"], flush=True)
    (work / f"theirs-{loss}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
