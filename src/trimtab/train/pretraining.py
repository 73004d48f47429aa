"""Demonstrations that PPO learns from beside the rewards: PPO-ptx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data.tokens import Example
from trimtab.losses.sft import sft_loss
from trimtab.model.passes import response_tokens
from trimtab.model.policy import Policy, response_logprobs
from trimtab.train import loop
from trimtab.train.settings import PPOSettings, PretrainingSettings


@dataclass(frozen=True)
class Pretraining:
    """The demonstrations, and how they are taken."""

    examples: Sequence[Example]
    settings: PretrainingSettings

    def learn(self, policy: Policy, step: int, settings: PPOSettings) -> dict[str, float]:
        """Add the gradients of the weighted mean loss over the demonstrations of this optimizer step.

        Every demonstration comes once before any comes again, in a fresh order each time.
        """
        first, wanted = step * self.settings.batch, self.settings.batch
        chosen = loop.in_laps(len(self.examples), first, wanted, settings.seed, "pretraining")
        batch = [self.examples[index] for index in chosen]
        tokens = sum(response_tokens(example) for example in batch)
        total = 0.0
        for _, row in loop.rows(batch, settings.row_tokens, policy.numerics.device):
            with policy.numerics.autocast():
                loss = sft_loss(response_logprobs(policy.model, row)).sum() / tokens
            loop.backward(self.settings.weight * loss)
            total += float(loss.detach())
        return {"pretraining_loss": total}
