"""Proximal policy optimization: sample, score, learn, and stay near the reference.

Each update: sample responses with the frozen policy, score them with the reward model, take the KL
penalty off token by token, estimate advantages with the value model, then move policy and value
within their clips. The policy, the value model, the reference and the reward model are four
separate models; the value model starts as the reward model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trimtab.data.tokens import Example
from trimtab.losses.kl import AdaptiveKL, reward_estimator
from trimtab.model.passes import over_rows, response_count
from trimtab.model.policy import Policy, response_kl
from trimtab.rollout.types import Rollout, Sampling
from trimtab.rollout.weights import require_drawn_from
from trimtab.runs import progress
from trimtab.runs.phases import Phases, recording, timed
from trimtab.runs.run import Run
from trimtab.train import inputs, loop
from trimtab.train.answers import as_row
from trimtab.train.calibration import calibrated
from trimtab.train.measures import Mean, Share, log_measures
from trimtab.train.models import finish
from trimtab.train.ppo_experience import (
    Experience,
    RunningScale,
    evaluate,
    mean_over,
    require_same_weights,
)
from trimtab.train.ppo_models import PPOModels, load_ppo_models
from trimtab.train.ppo_steps import Learners, learn
from trimtab.train.pretraining import Pretraining
from trimtab.train.settings import PPOSettings

NAMES = ("prefill", "decode", "logprobs", "reference", "values", "score", "update", "sync", "save")
"""Phases of an update, as metrics: their seconds and those of what else there is add up to its time. `sync`
gives the sampler the learner's weights, `save` is the checkpoint since the line before."""


@dataclass
class Steering:
    """What moves from update to update beside the weights."""

    kl_weight: float
    scale: RunningScale

    @classmethod
    def of(cls, settings: PPOSettings, run: Run) -> Steering:
        """As the run's checkpoint has it, or at the beginning."""
        if run.resumed_from is None:
            return cls(settings.kl.weight, RunningScale())
        state = run.resumed_from.state
        return cls(float(state["kl_weight"]), RunningScale(*state["scale"]))

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"kl_weight": self.kl_weight, "scale": self.scale.as_json()}

    def steer(self, experience: Experience, settings: PPOSettings) -> None:
        """Adapt the KL weight to what the policy's divergence was, if it is to."""
        if settings.kl.target is None:
            return
        controller = AdaptiveKL(settings.kl.target, settings.kl.horizon or 2 * settings.rollouts)
        mean = mean_over(experience.kl, experience.weights)
        self.kl_weight = controller.updated(self.kl_weight, kl=mean, episodes=len(experience.examples))


def train(settings: PPOSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    models = load_ppo_models(settings, run)
    train_set, dev_set = inputs.prompts(settings, models.policy.codec, run)
    pretraining = None
    if settings.pretraining is not None:
        shown = inputs.pretraining(settings, settings.pretraining.data, models.policy.codec, run)
        pretraining = Pretraining(shown, settings.pretraining)
    models = calibrated(models, train_set, _sampling(models.policy, settings), settings, run)
    optimize(models, train_set, dev_set, settings, run, pretraining=pretraining)
    finish(models.policy, run)


def optimize(
    models: PPOModels,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: PPOSettings,
    run: Run,
    watch: loop.Watch = loop.unwatched,
    pretraining: Pretraining | None = None,
) -> None:
    """Raise the reward less the penalty, update by update, measured on dev prompts before and after."""
    reward_estimator(settings.kl.estimator)  # warns of one whose gradient is biased
    learners = Learners.of(models, settings, pretraining)
    learners.restore(run)
    steering = Steering.of(settings, run)
    scored = models
    if settings.scores == "running":
        scored = replace(models, score=lambda examples: steering.scale(models.score(examples)))
    if run.step == 0:
        measure(models, dev_set, settings, run, step=0)

    def save(done: int) -> None:
        with timed("save"):
            run.save(done, learners.tensors(), **steering.as_json())

    with recording(Phases(NAMES, models.policy.numerics.settle)) as phases:
        for update, bar in loop.steps(
            run, settings.updates, name="ppo", save=save, save_every=settings.checkpoint_every
        ):
            with run.meter.timed("sampling"):
                rollouts = collect(models, train_set, settings, update)
            with run.meter.timed("scoring"):
                experience = evaluate(scored, rollouts, steering.kl_weight, settings)
            require_same_weights(experience, models.policy.numerics)
            with run.meter.timed("learning"), timed("update"):
                metrics = learn(models, learners, experience, settings, update)
            found = {**_summary(rollouts, experience), **metrics, **watch(), "kl_weight": steering.kl_weight}
            steering.steer(experience, settings)
            run.log(update + 1, **found, **{f"{name}_s": taken for name, taken in phases.take().items()})
            bar.advance(note=f"score {experience.scores.mean():+.2f}, KL {experience.kl.mean():.2f}")

    if learners.average is not None:
        learners.average.put()
    measure(models, dev_set, settings, run, step=settings.updates)


def collect(
    models: PPOModels, prompts: Sequence[Example], settings: PPOSettings, update: int
) -> list[Rollout]:
    """Sample one response to each of the next `rollouts` prompts, from the policy as it is.

    Raises:
        RunError: the engine drew them from other weights than the policy has.
    """
    chosen = [prompts[index] for index in _prompt_order(len(prompts), settings, update)]
    seeds = [loop.seed_for(settings.seed, "rollout", update, index) for index in range(len(chosen))]
    rollouts = models.answer(chosen, _sampling(models.policy, settings), seeds, name="sampling")
    with timed("sync"):
        require_drawn_from(models.policy.model, rollouts)
    return rollouts


def measure(
    models: PPOModels, dev_set: Sequence[Example], settings: PPOSettings, run: Run, *, step: int
) -> None:
    """Answer dev prompts: proxy reward, KL from the reference, stopped share and length."""
    if not dev_set:
        return
    prompts = dev_set[: settings.dev_prompts]
    with run.meter.timed("evaluation"):
        seeds = [loop.seed_for(settings.seed, "dev", index) for index in range(len(prompts))]
        rollouts = models.answer(prompts, _sampling(models.policy, settings), seeds, name="dev answers")
        examples = [rollout.example for rollout in rollouts]
        scores = models.score(examples).tolist()
        kl = _exact_kl(models, examples, settings)
    found = log_measures(
        run,
        step,
        settings.seed,
        proxy_reward=Mean(scores),
        kl=Mean(kl),
        stopped=Share([float(rollout.response.stopped) for rollout in rollouts]),
        length=Mean([float(len(rollout.response.ids)) for rollout in rollouts]),
    )
    rows = [
        {**as_row(models.policy, rollout), "proxy_reward": score, "kl": nats}
        for rollout, score, nats in zip(rollouts, scores, kl, strict=True)
    ]
    run.sample(step, rows[: settings.samples])
    progress.say(
        f"  dev: proxy reward {found['proxy_reward'].text()}, KL {found['kl'].text()} nats, "
        f"stopped {found['stopped'].percent()}"
    )


def _exact_kl(models: PPOModels, examples: Sequence[Example], settings: PPOSettings) -> list[float]:
    """KL(policy || reference) along each response, over the whole vocabulary at each token, nats."""
    values = over_rows(
        examples,
        lambda row: row.sum_by_response(response_kl(models.policy.model, models.reference.model, row)),
        response_count,
        row_tokens=settings.row_tokens,
        numerics=models.policy.numerics,
        name="dev KL",
    )
    return torch.cat(values).tolist()


def _sampling(policy: Policy, settings: PPOSettings) -> Sampling:
    return Sampling(
        max_new=settings.max_response, temperature=settings.temperature, stop_ids=(policy.codec.stop_id,)
    )


def _prompt_order(count: int, settings: PPOSettings, update: int) -> list[int]:
    """Indices of the update's prompts."""
    return loop.in_laps(count, update * settings.rollouts, settings.rollouts, settings.seed, "prompts")


def _summary(rollouts: Sequence[Rollout], experience: Experience) -> dict[str, float]:
    """What the update's rollouts were like; the reward is what the policy is trained on, in all."""
    weights = experience.weights
    lengths = torch.tensor([len(rollout.response.ids) for rollout in rollouts])
    stopped = torch.tensor([rollout.response.stopped for rollout in rollouts])
    returns, values = torch.cat(experience.returns), torch.cat(experience.old_values)
    score = mean_over(experience.scores, weights)
    return {
        "score": score,
        "score_std": mean_over((experience.scores - score).square(), weights) ** 0.5,
        "kl": mean_over(experience.kl, weights),
        "stopped": mean_over(stopped, weights),
        "length": mean_over(lengths, weights),
        "explained_variance": 1 - float((returns - values).var() / returns.var().clamp_min(1e-12)),
        "sampler_gap": experience.sampler_gap,
        "tokens": inputs.tokens_in(experience.examples),
    }
