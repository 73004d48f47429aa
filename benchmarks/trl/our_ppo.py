"""trimtab's side of compare.py for PPO: the stage's own steps on stored rollouts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from our_stages import MAX_GRAD_NORM, NUMERICS, RATE, add_noise

from trimtab.data.tokens import Example, Response
from trimtab.model.load import load_tokenizer
from trimtab.model.policy import load_policy
from trimtab.model.save import save_model
from trimtab.model.scalar import load_scorer
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Rollout, Sampling
from trimtab.train import loop
from trimtab.train.ppo_experience import evaluate
from trimtab.train.ppo_models import PPOModels, rewards
from trimtab.train.ppo_steps import Learners, learn_minibatch
from trimtab.train.settings import OptimizerSettings, PPOSettings

MAX_NEW, ROLLOUTS, EPOCHS = 24, 8, 4
"""Tokens of a response at most; responses of an update; steps on the same responses."""
PAD = "<|endoftext|>"
"""TRL takes every token of this kind for padding, so it must not be the stop token."""


@dataclass(frozen=True)
class Case:
    """A set of stored rollouts and how PPO learns from them."""

    name: str
    ends: str
    """full: the length limit ended every response; stopped: a stop token ended at least half of them."""
    updates: int
    lam: float


CASES = (
    Case("ppo-full", "full", updates=5, lam=0.95),
    Case("ppo-stopped-lambda-1", "stopped", updates=1, lam=1.0),
    Case("ppo-stopped", "stopped", updates=1, lam=0.95),
)


def prepare(out: Path) -> None:
    """A value model that is not the reward model, and rollouts of the policy, if they are not there yet."""
    if (out / "rollouts.json").exists():
        return
    value = load_scorer(str(out / "scorer"), NUMERICS, bytes_per_parameter=4)
    add_noise(value.model, seed=3)
    save_model(value.model, value.codec, out / "value")
    policy = load_policy(str(out / "policy"), NUMERICS, bytes_per_parameter=4)
    pad_id = policy.codec.tokenizer.convert_tokens_to_ids(PAD)
    plan = json.loads((out / "pairs.json").read_text())
    prompts = [
        Example(tuple(row["prompt_ids"]), (Response((0,), False),))
        for batch in plan["batches"]
        for row in batch
    ] * 2
    sampling = Sampling(max_new=MAX_NEW, stop_ids=(policy.codec.stop_id,))
    found = answer(policy, prompts, sampling, list(range(len(prompts))), name="stored rollouts")
    found = [one for one in found if pad_id not in one.response.ids]
    full = [one for one in found if not one.response.stopped]
    stopped = [one for one in found if one.response.stopped]
    half = ROLLOUTS // 2
    sets = {
        "full": [full[first : first + ROLLOUTS] for first in range(0, 5 * ROLLOUTS, ROLLOUTS)],
        "stopped": [stopped[:half] + full[5 * ROLLOUTS : 5 * ROLLOUTS + half]],
    }
    stored = {
        "pad_id": pad_id,
        "settings": {
            "kl_weight": 0.05,
            "clip": 0.2,
            "value_clip": 0.2,
            "missing_stop_penalty": 1.0,
            "epochs": EPOCHS,
            "max_new": MAX_NEW,
        },
        "cases": {case.name: {"lam": case.lam, "updates": case.updates, "set": case.ends} for case in CASES},
        "sets": {
            name: [[_as_row(one) for one in batch] for batch in batches] for name, batches in sets.items()
        },
    }
    (out / "rollouts.json").write_text(json.dumps(stored))


def _as_row(rollout: Rollout) -> dict[str, Any]:
    return {"prompt": list(rollout.prompt), "response": list(rollout.response.ids)}


def run(out: Path) -> None:
    """The stage's own steps, for every case that is not there yet."""
    for case in CASES:
        path = out / f"ours-{case.name}.json"
        if not path.exists():
            path.write_text(json.dumps(_steps(out, case)))


def _steps(out: Path, case: Case) -> dict[str, Any]:
    stored = json.loads((out / "rollouts.json").read_text())
    given = stored["settings"]
    stop_id = load_tokenizer(str(out / "policy")).stop_id
    settings = _settings(case, given)
    models = _models(out, settings)
    learners = Learners(
        loop.Learner(models.policy.model, settings.optimizer, 1),
        loop.Learner(models.value.model, settings.value_optimizer, 1),
    )
    found: dict[str, Any] = {"advantages": [], "scores": [], "steps": []}
    for batch in stored["sets"][case.ends][: case.updates]:
        rollouts = [_as_rollout(row, stop_id) for row in batch]
        experience = evaluate(models, rollouts, given["kl_weight"], settings)
        found["scores"] += experience.scores.tolist()
        for returns, values in zip(experience.returns, experience.old_values, strict=True):
            found["advantages"] += (returns - values).tolist()
        for _ in range(EPOCHS):
            everything = range(len(rollouts))
            found["steps"].append(learn_minibatch(models, learners, experience, everything, settings))
            print(case.name, len(found["steps"]), found["steps"][-1], flush=True)
    return found


def _settings(case: Case, given: dict[str, Any]) -> PPOSettings:
    optimizer = OptimizerSettings(
        learning_rate=RATE, warmup=0.0, schedule="constant", max_grad_norm=MAX_GRAD_NORM
    )
    return PPOSettings(
        model="given",
        data="given",
        reward_model="given",
        episodes=ROLLOUTS,
        rollouts=ROLLOUTS,
        minibatch=ROLLOUTS,
        epochs=EPOCHS,
        lam=case.lam,
        clip=given["clip"],
        value_clip=given["value_clip"],
        missing_stop_penalty=given["missing_stop_penalty"],
        optimizer=optimizer,
        value_optimizer=optimizer,
    )


def _models(out: Path, settings: PPOSettings) -> PPOModels:
    reward = load_scorer(str(out / "scorer"), NUMERICS, bytes_per_parameter=4)
    return PPOModels(
        policy=load_policy(str(out / "policy"), NUMERICS, bytes_per_parameter=16),
        reference=load_policy(str(out / "reference"), NUMERICS, bytes_per_parameter=4),
        value=load_scorer(str(out / "value"), NUMERICS, bytes_per_parameter=16),
        answer=_never,
        score=partial(rewards, reward, settings.row_tokens),
    )


def _never(*_: Any, **__: Any) -> list[Rollout]:
    raise AssertionError("rollouts are stored, nothing is sampled")


def _as_rollout(row: dict[str, list[int]], stop_id: int) -> Rollout:
    ids = tuple(row["response"])
    return Rollout(tuple(row["prompt"]), Response(ids, ids[-1] == stop_id), logprobs=(0.0,) * len(ids))
