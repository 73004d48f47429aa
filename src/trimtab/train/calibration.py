"""The scale of the scores that PPO learns from, set by the answers of the model that it begins from.

A Bradley-Terry model's scores have whatever spread its pairs and its training gave them, so that the same
KL weight holds two policies at different distances. Deviations of the reference's answers are a unit that
both have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.errors import ModelError
from trimtab.model import scalar
from trimtab.rollout.types import Sampling
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train import loop
from trimtab.train.ppo_models import PPOModels
from trimtab.train.settings import PPOSettings


def calibrated(
    models: PPOModels, prompts: Sequence[Example], sampling: Sampling, settings: PPOSettings, run: Run
) -> PPOModels:
    """The models with scores and values in deviations of the reference's answers, 0 being their mean.

    Called before the policy learns: it is then the reference. A resumed run draws the same answers again.

    Raises:
        ModelError: the reward model gives all answers the same score.
    """
    if settings.calibration_prompts is None:
        return models
    with run.meter.timed("calibration"):
        order = torch.randperm(len(prompts), generator=_generator(settings)).tolist()
        chosen = [prompts[index] for index in order[: settings.calibration_prompts]]
        seeds = [loop.seed_for(settings.seed, "calibration", index) for index in range(len(chosen))]
        rollouts = models.answer(chosen, sampling, seeds, name="calibration")
        scores = models.score([rollout.example for rollout in rollouts])
    mean, deviation = float(scores.mean()), float(scores.std(correction=0))
    if not deviation > 1e-6 * max(1.0, abs(mean)):
        raise ModelError(
            "the reward model cannot tell answers apart",
            where=settings.reward_model,
            found=f"{len(chosen)} answers, all with score {mean:.4g}",
            fix="train the reward model on more or clearer pairs",
        )
    run.describe(calibration={"answers": len(chosen), "mean": mean, "deviation": deviation})
    progress.say(f"  scores of {len(chosen)} answers: mean {mean:+.2f} -> 0, deviation {deviation:.2f} -> 1")
    scalar.rescale(models.value.model, mean=mean, deviation=deviation)

    def score(examples: Sequence[Example]) -> Tensor:
        return (models.score(examples) - mean) / deviation

    return replace(models, score=score)


def _generator(settings: PPOSettings) -> torch.Generator:
    return torch.Generator().manual_seed(loop.seed_for(settings.seed, "calibration"))
