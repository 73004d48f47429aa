"""How PPO's policy and value model learn from the experience of an update.

Dimensions: N = response tokens of a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data.batches import PackedRow
from trimtab.losses.ppo import (
    PolicyLoss,
    approximate_kl,
    dual_clipped_policy_loss,
    policy_loss,
    value_loss,
    with_entropy_bonus,
)
from trimtab.model import scalar
from trimtab.model.policy import Policy, response_logprobs_and_entropy
from trimtab.model.scalar import Scorer
from trimtab.runs.checkpoint import TensorGroups
from trimtab.runs.run import Run
from trimtab.train import loop
from trimtab.train.average import Average
from trimtab.train.ppo_experience import Experience
from trimtab.train.ppo_models import PPOModels
from trimtab.train.pretraining import Pretraining
from trimtab.train.settings import PPOSettings


@dataclass(frozen=True)
class Learners:
    """Policy and value model, each with its own optimizer, and what the policy has beside it."""

    policy: loop.Learner
    value: loop.Learner
    average: Average | None = None
    pretraining: Pretraining | None = None

    @classmethod
    def of(cls, models: PPOModels, settings: PPOSettings, pretraining: Pretraining | None = None) -> Learners:
        """For the whole stage; the policy's schedule begins when the value model has warmed up."""
        each = settings.epochs * (settings.rollouts // settings.minibatch)
        learning = settings.updates - settings.value_warmup
        return cls(
            loop.Learner(models.policy.model, settings.optimizer, learning * each),
            loop.Learner(models.value.model, settings.value_optimizer, settings.updates * each),
            None if settings.average is None else Average(models.policy.model, keep=settings.average),
            pretraining,
        )

    def skip(self, steps: int) -> None:
        """Go on in both schedules as if so many steps had been taken."""
        self.policy.skipped += steps
        self.value.skipped += steps

    def tensors(self) -> TensorGroups:
        """All of them, as groups for a checkpoint."""
        average = {} if self.average is None else self.average.tensors("policy")
        return {**self.policy.tensors("policy"), **self.value.tensors("value"), **average}

    def restore(self, run: Run) -> None:
        """Go on from the run's checkpoint, if it has one."""
        self.policy.restore(run, "policy")
        self.value.restore(run, "value")
        if self.average is not None:
            self.average.restore(run, "policy")


def learn(
    models: PPOModels, learners: Learners, experience: Experience, settings: PPOSettings, update: int
) -> dict[str, float]:
    """Several passes of clipped steps over the same experience; means of what was seen on the way."""
    planned = [
        minibatch
        for epoch in range(settings.epochs)
        for minibatch in _minibatches(len(experience.examples), settings, update, epoch)
    ]
    if update < settings.value_warmup:
        return _means([learn_value(models, learners, experience, chosen, settings) for chosen in planned])
    seen: list[dict[str, float]] = []
    for minibatch in planned:
        seen.append(learn_minibatch(models, learners, experience, minibatch, settings))
        if settings.kl_stop is not None and seen[-1]["approximate_kl"] > settings.kl_stop:
            learners.skip(len(planned) - len(seen))
            break
    return {**_means(seen), "first_ratio_error": seen[0]["ratio_error"]}


def learn_minibatch(
    models: PPOModels,
    learners: Learners,
    experience: Experience,
    chosen: Sequence[int],
    settings: PPOSettings,
) -> dict[str, float]:
    """One optimizer step of policy and value on some of the responses, by the mean over their tokens."""
    return {
        **learn_policy(models, learners, experience, chosen, settings),
        **learn_value(models, learners, experience, chosen, settings),
    }


def learn_policy(
    models: PPOModels,
    learners: Learners,
    experience: Experience,
    chosen: Sequence[int],
    settings: PPOSettings,
) -> dict[str, float]:
    """One optimizer step of the policy; with the largest |ratio - 1| that it saw."""
    ratio_errors: list[float] = []

    def learn_row(row: PackedRow, indices: Sequence[int], tokens: float) -> dict[str, float]:
        seen, error = _policy_pass(models.policy, row, experience, indices, tokens, settings)
        ratio_errors.append(error)
        return seen

    beside: dict[str, float] = {}
    with models.policy.numerics.training(models.policy.model):
        means = _over_rows(experience, chosen, settings, models.policy.numerics.device, learn_row)
        if learners.pretraining is not None:
            step = learners.policy.steps + learners.policy.skipped
            beside = learners.pretraining.learn(models.policy, step, settings)
    stepped = learners.policy.step()
    if learners.average is not None:
        learners.average.follow()
    return {**means, **beside, "ratio_error": max(ratio_errors), **stepped}


def learn_value(
    models: PPOModels,
    learners: Learners,
    experience: Experience,
    chosen: Sequence[int],
    settings: PPOSettings,
) -> dict[str, float]:
    """One optimizer step of the value model."""

    def learn_row(row: PackedRow, indices: Sequence[int], tokens: float) -> dict[str, float]:
        return _value_pass(models.value, row, experience, indices, tokens, settings)

    with models.value.numerics.training(models.value.model):
        means = _over_rows(experience, chosen, settings, models.value.numerics.device, learn_row)
    return {**means, "value_grad_norm": learners.value.step()["grad_norm"]}


def _over_rows(
    experience: Experience,
    chosen: Sequence[int],
    settings: PPOSettings,
    device: torch.device,
    learn_row: Callable[[PackedRow, Sequence[int], float], dict[str, float]],
) -> dict[str, float]:
    """Go through the responses row by row; means over their tokens of what each row gave sums of."""
    tokens = sum(float(experience.weights[index]) * len(experience.old_logprobs[index]) for index in chosen)
    sums: dict[str, float] = defaultdict(float)
    examples = [experience.examples[index] for index in chosen]
    for group, row in loop.rows(examples, settings.row_tokens, device):
        for name, value in learn_row(row, [chosen[place] for place in group], tokens).items():
            sums[name] += value
    return {name: value / tokens for name, value in sums.items()}


def _means(seen: Sequence[dict[str, float]]) -> dict[str, float]:
    means = {name: sum(step[name] for step in seen) / len(seen) for name in seen[0]}
    return {**means, "minibatches": len(seen)}


def _policy_pass(
    policy: Policy,
    row: PackedRow,
    experience: Experience,
    indices: Sequence[int],
    tokens: float,
    settings: PPOSettings,
) -> tuple[dict[str, float], float]:
    """Gradients of the policy loss of one row; sums over its tokens, and the largest |ratio - 1|."""
    device = policy.numerics.device
    old_logprobs = _gathered(experience.old_logprobs, indices, device)
    advantages = _gathered(experience.advantages, indices, device)
    with policy.numerics.autocast():
        logprobs, entropy = response_logprobs_and_entropy(policy.model, row, temperature=settings.temperature)
    part = _policy_loss(logprobs, old_logprobs, advantages, settings)
    counted = part.loss * _gathered(experience.importance, indices, device)
    loss = with_entropy_bonus(counted, entropy, weight=settings.entropy_weight)
    weights = row.token_weights
    loop.backward((weights * loss).sum() / tokens)
    sums = {
        "policy_loss": float((weights * part.loss.detach()).sum()),
        "entropy": float((weights * entropy.detach()).sum()),
        "clip_fraction": float((weights * part.clipped).sum()),
        "approximate_kl": float((weights * approximate_kl(logprobs.detach(), old_logprobs)).sum()),
    }
    return sums, float((part.ratio - 1).abs().max())


def _policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, settings: PPOSettings
) -> PolicyLoss:
    if settings.dual_clip is None:
        return policy_loss(logprobs, old_logprobs, advantages, clip=settings.clip)
    return dual_clipped_policy_loss(
        logprobs, old_logprobs, advantages, clip=settings.clip, dual_clip=settings.dual_clip
    )


def _value_pass(
    value: Scorer,
    row: PackedRow,
    experience: Experience,
    indices: Sequence[int],
    tokens: float,
    settings: PPOSettings,
) -> dict[str, float]:
    """Gradients of the value loss of one row; sums over its tokens."""
    device = value.numerics.device
    with value.numerics.autocast():
        values = scalar.values(value.model, row)
    old_values = _gathered(experience.old_values, indices, device)
    part = value_loss(
        values, old_values, _gathered(experience.returns, indices, device), clip=settings.value_clip
    )
    weights = row.token_weights
    loop.backward((weights * part.loss).sum() / tokens)
    return {
        "value_loss": float((weights * part.loss.detach()).sum()),
        "value_clip_fraction": float((weights * part.clipped).sum()),
    }


def _minibatches(count: int, settings: PPOSettings, update: int, epoch: int) -> list[list[int]]:
    """The update's responses in a fresh order, cut into as many minibatches as the settings say."""
    generator = torch.Generator().manual_seed(loop.seed_for(settings.seed, "minibatches", update, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    size = -(-count * settings.minibatch // settings.rollouts)
    return [order[first : first + size] for first in range(0, count, size)]


def _gathered(values: Sequence[Tensor], indices: Sequence[int], device: torch.device) -> Tensor:
    """The values of these responses' tokens, end to end, as in a packed row: [N]."""
    return torch.cat([values[index] for index in indices]).to(device)
