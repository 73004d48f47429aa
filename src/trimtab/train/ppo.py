"""Proximal policy optimization: sample, score, learn, and stay near the reference.

Each update: sample responses with the frozen policy, score them with the reward model, take the KL
penalty off token by token, estimate advantages with the value model, then move policy and value
within their clips. The policy, the value model, the reference and the reward model are four
separate models; the value model starts as the reward model.

Dimensions: R = responses of an update, L = longest of them, N = response tokens of a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Example
from trimtab.losses.advantages import ADVANTAGES, gae, token_rewards
from trimtab.losses.kl import ESTIMATORS, AdaptiveKL, reward_estimator
from trimtab.losses.ppo import (
    PolicyLoss,
    approximate_kl,
    dual_clipped_policy_loss,
    policy_loss,
    value_loss,
    with_entropy_bonus,
)
from trimtab.model import scalar
from trimtab.model.passes import over_rows, response_count, response_tokens
from trimtab.model.policy import Policy, response_kl, response_logprobs, response_logprobs_and_entropy
from trimtab.model.scalar import Scorer
from trimtab.rollout.types import Rollout, Sampling
from trimtab.runs import progress
from trimtab.runs.checkpoint import TensorGroups
from trimtab.runs.run import Run
from trimtab.train import inputs, loop
from trimtab.train.answers import as_row
from trimtab.train.calibration import calibrated
from trimtab.train.measures import Mean, Share, log_measures
from trimtab.train.models import PPOModels, finish, load_ppo_models
from trimtab.train.settings import PPOSettings


@dataclass(frozen=True)
class Experience:
    """The rollouts of one update with all that is learned from; one tensor a response, its tokens long."""

    examples: list[Example]
    weights: Tensor  # [R] what each response counts
    scores: Tensor  # [R] from the reward model, clipped, the missing-stop penalty taken off
    kl: Tensor  # [R] estimated divergence from the reference, nats a response
    old_logprobs: list[Tensor]
    old_values: list[Tensor]
    advantages: list[Tensor]  # shifted and scaled over all tokens of the update, as the settings say
    returns: list[Tensor]


@dataclass(frozen=True)
class Learners:
    """Policy and value model, each with its own optimizer."""

    policy: loop.Learner
    value: loop.Learner

    def skip(self, steps: int) -> None:
        """Go on in both schedules as if so many steps had been taken."""
        self.policy.skipped += steps
        self.value.skipped += steps

    def tensors(self) -> TensorGroups:
        """Both, as groups for a checkpoint."""
        return {**self.policy.tensors("policy"), **self.value.tensors("value")}


def train(settings: PPOSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    models = load_ppo_models(settings, run)
    train_set, dev_set = inputs.prompts(settings, models.policy.codec, run)
    models = calibrated(models, train_set, _sampling(models.policy, settings), settings, run)
    optimize(models, train_set, dev_set, settings, run)
    finish(models.policy, run)


def optimize(
    models: PPOModels,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: PPOSettings,
    run: Run,
    watch: loop.Watch = loop.unwatched,
) -> None:
    """Raise the reward less the penalty, update by update, measured on dev prompts before and after."""
    reward_estimator(settings.kl.estimator)  # warns of one whose gradient is biased
    learners = _learners(models, settings)
    learners.policy.restore(run, "policy")
    learners.value.restore(run, "value")
    kl_weight = _restored_kl_weight(settings, run)
    if run.step == 0:
        measure(models, dev_set, settings, run, step=0)

    def save(done: int) -> None:
        run.save(done, learners.tensors(), kl_weight=kl_weight)

    for update, bar in loop.steps(
        run, settings.updates, name="ppo", save=save, save_every=settings.checkpoint_every
    ):
        with run.meter.timed("sampling"):
            rollouts = collect(models, train_set, settings, update)
        with run.meter.timed("scoring"):
            experience = evaluate(models, rollouts, kl_weight, settings)
        with run.meter.timed("learning"):
            metrics = learn(models, learners, experience, settings, update)
        run.log(update + 1, **_summary(rollouts, experience), **metrics, **watch(), kl_weight=kl_weight)
        kl_weight = _next_kl_weight(kl_weight, experience, settings)
        bar.advance(note=f"score {experience.scores.mean():+.2f}, KL {experience.kl.mean():.2f}")

    measure(models, dev_set, settings, run, step=settings.updates)


def collect(
    models: PPOModels, prompts: Sequence[Example], settings: PPOSettings, update: int
) -> list[Rollout]:
    """Sample one response to each of the next `rollouts` prompts, from the policy as it is."""
    chosen = [prompts[index] for index in _prompt_order(len(prompts), settings, update)]
    seeds = [loop.seed_for(settings.seed, "rollout", update, index) for index in range(len(chosen))]
    return models.answer(chosen, _sampling(models.policy, settings), seeds, name="sampling")


def evaluate(
    models: PPOModels, rollouts: Sequence[Rollout], kl_weight: float, settings: PPOSettings
) -> Experience:
    """Score the rollouts, and work out rewards, advantages and returns."""
    examples = [rollout.example for rollout in rollouts]
    old_logprobs = _logprobs(models.policy, examples, settings, "old log-probabilities")
    reference = _logprobs(models.reference, examples, settings, "reference")
    old_values = _values(models.value, examples, settings)
    scores = _clipped(models.score(examples), settings) - _missing_stop_penalty(rollouts, settings)
    weights = torch.tensor([rollout.weight for rollout in rollouts], dtype=torch.float32)

    mask = _padded([torch.ones(len(values), dtype=torch.bool) for values in old_logprobs])
    kl = ESTIMATORS[settings.kl.estimator](_padded(old_logprobs), _padded(reference))
    rewards = token_rewards(scores, kl, mask, kl_weight=kl_weight)
    estimated = gae(rewards, _padded(old_values), mask, lam=settings.lam)
    advantages = ADVANTAGES[settings.advantages](estimated.advantages, mask, weights)
    return Experience(
        examples=examples,
        weights=weights,
        scores=scores,
        kl=kl.sum(1),
        old_logprobs=old_logprobs,
        old_values=old_values,
        advantages=_unpadded(advantages, mask),
        returns=_unpadded(estimated.returns, mask),
    )


def learn(
    models: PPOModels, learners: Learners, experience: Experience, settings: PPOSettings, update: int
) -> dict[str, float]:
    """Several passes of clipped steps over the same experience; means of what was seen on the way."""
    planned = [
        minibatch
        for epoch in range(settings.epochs)
        for minibatch in _minibatches(len(experience.examples), settings, update, epoch)
    ]
    seen: list[dict[str, float]] = []
    for minibatch in planned:
        seen.append(learn_minibatch(models, learners, experience, minibatch, settings))
        if settings.kl_stop is not None and seen[-1]["approximate_kl"] > settings.kl_stop:
            learners.skip(len(planned) - len(seen))
            break
    means = {name: sum(step[name] for step in seen) / len(seen) for name in seen[0]}
    return {**means, "first_ratio_error": seen[0]["ratio_error"], "minibatches": len(seen)}


def learn_minibatch(
    models: PPOModels,
    learners: Learners,
    experience: Experience,
    chosen: Sequence[int],
    settings: PPOSettings,
) -> dict[str, float]:
    """One optimizer step of policy and value on some of the responses, by the mean over their tokens."""
    tokens = sum(float(experience.weights[index]) * len(experience.old_logprobs[index]) for index in chosen)
    sums: dict[str, float] = defaultdict(float)
    ratio_error = 0.0
    device = models.policy.numerics.device
    for group, row in loop.rows(
        [experience.examples[index] for index in chosen], settings.row_tokens, device
    ):
        indices = [chosen[place] for place in group]
        seen, error = _policy_pass(models.policy, row, experience, indices, tokens, settings)
        seen |= _value_pass(models.value, row, experience, indices, tokens, settings)
        for name, value in seen.items():
            sums[name] += value
        ratio_error = max(ratio_error, error)
    policy_step, value_step = learners.policy.step(), learners.value.step()
    means = {name: value / tokens for name, value in sums.items()}
    return {**means, "ratio_error": ratio_error, **policy_step, "value_grad_norm": value_step["grad_norm"]}


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
    loss = with_entropy_bonus(part.loss, entropy, weight=settings.entropy_weight)
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


def _learners(models: PPOModels, settings: PPOSettings) -> Learners:
    total = settings.updates * settings.epochs * (settings.rollouts // settings.minibatch)
    return Learners(
        loop.Learner(models.policy.model, settings.optimizer, total),
        loop.Learner(models.value.model, settings.value_optimizer, total),
    )


def _sampling(policy: Policy, settings: PPOSettings) -> Sampling:
    return Sampling(
        max_new=settings.max_response, temperature=settings.temperature, stop_ids=(policy.codec.stop_id,)
    )


def _prompt_order(count: int, settings: PPOSettings, update: int) -> list[int]:
    """Indices of the update's prompts: every prompt once before any comes again, in a fresh order each."""
    first = update * settings.rollouts
    order: list[int] = []
    for lap in range(first // count, (first + settings.rollouts - 1) // count + 1):
        generator = torch.Generator().manual_seed(loop.seed_for(settings.seed, "prompts", lap))
        order += torch.randperm(count, generator=generator).tolist()
    skipped = first % count
    return order[skipped : skipped + settings.rollouts]


def _minibatches(count: int, settings: PPOSettings, update: int, epoch: int) -> list[list[int]]:
    """The update's responses in a fresh order, cut into as many minibatches as the settings say."""
    generator = torch.Generator().manual_seed(loop.seed_for(settings.seed, "minibatches", update, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    size = -(-count * settings.minibatch // settings.rollouts)
    return [order[first : first + size] for first in range(0, count, size)]


def _logprobs(policy: Policy, examples: Sequence[Example], settings: PPOSettings, name: str) -> list[Tensor]:
    """Of each response's tokens, by the same computation that learns: so the first ratio is 1."""
    return over_rows(
        examples,
        lambda row: response_logprobs(policy.model, row, temperature=settings.temperature),
        response_tokens,
        row_tokens=settings.row_tokens,
        numerics=policy.numerics,
        name=name,
    )


def _values(scorer: Scorer, examples: Sequence[Example], settings: PPOSettings) -> list[Tensor]:
    return over_rows(
        examples,
        lambda row: scalar.values(scorer.model, row),
        response_tokens,
        row_tokens=settings.row_tokens,
        numerics=scorer.numerics,
        name="values",
    )


def _clipped(scores: Tensor, settings: PPOSettings) -> Tensor:
    """[R]: no answer is worth more than the limit, so none is sought for what its score has beyond it."""
    return scores if settings.score_clip is None else scores.clamp(-settings.score_clip, settings.score_clip)


def _missing_stop_penalty(rollouts: Sequence[Rollout], settings: PPOSettings) -> Tensor:
    """[R]: a response that only the length limit ended is worth less."""
    missing = torch.tensor([not rollout.response.stopped for rollout in rollouts])
    return missing * settings.missing_stop_penalty


def _padded(values: Sequence[Tensor]) -> Tensor:
    """One tensor a response -> [R, L], right-padded with 0 (False)."""
    return pad_sequence(list(values), batch_first=True)


def _unpadded(values: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[real] for row, real in zip(values, mask, strict=True)]


def _gathered(values: Sequence[Tensor], indices: Sequence[int], device: torch.device) -> Tensor:
    """The values of these responses' tokens, end to end, as in a packed row: [N]."""
    return torch.cat([values[index] for index in indices]).to(device)


def _restored_kl_weight(settings: PPOSettings, run: Run) -> float:
    return float(run.resumed_from.state["kl_weight"]) if run.resumed_from else settings.kl.weight


def _next_kl_weight(weight: float, experience: Experience, settings: PPOSettings) -> float:
    if settings.kl.target is None:
        return weight
    controller = AdaptiveKL(settings.kl.target, settings.kl.horizon)
    mean = _mean(experience.kl, experience.weights)
    return controller.updated(weight, kl=mean, episodes=len(experience.examples))


def _mean(values: Tensor, weights: Tensor) -> float:
    return float((values * weights).sum() / weights.sum())


def _summary(rollouts: Sequence[Rollout], experience: Experience) -> dict[str, float]:
    """What the update's rollouts were like; the reward is what the policy is trained on, in all."""
    weights = experience.weights
    lengths = torch.tensor([len(rollout.response.ids) for rollout in rollouts])
    stopped = torch.tensor([rollout.response.stopped for rollout in rollouts])
    returns, values = torch.cat(experience.returns), torch.cat(experience.old_values)
    score = _mean(experience.scores, weights)
    return {
        "score": score,
        "score_std": _mean((experience.scores - score).square(), weights) ** 0.5,
        "kl": _mean(experience.kl, weights),
        "stopped": _mean(stopped, weights),
        "length": _mean(lengths, weights),
        "explained_variance": 1 - float((returns - values).var() / returns.var().clamp_min(1e-12)),
        "tokens": inputs.tokens_in(experience.examples),
    }
