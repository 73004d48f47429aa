"""The trainers themselves in worlds whose optimum is known: how near do they come?

The stages are the real ones, with tiny models and a world in place of files: each gets the world's
examples, and PPO its rewards. With exact weights every expectation is a sum over all responses, so
that what is left is the trainer's own error; with sampling, PPO draws with the real sampler and DPO
sees a finite number of judged pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.config import Settings, build
from trimtab.lab.world import Enumeration, World
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy
from trimtab.model.tiny import tiny_policy, tiny_scorer
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Answers
from trimtab.runs import progress
from trimtab.runs.run import Run, open_run, read_metrics
from trimtab.train import dpo, ppo, reward, sft
from trimtab.train.ppo_models import PPOModels
from trimtab.train.settings import DPOSettings, PPOSettings, RewardSettings, SFTSettings

REFERENCE_SEED = 7
"""Of the policy that every run begins from and is held near."""


@dataclass(frozen=True)
class Approach:
    """How one run came near its optimum."""

    name: str
    seed: int
    beta: float
    gaps: tuple[float, ...]
    """What was still missing after each logged step; in reward for PPO and DPO, in nats for SFT."""
    range: float
    """What was missing at the start."""

    @property
    def final(self) -> float:
        """What is missing at the end."""
        return self.gaps[-1]


def vocabulary_of(world: World) -> int:
    """Tokens of the world, the stop token included."""
    return 1 + max(token for response in world.responses for token in response.ids)


def reference_of(world: World, numerics: Numerics) -> Policy:
    """The policy that every run in this world begins from."""
    return tiny_policy(vocabulary_of(world), seed=REFERENCE_SEED, numerics=numerics)


def ppo_with_weights(world: World, numerics: Numerics, *, updates: int, seed: int = 0) -> Approach:
    """PPO on exact expectations: every response with its probability as weight.

    Centred, unscaled advantages, lambda 1 and a learning rate that falls to 0: at the optimum the
    advantages vanish, and neither scaling nor a wrong value may put anything in their place.
    """
    changes = {
        "rollouts": len(world.prompts),
        "minibatch": len(world.prompts),
        "episodes": updates * len(world.prompts),
        "epochs": 1,
        "optimizer": {"learning_rate": 3e-3, "schedule": "linear", "warmup": 0.0},
    }
    return _ppo(world, numerics, changes, lambda policy: Enumeration(world, policy), "PPO, exact", seed)


def ppo_with_samples(
    world: World, numerics: Numerics, *, episodes: int, rollouts: int = 512, seed: int = 0
) -> Approach:
    """PPO on samples of the real sampler, otherwise as with exact weights."""
    changes = {
        "rollouts": rollouts,
        "minibatch": rollouts,
        "episodes": episodes,
        "epochs": 1,
        "optimizer": {"learning_rate": 3e-3, "schedule": "linear", "warmup": 0.0},
    }
    return _ppo(world, numerics, changes, lambda policy: partial(answer, policy), "PPO, sampled", seed)


def ppo_as_shipped(
    world: World, numerics: Numerics, *, episodes: int, rollouts: int = 512, seed: int = 0
) -> Approach:
    """PPO on samples with the default advantages, lambda and epochs: its gap is reported, not bounded."""
    changes = {
        "rollouts": rollouts,
        "minibatch": rollouts // 4,
        "episodes": episodes,
        "lam": 0.95,
        "advantages": "standardized",
        "optimizer": {"learning_rate": 1e-3, "schedule": "constant"},
    }
    return _ppo(world, numerics, changes, lambda policy: partial(answer, policy), "PPO, defaults", seed)


def dpo_with_weights(world: World, numerics: Numerics, *, steps: int, seed: int = 0) -> Approach:
    """DPO on every pair of responses with its exact probability as weight."""
    reference = world.logprobs(reference_of(world, numerics))
    return _dpo(world, numerics, world.pairs(reference), steps, "DPO, exact", seed)


def dpo_with_samples(world: World, numerics: Numerics, *, pairs: int, steps: int, seed: int = 0) -> Approach:
    """DPO on a number of pairs drawn from the reference and judged by a Bradley-Terry judge."""
    reference = world.logprobs(reference_of(world, numerics))
    drawn = world.sampled_pairs(reference, pairs, torch.Generator().manual_seed(seed))
    return _dpo(world, numerics, drawn, steps, f"DPO, {pairs:,} pairs", seed)


def sft_with_weights(world: World, numerics: Numerics, *, steps: int, seed: int = 0) -> Approach:
    """SFT on every response weighted by its probability under pi*: the loss's optimum is pi* itself."""
    policy = reference_of(world, numerics)
    before = world.logprobs(policy)
    goal = world.optimum(before)
    shown = world.demonstrations(goal)
    settings = build(SFTSettings, {**_COMMON, **_whole_batches(len(shown), steps), "seed": seed})

    def missing() -> float:
        from trimtab.lab import exact

        return float(exact.divergence(goal, world.logprobs(policy)).mean())

    begun = missing()
    with _run("sft", settings) as run:
        sft.optimize(policy, shown, [], settings, run, watch=lambda: {"gap": missing()})
        return _approach("SFT, exact", world, seed, run, begun)


def reward_with_weights(world: World, numerics: Numerics, *, steps: int, seed: int = 0) -> Approach:
    """The reward model on every pair with its exact weight: rewards come back up to a constant a prompt."""
    reference = world.logprobs(reference_of(world, numerics))
    scorer = tiny_scorer(vocabulary_of(world), seed=seed + 1, numerics=numerics)
    pairs = world.pairs(reference)
    settings = build(RewardSettings, {**_COMMON, **_whole_batches(len(pairs), steps), "seed": seed})

    def missing() -> float:
        error = world.scores(scorer) - world.rewards
        return float((error - error.mean(-1, keepdim=True)).abs().max())

    begun = missing()
    with _run("reward", settings) as run:
        reward.optimize(scorer, pairs, [], settings, run, watch=lambda: {"gap": missing()})
        return _approach("reward model, exact", world, seed, run, begun)


_COMMON: dict[str, Any] = {
    "model": "lab",
    "data": "lab",
    "device": "cpu",
    "precision": "float32",
    "samples": 0,
    "row_tokens": 1 << 16,
    "checkpoint_every": 1 << 30,
}


def _whole_batches(examples: int, steps: int) -> dict[str, Any]:
    """One step an epoch over all examples, with a learning rate that falls to 0."""
    return {
        "batch": examples,
        "epochs": steps,
        "optimizer": {"learning_rate": 3e-3, "schedule": "linear", "warmup": 0.0, "max_grad_norm": 100.0},
    }


def _ppo(
    world: World,
    numerics: Numerics,
    changes: Mapping[str, Any],
    answers: Callable[[Policy], Answers],
    name: str,
    seed: int,
) -> Approach:
    policy = reference_of(world, numerics)
    settings = build(
        PPOSettings,
        {
            **_COMMON,
            "reward_model": "lab",
            "max_response": world.limit,
            "kl": {"weight": world.beta},
            "missing_stop_penalty": 0.0,
            "lam": 1.0,
            "advantages": "centred",
            "value_optimizer": {"learning_rate": 3e-3, "schedule": "linear", "warmup": 0.0},
            "seed": seed,
            **changes,
        },
    )
    models = PPOModels(
        policy,
        reference_of(world, numerics),
        tiny_scorer(vocabulary_of(world), seed=seed + 1, numerics=numerics),
        answers(policy),
        world.score,
    )
    missing = _gap_from(world, policy)
    begun = missing()
    with _run("ppo", settings) as run:
        ppo.optimize(models, world.prompt_examples(), [], settings, run, watch=lambda: {"gap": missing()})
        return _approach(name, world, seed, run, begun)


def _dpo(world: World, numerics: Numerics, pairs: list[Any], steps: int, name: str, seed: int) -> Approach:
    policy = reference_of(world, numerics)
    settings = build(
        DPOSettings,
        {
            **_COMMON,
            **_whole_batches(len(pairs), steps),
            "loss": {"beta": world.beta},
            "reference": {"cache": 0},  # a world of its own, of no use to other runs
            "seed": seed,
        },
    )
    missing = _gap_from(world, policy)
    begun = missing()
    with _run("dpo", settings) as run:
        dpo.optimize(policy, pairs, [], settings, run, watch=lambda: {"gap": missing()})
        return _approach(name, world, seed, run, begun)


def _gap_from(world: World, policy: Policy) -> Callable[[], float]:
    """What the policy, as it will be, lacks to the optimum of where it is now."""
    reference: Tensor = world.logprobs(policy)
    return lambda: world.gap(world.logprobs(policy), reference)


@contextmanager
def _run(stage: str, settings: Settings) -> Iterator[Run]:
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-") as folder,
        progress.hidden(),
        open_run(Path(folder) / stage, stage, settings, resume=False) as run,
    ):
        yield run


def _approach(name: str, world: World, seed: int, run: Run, begun: float) -> Approach:
    # At the optimum float32 probabilities sum to 1 but for 1e-7, and the gap ends as far on either side of 0.
    gaps = [abs(float(row["gap"])) for row in read_metrics(run.folder) if "gap" in row]
    return Approach(name, seed, world.beta, (begun, *gaps), begun)
