"""What PPO may have beside its core: each part against a computation of its own."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab import formats
from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Limits, encode_demonstrations, encode_prompts
from trimtab.errors import ConfigError, RunError
from trimtab.losses.advantages import scale_to_unit_variance
from trimtab.losses.ppo import importance_weights
from trimtab.model import adapters, scalar
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy, load_policy, response_logprobs
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Rollout, Sampling
from trimtab.runs.run import Run, open_run, read_metrics
from trimtab.train import loop, ppo
from trimtab.train.average import Average
from trimtab.train.ppo_experience import RunningScale, evaluate, require_same_weights
from trimtab.train.ppo_models import PPOModels, rewards
from trimtab.train.ppo_steps import Learners, learn, learn_minibatch
from trimtab.train.pretraining import Pretraining
from trimtab.train.settings import PretrainingSettings

Rows = list[dict[str, Any]]


@pytest.fixture
def models(model_folder: Path, reward_folder: Path, numerics: Numerics) -> PPOModels:
    def policy() -> Policy:
        return load_policy(str(model_folder), numerics, bytes_per_parameter=4)

    def scorer() -> Any:
        return scalar.load_scorer(str(reward_folder), numerics, bytes_per_parameter=4)

    trained = policy()
    return PPOModels(trained, policy(), scorer(), partial(answer, trained), partial(rewards, scorer(), 256))


@pytest.fixture(scope="module")
def prompts(model_folder: Path, numerics: Numerics, data: dict[str, str]) -> list[Example]:
    codec = load_policy(str(model_folder), numerics, bytes_per_parameter=4).codec
    rows = formats.usable(formats.read_prompts(data["train"]))
    return encode_prompts(codec, rows, Limits(prompt=64, response=12)).examples


@pytest.fixture
def rollouts(models: PPOModels, prompts: list[Example], settings_of: Callable[..., Any]) -> list[Rollout]:
    return ppo.collect(models, prompts, settings_of("ppo", rollouts=8, minibatch=4), update=0)


def weights_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def moved(before: list[torch.Tensor], model: torch.nn.Module) -> bool:
    return not all(torch.equal(one, other) for one, other in zip(before, weights_of(model), strict=True))


def test_the_value_model_warms_up_alone(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    settings = settings_of("ppo", value_warmup=1, epochs=2)
    learners = Learners.of(models, settings)
    experience = evaluate(models, rollouts, 0.1, settings)
    policy, value = weights_of(models.policy.model), weights_of(models.value.model)
    seen = learn(models, learners, experience, settings, update=0)
    assert not moved(policy, models.policy.model) and moved(value, models.value.model)
    assert "policy_loss" not in seen and seen["minibatches"] == 4 == learners.value.steps
    # Of three updates the policy learns in two: its schedule is over them alone.
    assert (learners.policy.steps, learners.policy.total_steps, learners.value.total_steps) == (0, 8, 12)
    assert "policy_loss" in learn(models, learners, experience, settings, update=1)
    assert moved(policy, models.policy.model)


def test_a_policy_that_never_learns_is_refused(settings_of: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="never learn"):
        settings_of("ppo", value_warmup=3)


def test_running_scores_are_scaled_by_all_that_have_come() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [3 + 2 * torch.randn(count, generator=generator) for count in (5, 1, 40)]
    scale = RunningScale()
    for last, batch in enumerate(batches):
        every = torch.cat(batches[: last + 1])
        expected = (batch - every.mean()) / every.std(correction=0)
        resumed = RunningScale(*scale.as_json())
        torch.testing.assert_close(scale(batch), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(resumed(batch), (batch - scale.mean) / (scale.squares / scale.count) ** 0.5)


def test_equal_scores_are_worth_nothing() -> None:
    assert RunningScale()(torch.full((4,), 2.5)).tolist() == [0, 0, 0, 0]


def test_two_scales_are_refused(settings_of: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="twice"):
        settings_of("ppo", scores="running", calibration_prompts=8)


def test_each_token_takes_its_penalty_from_the_score(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    free, paying = (
        evaluate(models, rollouts, 0.1, settings_of("ppo", length_penalty=each)).scores
        for each in (0.0, 0.25)
    )
    lengths = torch.tensor([len(rollout.response.ids) for rollout in rollouts])
    torch.testing.assert_close(paying, free - 0.25 * lengths)


def test_whitened_rewards_reach_the_returns(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    """With lambda 1 the first return of a response is the sum of its rewards."""
    plain, whitened = (
        evaluate(models, rollouts, 0.1, settings_of("ppo", lam=1.0, rewards=kind))
        for kind in ("plain", "whitened")
    )
    # Rewards of tokens are differences of neighbouring returns.
    given = [torch.cat([-values.diff(), values[-1:]]) for values in plain.returns]
    padded = torch.nn.utils.rnn.pad_sequence(given, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in given], True)
    expected = scale_to_unit_variance(padded, mask).sum(1)
    found = torch.stack([values[0] for values in whitened.returns])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, torch.stack([values[0] for values in plain.returns]))


def test_importance_weights_undo_the_samplers_distribution() -> None:
    """Summed over all tokens: the sampler's mean of weight times f is the learner's mean of f."""
    generator = torch.Generator().manual_seed(0)
    old, sampled = torch.randn(2, 7, dtype=torch.float64, generator=generator).log_softmax(-1)
    values = torch.randn(7, dtype=torch.float64, generator=generator)
    uncapped = importance_weights(old, sampled, cap=1e9)
    torch.testing.assert_close((sampled.exp() * uncapped * values).sum(), (old.exp() * values).sum())
    capped = importance_weights(old, sampled, cap=1.25)
    assert capped.max() == 1.25 and torch.equal(capped[uncapped < 1.25], uncapped[uncapped < 1.25])
    with pytest.raises(ValueError, match="cap must be >= 1"):
        importance_weights(old, sampled, cap=0.9)


def test_importance_weights_scale_the_policys_loss_token_by_token(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    off = [replace(one, logprobs=tuple(value - math.log(1.5) for value in one.logprobs)) for one in rollouts]
    losses = {}
    for cap in (None, 1.2, 4.0):
        settings = settings_of("ppo", importance_cap=cap, advantages="plain")
        experience = evaluate(models, off, 0.1, settings)
        assert experience.sampler_gap == pytest.approx(math.log(1.5), abs=1e-4)
        fresh = replace(models, policy=copy.deepcopy(models.policy), value=copy.deepcopy(models.value))
        seen = learn_minibatch(fresh, Learners.of(fresh, settings), experience, range(8), settings)
        losses[cap] = (seen["policy_loss"], seen["grad_norm"])
    # The loss that is told is PPO's own; what moves the policy is weighted.
    assert losses[None][0] == pytest.approx(losses[4.0][0])
    for cap, factor in ((1.2, 1.2), (4.0, 1.5)):
        assert losses[cap][1] == pytest.approx(factor * losses[None][1], rel=1e-3)


def test_demonstrations_add_their_weighted_gradient(
    models: PPOModels,
    rollouts: list[Rollout],
    settings_of: Callable[..., Any],
    data: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[list[torch.Tensor]] = []

    def step(learner: loop.Learner) -> dict[str, float]:
        if learner.model is models.policy.model:
            kept.append(
                [
                    torch.zeros_like(one) if one.grad is None else one.grad.clone()
                    for one in learner.model.parameters()
                ]
            )
        learner.model.zero_grad(set_to_none=True)
        return {"learning_rate": 0.0, "grad_norm": 0.0}

    monkeypatch.setattr(loop.Learner, "step", step)
    rows = formats.usable(formats.read_demonstrations(data["train"]))
    shown = encode_demonstrations(models.policy.codec, rows, Limits(prompt=64, response=12)).examples
    settings = settings_of("ppo")
    experience = evaluate(models, rollouts, 0.1, settings)
    beside = Pretraining(shown, PretrainingSettings(data="given", weight=0.7, batch=5))
    for pretraining in (None, beside):
        learners = Learners.of(models, settings, pretraining)
        seen = learn_minibatch(models, learners, experience, range(8), settings)
    without, with_them = kept

    batch = [shown[index] for index in loop.in_laps(len(shown), 0, 5, settings.seed, "pretraining")]
    loss = -response_logprobs(models.policy.model, pack(batch)).mean()
    own = torch.autograd.grad(loss, list(models.policy.model.parameters()), allow_unused=True)
    assert seen["pretraining_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for found, one, other in zip(with_them, without, own, strict=True):
        expected = one if other is None else one + 0.7 * other
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_every_demonstration_comes_once_before_any_comes_again() -> None:
    drawn = list(itertools.chain(*(loop.in_laps(7, 3 * step, 3, 0, "pretraining") for step in range(14))))
    laps = [drawn[first : first + 7] for first in range(0, 42, 7)]
    assert all(sorted(lap) == list(range(7)) for lap in laps) and laps[0] != laps[1]


def test_an_average_follows_the_weights() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    average = Average(model, keep=0.75)
    for value in (5.0, 9.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.follow()
    average.put()
    first = [0.75 * 1 + 0.25 * 5, 0.75 * 2 + 0.25 * 5]
    assert model.weight.tolist() == [pytest.approx([0.75 * one + 0.25 * 9 for one in first])]


def test_the_average_is_what_is_saved_and_measured(
    tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows], numerics: Numerics
) -> None:
    """An average that keeps almost all of itself stays almost where the policy began."""
    rows = train("ppo", settings_of("ppo", average=1 - 1e-6), tmp_path / "still")
    moving = train("ppo", settings_of("ppo"), tmp_path / "moving")
    assert rows[-1]["dev_kl"] < 1e-4 < moving[-1]["dev_kl"]
    assert rows[-2]["kl"] > 1e-3, "the policy itself has moved"
    saved = load_policy(str(tmp_path / "still"), numerics, bytes_per_parameter=4)
    began = load_policy(settings_of("ppo").model, numerics, bytes_per_parameter=4)
    for one, other in zip(saved.model.parameters(), began.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_the_kl_weight_moves_by_a_tenth_an_update_at_most(
    tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    settings = settings_of("ppo", kl={"weight": 0.1, "target": 1e-6})
    rows = [row for row in train("ppo", settings, tmp_path / "ppo") if "kl_weight" in row]
    # The first update's KL is 0, far below the target; later ones are far above it.
    assert [row["kl_weight"] for row in rows] == pytest.approx([0.1, 0.1 * 0.9, 0.1 * 0.9 * 1.1])


def test_phases_add_up_to_the_step(
    tmp_path: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, logged = Run.log, []

    def timing(run: Run, step: int, **values: Any) -> None:
        logged.append(time.perf_counter())
        log(run, step, **values)

    monkeypatch.setattr(Run, "log", timing)
    rows = train("ppo", settings_of("ppo", checkpoint_every=1), tmp_path / "ppo")
    steps = [row for row in rows if "decode_s" in row]
    assert len(steps) == 3 == len(logged) - 2, "dev measures are logged before and after"
    for row in steps:
        assert set(ppo.NAMES) | {"other"} == {name[:-2] for name in row if name.endswith("_s")}
        assert all(row[f"{name}_s"] > 0 for name in ppo.NAMES if name != "save")
    assert steps[0]["save_s"] == 0 < steps[1]["save_s"]
    for row, (before, after) in zip(steps[1:], itertools.pairwise(logged[1:-1]), strict=True):
        total = sum(value for name, value in row.items() if name.endswith("_s"))
        assert total == pytest.approx(after - before, abs=0.02)


def stage(models: PPOModels, prompts: list[Example], settings: Any, folder: Path) -> None:
    with open_run(folder, "ppo", settings, resume=False) as run:
        ppo.optimize(models, prompts, [], settings, run)


@pytest.mark.parametrize(("says", "found"), [(True, "responses from weights"), (False, "nats a token apart")])
def test_an_engine_that_ignores_the_sync_is_caught(
    tmp_path: Path,
    models: PPOModels,
    prompts: list[Example],
    settings_of: Callable[..., Any],
    says: bool,
    found: str,
) -> None:
    """By the digest of its weights where it gives one, by its log-probabilities where it does not."""
    old = copy.deepcopy(models.policy)

    def stale(*arguments: Any, name: str) -> list[Rollout]:
        rollouts = answer(old, *arguments, name=name)
        return rollouts if says else [replace(rollout, drawn_from=None) for rollout in rollouts]

    with pytest.raises(RunError, match=f"does not have the learner's weights\n.*{found}"):
        stage(replace(models, answer=stale), prompts, settings_of("ppo"), tmp_path / "ppo")
    assert [row["step"] for row in read_metrics(tmp_path / "ppo")] == [1], "the first sample was the policy's"


def test_an_adapter_that_binds_to_nothing_is_caught(
    models: PPOModels, prompts: list[Example], settings_of: Callable[..., Any]
) -> None:
    """The learner has an adapter that has learned something; the engine samples from the base."""
    model, codec = models.policy.model, models.policy.codec
    adapters.attach(
        model,
        rank=2,
        alpha=4.0,
        targets="all-linear",
        base="given",
        generator=torch.Generator().manual_seed(0),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    settings = settings_of("ppo")
    sampling = Sampling(max_new=12, stop_ids=(codec.stop_id,))
    bound = answer(models.policy, prompts, sampling, list(range(len(prompts))), name="answers")
    require_same_weights(evaluate(models, bound, 0.1, settings), models.policy.numerics)
    with adapters.switched_off(model):
        unbound = answer(models.policy, prompts, sampling, list(range(len(prompts))), name="answers")
    with pytest.raises(RunError, match="adapters included"):
        require_same_weights(evaluate(models, unbound, 0.1, settings), models.policy.numerics)
