"""How a step is cut into rows changes memory and speed, never the loss or its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.data.tokens import Example, Response
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy, load_policy
from trimtab.model.scalar import Scorer, load_scorer
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Rollout
from trimtab.train import dpo, loop, ppo, reward, sft
from trimtab.train.ppo_experience import evaluate
from trimtab.train.ppo_models import PPOModels, rewards
from trimtab.train.ppo_steps import Learners, learn_minibatch
from trimtab.train.settings import OptimizerSettings

APART, TOGETHER = 1, 100_000  # row_tokens: a row an example, one row for all

Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def policy(model_folder: Path, numerics: Numerics) -> Policy:
    return load_policy(str(model_folder), numerics, bytes_per_parameter=4)


@pytest.fixture(scope="module")
def scorer(reward_folder: Path, numerics: Numerics) -> Scorer:
    return load_scorer(str(reward_folder), numerics, bytes_per_parameter=4)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Gradients]:
    """The gradients that each step would have used; no weight moves."""
    found: list[Gradients] = []

    def step(learner: loop.Learner) -> dict[str, float]:
        named = {name: value for name, value in learner.model.named_parameters() if value.grad is not None}
        found.append({name: value.grad.clone() for name, value in named.items() if value.grad is not None})
        learner.model.zero_grad(set_to_none=True)
        return {"learning_rate": 0.0, "grad_norm": 0.0}

    monkeypatch.setattr(loop.Learner, "step", step)
    return found


def examples(responses: int) -> list[Example]:
    """Five examples; the lengths of prompts and responses all differ."""
    generator = torch.Generator().manual_seed(8)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 300, (count,), generator=generator).tolist())

    return [
        Example(
            ids(4 + 3 * index),
            tuple(Response((*ids(1 + 2 * index + 5 * place), 2), True) for place in range(responses)),
        )
        for index in range(5)
    ]


def learner(model: Any) -> loop.Learner:
    return loop.Learner(model, OptimizerSettings(), 10)


def require_same(captured: list[Gradients], first: dict[str, float], second: dict[str, float]) -> None:
    half = len(captured) // 2
    for apart, together in zip(captured[:half], captured[half:], strict=True):
        assert apart.keys() == together.keys() and len(apart) > 10
        assert max(float(value.abs().max()) for value in apart.values()) > 1e-3
        for name in apart:
            torch.testing.assert_close(apart[name], together[name], atol=1e-6, rtol=1e-4, msg=name)
    assert first == pytest.approx(second, rel=1e-5, abs=1e-6)


def test_sft(policy: Policy, settings_of: Callable[..., Any], captured: list[Gradients]) -> None:
    batch = examples(1)
    seen = [
        sft.learn(policy, learner(policy.model), batch, settings_of("sft", row_tokens=size))
        for size in (APART, TOGETHER)
    ]
    require_same(captured, *seen)


def test_reward(scorer: Scorer, settings_of: Callable[..., Any], captured: list[Gradients]) -> None:
    batch = examples(2)
    seen = [
        reward.learn(scorer, learner(scorer.model), batch, settings_of("reward", row_tokens=size))
        for size in (APART, TOGETHER)
    ]
    require_same(captured, *seen)


@pytest.mark.parametrize(
    ("loss", "learn"),
    [
        ("dpo", dpo.learn_by_rows),
        ("dpo", dpo.learn_together),
        ("wpo", dpo.learn_by_rows),
        ("ld_dpo", dpo.learn_by_rows),
        ("simpo", dpo.learn_by_rows),
        ("aot", dpo.learn_together),
    ],
)
def test_dpo(
    policy: Policy,
    settings_of: Callable[..., Any],
    captured: list[Gradients],
    loss: str,
    learn: Callable[..., dict[str, float]],
) -> None:
    batch = examples(2)
    counts = [sum(len(response.ids) for response in example.responses) for example in batch]
    reference = [-0.3 * torch.arange(count).float() for count in counts]  # another margin for each pair
    seen = []
    for size in (APART, TOGETHER):
        metrics = learn(policy, batch, reference, settings_of("dpo", row_tokens=size, loss=loss))
        seen.append({**metrics, **learner(policy.model).step()})
    require_same(captured, *seen)


def as_drawn(example: Example) -> Rollout:
    """The example's one response, as if it had been drawn."""
    (response,) = example.responses
    return Rollout(example.prompt, response, (-1.0,) * len(response.ids), example.weight)


def test_ppo(
    policy: Policy, scorer: Scorer, settings_of: Callable[..., Any], captured: list[Gradients]
) -> None:
    models = PPOModels(policy, policy, scorer, partial(answer, policy), partial(rewards, scorer, 256))
    settings = settings_of("ppo", rollouts=5, minibatch=5, episodes=5)
    rollouts = [as_drawn(example) for example in examples(1)]
    experience = evaluate(models, rollouts, 0.1, settings)
    # As if the policy had moved since: other ratios than 1, some of them clipped.
    shifted = [old + 0.15 * torch.cos(torch.arange(len(old))) for old in experience.old_logprobs]
    experience = replace(experience, old_logprobs=shifted)
    seen = []
    for size in (APART, TOGETHER):
        learners = Learners(learner(policy.model), learner(scorer.model))
        now = settings.model_copy(update={"row_tokens": size})
        seen.append(learn_minibatch(models, learners, experience, [3, 0, 4, 1], now))
    assert len(captured) == 4 and seen[0]["policy_loss"] != 0 and seen[0]["value_loss"] > 0
    assert seen[0]["ratio_error"] > 0.1
    require_same(captured, *seen)


def repeated(batch: list[Example]) -> tuple[list[Example], list[Example]]:
    """A batch whose second example counts twice, and the same with the example there twice."""
    weighted = [replace(example, weight=2.0 if index == 1 else 1.0) for index, example in enumerate(batch)]
    return weighted, [*batch[:2], *batch[1:]]


def test_a_weight_of_2_is_an_example_that_is_there_twice(
    policy: Policy, scorer: Scorer, settings_of: Callable[..., Any], captured: list[Gradients]
) -> None:
    for kind, responses in (("sft", 1), ("reward", 2), ("dpo", 2), ("dpo together", 2)):
        captured.clear()
        seen = []
        for batch in repeated(examples(responses)):
            settings = settings_of(kind.split()[0])
            reference = [
                -0.3 * torch.arange(example.tokens - len(example.prompt)).float() for example in batch
            ]
            if kind == "sft":
                seen.append(sft.learn(policy, learner(policy.model), batch, settings))
            elif kind == "reward":
                seen.append(reward.learn(scorer, learner(scorer.model), batch, settings))
            else:
                learn = dpo.learn_together if "together" in kind else dpo.learn_by_rows
                metrics = learn(policy, batch, reference, settings)
                seen.append({**metrics, **learner(policy.model).step()})
        require_same(captured, *seen)


def test_a_rollout_of_weight_2_is_one_that_was_drawn_twice(
    policy: Policy, scorer: Scorer, settings_of: Callable[..., Any], captured: list[Gradients]
) -> None:
    models = PPOModels(policy, policy, scorer, partial(answer, policy), partial(rewards, scorer, 256))
    seen = []
    for batch in repeated(examples(1)):
        rollouts = [as_drawn(one) for one in batch]
        settings = settings_of("ppo", rollouts=len(batch), minibatch=len(batch), episodes=len(batch))
        experience = evaluate(models, rollouts, 0.1, settings)
        learners = Learners(learner(policy.model), learner(scorer.model))
        metrics = learn_minibatch(models, learners, experience, range(len(batch)), settings)
        summary = ppo._summary(rollouts, experience)
        del summary["tokens"], summary["explained_variance"]  # counts of what was computed, not means
        seen.append({**metrics, **summary})
    require_same(captured, *seen)
