"""What PPO learns from: the responses of an update with their rewards, advantages and returns.

Dimensions: R = responses of an update, L = longest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trimtab.data.tokens import Example
from trimtab.errors import RunError
from trimtab.losses.advantages import ADVANTAGES, REWARDS, gae, token_rewards
from trimtab.losses.kl import ESTIMATORS
from trimtab.losses.ppo import importance_weights
from trimtab.model import scalar
from trimtab.model.device import Numerics
from trimtab.model.passes import over_rows, response_tokens
from trimtab.model.policy import Policy, response_logprobs
from trimtab.model.scalar import Scorer
from trimtab.rollout.types import Rollout
from trimtab.runs.phases import timed
from trimtab.train.ppo_models import PPOModels
from trimtab.train.settings import PPOSettings

FURTHEST = {None: 0.01, torch.bfloat16: 0.25}
"""Nats a token, on average, by which sampler and learner may disagree about the same weights, by the
arithmetic that both multiply in. SmolLM2-135M, 960 tokens on a CPU: 4e-6 in float32, 0.019 in bfloat16."""


@dataclass(frozen=True)
class Experience:
    """The rollouts of one update with all that is learned from; one tensor a response, its tokens long."""

    examples: list[Example]
    weights: Tensor  # [R] what each response counts
    scores: Tensor  # [R] from the reward model, clipped, what is taken off for stop and length taken off
    kl: Tensor  # [R] estimated divergence from the reference, nats a response
    old_logprobs: list[Tensor]
    old_values: list[Tensor]
    advantages: list[Tensor]  # shifted and scaled over all tokens of the update, as the settings say
    returns: list[Tensor]
    importance: list[Tensor]  # what each token counts beside its response's weight
    sampler_gap: float  # mean of |log-probability less the sampler's|, nats a token


def evaluate(
    models: PPOModels, rollouts: Sequence[Rollout], kl_weight: float, settings: PPOSettings
) -> Experience:
    """Score the rollouts, and work out rewards, advantages and returns."""
    examples = [rollout.example for rollout in rollouts]
    with timed("logprobs"):
        old_logprobs = _logprobs(models.policy, examples, settings, "old log-probabilities")
    with timed("reference"):
        reference = _logprobs(models.reference, examples, settings, "reference")
    with timed("values"):
        old_values = _values(models.value, examples, settings)
    with timed("score"):
        scores = _clipped(models.score(examples), settings) - _penalties(rollouts, settings)
    weights = torch.tensor([rollout.weight for rollout in rollouts], dtype=torch.float32)
    sampled = [torch.tensor(rollout.logprobs) for rollout in rollouts]

    mask = _padded([torch.ones(len(values), dtype=torch.bool) for values in old_logprobs])
    kl = ESTIMATORS[settings.kl.estimator](_padded(old_logprobs), _padded(reference))
    rewards = token_rewards(scores, kl, mask, kl_weight=kl_weight)
    rewards = REWARDS[settings.rewards](rewards, mask, weights)
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
        importance=_importance(old_logprobs, sampled, settings),
        sampler_gap=float(_mean_token((_padded(old_logprobs) - _padded(sampled)).abs(), mask, weights)),
    )


def require_same_weights(experience: Experience, numerics: Numerics) -> None:
    """Refuse responses of a sampler that does not have the learner's weights.

    Every sampled token is a canary: the learner computes its log-probability anew, on a path of its own.

    Raises:
        RunError: the two are further apart than arithmetic explains.
    """
    limit = FURTHEST[numerics.autocast_dtype]
    if not experience.sampler_gap <= limit:
        raise RunError(
            "the sampler does not have the learner's weights",
            where="sampling",
            found=f"log-probabilities {experience.sampler_gap:.3f} nats a token apart, on average; "
            f"rounding explains up to {limit}",
            fix="give the sampler the learner's weights after every update, adapters included",
        )


class RunningScale:
    """Scores less the mean, and by the deviation, of all that have come so far.

    Chan et al. 1979's update of mean and sum of squares, so that a resumed run goes on from three numbers.
    """

    def __init__(self, count: float = 0.0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.count, self.mean, self.squares = count, mean, squares

    def __call__(self, scores: Tensor) -> Tensor:
        """[R] -> [R], themselves among those that have come; 0 where all were the same."""
        count, mean = len(scores), float(scores.mean())
        squares = float((scores - mean).square().sum())
        apart, total = mean - self.mean, self.count + count
        self.squares += squares + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total
        deviation = (self.squares / self.count) ** 0.5
        scaled: Tensor = (scores - self.mean) / max(deviation, 1e-8)
        return scaled

    def as_json(self) -> list[float]:
        """What a checkpoint keeps of it: the arguments."""
        return [self.count, self.mean, self.squares]


def mean_over(values: Tensor, weights: Tensor) -> float:
    """The mean over responses, by what each counts."""
    return float((values * weights).sum() / weights.sum())


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


def _mean_token(values: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Over the real tokens of [R, L], by what each response counts."""
    counts = mask * weights.unsqueeze(1)
    return (counts * values).sum() / counts.sum()


def _importance(old: Sequence[Tensor], sampled: Sequence[Tensor], settings: PPOSettings) -> list[Tensor]:
    if settings.importance_cap is None:
        return [torch.ones_like(values) for values in old]
    cap = settings.importance_cap
    return [importance_weights(mine, its, cap=cap) for mine, its in zip(old, sampled, strict=True)]


def _clipped(scores: Tensor, settings: PPOSettings) -> Tensor:
    """[R]: no answer is worth more than the limit, so none is sought for what its score has beyond it."""
    return scores if settings.score_clip is None else scores.clamp(-settings.score_clip, settings.score_clip)


def _penalties(rollouts: Sequence[Rollout], settings: PPOSettings) -> Tensor:
    """[R]: what a response loses if only the length limit ended it, and for each of its tokens."""
    missing = torch.tensor([not rollout.response.stopped for rollout in rollouts])
    lengths = torch.tensor([len(rollout.response.ids) for rollout in rollouts])
    return missing * settings.missing_stop_penalty + lengths * settings.length_penalty


def _padded(values: Sequence[Tensor]) -> Tensor:
    """One tensor a response -> [R, L], right-padded with 0 (False)."""
    return pad_sequence(list(values), batch_first=True)


def _unpadded(values: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[real] for row, real in zip(values, mask, strict=True)]
