"""The other side of our_ppo.py: TRL 1.12.0's PPOTrainer on stored rollouts. Runs where TRL 1.12.0 is.

    python their_ppo.py WORK CASE

reads WORK/rollouts.json and the models beside it, and writes WORK/theirs-CASE.json. Its `train` runs as it
is, but for three things that are put in place of its own, since they are known to differ (docs/details.md):
rollouts are the stored ones instead of sampled ones; minibatches come in the stored order; advantages
are scaled by the root of the biased variance. What goes through its means and its optimizer is written down.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Recorder:
    """What passes through TRL's own functions, in order."""

    def __init__(self) -> None:
        self.advantages: list[float] = []
        self.scores: list[float] = []
        self.steps: list[dict[str, float]] = []
        self._means: list[float] = []
        self._mean, self._variance = ppo_trainer.masked_mean, ppo_trainer.masked_var
        self._whiten, self._reward = ppo_trainer.masked_whiten, ppo_trainer.get_reward

    def install(self, optimizer: torch.optim.Optimizer, trainer: PPOTrainer, penalty: float) -> None:
        """Put the recording functions where the trainer looks for them."""
        policy, value = list(trainer.policy_model.parameters()), list(trainer.value_model.parameters())

        def mean(values: Tensor, mask: Tensor, axis: bool | None = None) -> Tensor:
            found = self._mean(values, mask, axis)
            self._means.append(float(found.detach()))
            return found

        def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
            for row, real in zip(values, mask, strict=True):
                self.advantages += row[real].tolist()
            found = self._whiten(values, mask, shift_mean)
            self._means.clear()
            return found

        def reward(model: Any, ids: Tensor, pad_id: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
            logits, scores, lengths = self._reward(model, ids, pad_id, context)
            if model is trainer.reward_model:
                stopped = (ids[:, context:] == trainer.processing_class.eos_token_id).any(1)
                self.scores += (scores - penalty * ~stopped).tolist()
            return logits, scores, lengths

        def before_step(*_: Any) -> None:
            # The last three, in the trainer's order: value loss (not yet halved), its clips, policy loss.
            value_loss, _, policy_loss = self._means[-3:]
            norms = {"grad_norm": norm_of(policy), "value_grad_norm": norm_of(value)}
            self.steps.append({"policy_loss": policy_loss, "value_loss": 0.5 * value_loss, **norms})
            print(len(self.steps), self.steps[-1], flush=True)

        ppo_trainer.masked_mean, ppo_trainer.masked_whiten = mean, whiten
        ppo_trainer.masked_var = lambda values, mask, unbiased=True: self._variance(values, mask, False)
        ppo_trainer.get_reward = reward
        optimizer.register_step_pre_hook(before_step)


def norm_of(parameters: list[torch.nn.Parameter]) -> float:
    """Of all gradients together."""
    return float(torch.stack([one.grad.norm() for one in parameters if one.grad is not None]).norm())


def stored_generation(batches: list[Tensor], temperature: float) -> Any:
    """Stands for TRL's sampling: the next stored batch, and the policy's logits for it."""
    waiting = iter(batches)

    def batch_generation(model: Any, queries: Tensor, size: int, pad_id: int, config: Any) -> Any:
        ids = next(waiting)
        assert ids[:, : queries.shape[1]].equal(queries)
        logits = ppo_trainer.forward(model, ids, pad_id).logits[:, queries.shape[1] - 1 : -1]
        return ids, logits / (temperature + 1e-7)

    return batch_generation


def padded(rows: list[dict[str, list[int]]], pad_id: int, max_new: int) -> tuple[Tensor, Tensor]:
    """Left-padded prompts, and the same with right-padded responses behind them."""
    longest = max(len(row["prompt"]) for row in rows)
    prompts = [[pad_id] * (longest - len(row["prompt"])) + row["prompt"] for row in rows]
    responses = [row["response"] + [pad_id] * (max_new - len(row["response"])) for row in rows]
    return torch.tensor(prompts), torch.tensor([a + b for a, b in zip(prompts, responses, strict=True)])


def main() -> None:
    """Step through the stored rollouts with TRL's trainer."""
    work, case = Path(sys.argv[1]), sys.argv[2]
    stored, plan = (json.loads((work / name).read_text()) for name in ("rollouts.json", "pairs.json"))
    how, given = stored["cases"][case], stored["settings"]
    batches = stored["sets"][how["set"]][: how["updates"]]
    tokenizer = AutoTokenizer.from_pretrained(work / "policy", padding_side="left")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stored["pad_id"])
    models = {
        "model": AutoModelForCausalLM.from_pretrained(work / "policy", dtype=torch.float32),
        "ref_model": AutoModelForCausalLM.from_pretrained(work / "reference", dtype=torch.float32),
        "reward_model": scalar(work / "scorer"),
        "value_model": scalar(work / "value"),
    }
    learned = [*models["model"].parameters(), *models["value_model"].parameters()]
    optimizer = torch.optim.AdamW(learned, **plan["optimizer"])
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(work / "trl"), report_to=[], use_cpu=True, bf16=False, save_strategy="no",
            gradient_checkpointing=False, per_device_train_batch_size=len(batches[0]),
            total_episodes=sum(len(rows) for rows in batches), num_ppo_epochs=given["epochs"],
            temperature=1.0, stop_token="eos", response_length=given["max_new"], num_sample_generations=0,
            missing_eos_penalty=given["missing_stop_penalty"], kl_coef=given["kl_weight"], vf_coef=1.0,
            cliprange=given["clip"], cliprange_value=given["value_clip"], lam=how["lam"],
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"input_ids": row["prompt"]} for rows in batches for row in rows]),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        **models,
    )  # fmt: skip
    pairs = [padded(rows, stored["pad_id"], given["max_new"]) for rows in batches]
    trainer.dataloader = [{"input_ids": prompts} for prompts, _ in pairs]
    ppo_trainer.batch_generation = stored_generation([ids for _, ids in pairs], trainer.args.temperature)
    np.random.permutation = np.arange
    recorder = Recorder()
    recorder.install(optimizer, trainer, given["missing_stop_penalty"])
    trainer.train()
    found = {"advantages": recorder.advantages, "scores": recorder.scores, "steps": recorder.steps}
    (work / f"theirs-{case}.json").write_text(json.dumps(found))


def scalar(folder: Path) -> Any:
    """A model with one output a token, in float32."""
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)


if __name__ == "__main__":
    main()
