"""PPO's own steps: an exact start, prompts in turn, the penalty for not stopping, rewards that add up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tiny import tiny_llama, tiny_tokenizer
from trimtab import formats
from trimtab.config import build
from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Limits, Response, encode_prompts
from trimtab.errors import ConfigError, ModelError
from trimtab.losses.kl import BiasedGradient
from trimtab.model import scalar
from trimtab.model.device import Numerics
from trimtab.model.policy import load_policy
from trimtab.model.save import save_model
from trimtab.model.scalar import new_scorer
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Rollout
from trimtab.runs.run import is_done
from trimtab.train import loop, ppo
from trimtab.train.ppo_experience import evaluate
from trimtab.train.ppo_models import PPOModels, rewards
from trimtab.train.ppo_steps import Learners, _minibatches, learn, learn_minibatch
from trimtab.train.settings import OptimizerSettings, PPOSettings

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def models(model_folder: Path, reward_folder: Path, numerics: Numerics) -> PPOModels:
    """As the stage loads them; no test moves them."""

    def policy() -> Any:
        return load_policy(str(model_folder), numerics, bytes_per_parameter=4)

    def scorer() -> Any:
        return scalar.load_scorer(str(reward_folder), numerics, bytes_per_parameter=4)

    trained = policy()
    return PPOModels(
        trained, policy(), scorer(), answer=partial(answer, trained), score=partial(rewards, scorer(), 256)
    )


@pytest.fixture(scope="module")
def prompts(models: PPOModels, data: dict[str, str]) -> list[Example]:
    rows = formats.usable(formats.read_prompts(data["train"]))
    return encode_prompts(models.policy.codec, rows, Limits(prompt=64, response=12)).examples


@pytest.fixture(scope="module")
def rollouts(models: PPOModels, prompts: list[Example], settings_of: Callable[..., Any]) -> list[Rollout]:
    """Long ones, some of which stop by themselves: at random about one token in 300 stops."""
    settings = settings_of("ppo", rollouts=12, minibatch=4, episodes=12, max_response=150)
    return ppo.collect(models, prompts, settings, update=0)


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimizer steps that leave the weights alone."""

    def step(learner: loop.Learner) -> dict[str, float]:
        learner.model.zero_grad(set_to_none=True)
        return {"learning_rate": 0.0, "grad_norm": 0.0}

    monkeypatch.setattr(loop.Learner, "step", step)


def learners(models: PPOModels) -> Learners:
    settings = OptimizerSettings()
    return Learners(
        loop.Learner(models.policy.model, settings, 9), loop.Learner(models.value.model, settings, 9)
    )


def by_hand(*lengths: int, stopped: tuple[bool, ...]) -> list[Rollout]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for length, stops in zip(lengths, stopped, strict=True):
        prompt = tuple(torch.randint(3, 300, (6,), generator=generator).tolist())
        ids = tuple(torch.randint(3, 300, (length,), generator=generator).tolist())
        made.append(Rollout(prompt, Response((*ids[:-1], 2) if stops else ids, stops), (-1.0,) * length))
    return made


def test_the_stop_token_is_part_of_a_rollout(models: PPOModels, rollouts: list[Rollout]) -> None:
    stop = models.policy.codec.stop_id
    assert {rollout.response.stopped for rollout in rollouts} == {True, False}, "the test needs both"
    for rollout in rollouts:
        ids = rollout.response.ids
        assert stop not in ids[:-1]
        assert (ids[-1] == stop) == rollout.response.stopped
        assert rollout.response.stopped or len(ids) == 150
        assert rollout.example.responses[0].ids == ids, "what is learned from is what was sampled"


def test_the_first_minibatch_starts_exactly(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any], unmoved: None
) -> None:
    settings = settings_of("ppo", rollouts=12, minibatch=4, episodes=12, temperature=0.8)
    experience = evaluate(models, rollouts, 0.05, settings)
    assert experience.kl.tolist() == [0.0] * 12
    every = torch.cat(experience.advantages)
    assert every.mean().item() == pytest.approx(0, abs=1e-5)
    assert every.var(correction=0).item() == pytest.approx(1, abs=1e-4)

    chosen = [7, 2, 11]
    seen = learn_minibatch(models, learners(models), experience, chosen, settings)
    assert seen["ratio_error"] < 1e-5
    mine = torch.cat([experience.advantages[index] for index in chosen])
    assert seen["policy_loss"] == pytest.approx(-mine.mean().item(), abs=1e-5)
    assert seen["clip_fraction"] == 0 and seen["approximate_kl"] == pytest.approx(0, abs=1e-9)
    errors = [experience.returns[index] - experience.old_values[index] for index in chosen]
    assert seen["value_loss"] == pytest.approx(torch.cat(errors).square().mean().item() / 2, rel=1e-4)


def test_rewards_add_up_to_score_less_penalty(
    models: PPOModels,
    rollouts: list[Rollout],
    settings_of: Callable[..., Any],
    plain_logprobs: Callable[..., Any],
    model_folder: Path,
    numerics: Numerics,
    tmp_path: Path,
) -> None:
    """With lambda 1 the first return is the sum of all rewards of the response."""
    tiny_llama(seed=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    other = load_policy(str(tmp_path), numerics, bytes_per_parameter=4)
    settings = settings_of("ppo", rollouts=12, minibatch=4, episodes=12, lam=1.0)
    apart = replace(models, reference=other)
    experience = evaluate(apart, rollouts, 0.3, settings)
    assert experience.kl.abs().min() > 0.1
    for index, rollout in enumerate(rollouts[:4]):
        total = float(experience.scores[index] - 0.3 * experience.kl[index])
        assert experience.returns[index][0].item() == pytest.approx(total, rel=1e-4, abs=1e-4)
        (policy,), (reference,) = (
            plain_logprobs(folder, rollout.example) for folder in (model_folder, tmp_path)
        )
        assert experience.kl[index].item() == pytest.approx(float((policy - reference).sum()), abs=1e-3)
        assert len(experience.returns[index]) == len(rollout.response.ids)
        # The last return is the score less the last token's own penalty.
        last = experience.scores[index] - 0.3 * (policy - reference)[-1]
        assert experience.returns[index][-1].item() == pytest.approx(last.item(), abs=1e-3)


@pytest.mark.parametrize("name", ["centred", "plain"])
def test_advantages_are_left_in_their_own_size(
    name: str, models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    common = {"rollouts": 12, "minibatch": 4, "episodes": 12}
    scaled, kept = (
        torch.cat(evaluate(models, rollouts, 0.1, settings_of("ppo", **common, advantages=one)).advantages)
        for one in ("standardized", name)
    )
    assert abs(float(kept.std()) - 1) > 0.05, "the test needs another size than 1"
    mean = 0.0 if name == "centred" else float(kept.mean())
    assert float(kept.mean()) == pytest.approx(mean, abs=1e-6) and (name == "centred" or abs(mean) > 1e-3)
    torch.testing.assert_close((kept - kept.mean()) / kept.std(correction=0), scaled, atol=1e-4, rtol=1e-4)


def test_weights_stand_for_repetitions(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    weighted = [replace(one, weight=3.0 if index == 0 else 1.0) for index, one in enumerate(rollouts[:3])]
    repeated = [rollouts[0], *rollouts[:1], *rollouts[:1], *rollouts[1:3]]
    settings = settings_of("ppo", rollouts=12, minibatch=4, episodes=12)
    once, thrice = (evaluate(models, made, 0.1, settings) for made in (weighted, repeated))
    for place, index in ((0, 0), (1, 3), (2, 4)):
        torch.testing.assert_close(once.advantages[place], thrice.advantages[index], atol=1e-5, rtol=1e-4)
    summaries = [ppo._summary(made, found) for made, found in ((weighted, once), (repeated, thrice))]
    for name in ("score", "score_std", "kl", "stopped", "length"):
        assert summaries[0][name] == pytest.approx(summaries[1][name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_a_biased_estimator_in_the_reward_says_so(
    estimator: str, tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    settings = settings_of("ppo", episodes=16, dev_prompts=3, kl={"estimator": estimator})
    with pytest.warns(BiasedGradient, match=f"{estimator} in the reward is biased"):
        rows = train("ppo", settings, tmp_path / "ppo")
    updates = [row for row in rows if "score" in row]
    assert updates[0]["kl"] == pytest.approx(0, abs=1e-9) and updates[1]["kl"] > 0


def test_the_dual_clip_is_taken(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any], unmoved: None
) -> None:
    common = {"rollouts": 12, "minibatch": 12, "episodes": 12}
    experience = evaluate(models, rollouts, 0.1, settings_of("ppo", **common))
    # As if every token had become e^2 times likelier.
    moved = replace(experience, old_logprobs=[old - 2.0 for old in experience.old_logprobs])
    single, dual = (
        learn_minibatch(models, learners(models), moved, range(12), settings_of("ppo", **common, **more))
        for more in ({}, {"dual_clip": 3.0})
    )
    every = torch.cat(experience.advantages)
    force = torch.where(every < 0, -every * math.e**2, -every * 1.2)
    assert single["policy_loss"] == pytest.approx(float(force.mean()), rel=1e-3)
    limited = torch.where(every < 0, -every * 3.0, -every * 1.2)
    assert dual["policy_loss"] == pytest.approx(float(limited.mean()), rel=1e-3)


def test_the_entropy_is_the_policys_own(
    models: PPOModels,
    model_folder: Path,
    rollouts: list[Rollout],
    settings_of: Callable[..., Any],
    unmoved: None,
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation="eager")
    settings = settings_of("ppo", rollouts=12, minibatch=12, episodes=12)
    experience = evaluate(models, rollouts, 0.1, settings)
    seen = learn_minibatch(models, learners(models), experience, range(12), settings)
    entropies = []
    for one in rollouts:
        prompt, response = list(one.example.prompt), list(one.example.responses[0].ids)
        with torch.no_grad():
            logits = plain(torch.tensor([prompt + response])).logits[0]
        entropies += torch.distributions.Categorical(logits=logits[len(prompt) - 1 : -1]).entropy().tolist()
    assert seen["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)


def test_an_entropy_bonus_makes_the_policy_less_sure(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    """Where nothing else pulls (no token is better than another), each step raises the entropy."""
    common = {"rollouts": 12, "minibatch": 12, "episodes": 12, "optimizer": {"learning_rate": 1e-4}}
    experience = evaluate(models, rollouts, 0.1, settings_of("ppo", **common))
    indifferent = replace(experience, advantages=[torch.zeros_like(one) for one in experience.advantages])
    settings = settings_of("ppo", **common, entropy_weight=0.5)
    moving = replace(models, policy=deepcopy(models.policy), value=deepcopy(models.value))
    both = learners(moving)
    entropies = [learn_minibatch(moving, both, indifferent, range(12), settings)["entropy"] for _ in range(4)]
    assert entropies == sorted(entropies) and entropies[-1] > entropies[0] + 1e-5


@pytest.mark.parametrize(("kl_stop", "taken"), [(None, 6), (1e-9, 2), (10.0, 6)])
def test_passes_end_where_the_policy_has_moved_far_enough(
    models: PPOModels,
    rollouts: list[Rollout],
    settings_of: Callable[..., Any],
    kl_stop: float | None,
    taken: int,
) -> None:
    """The first minibatch sees the policy that sampled, and no distance; the second sees one step's."""
    settings = settings_of("ppo", rollouts=12, minibatch=4, episodes=12, epochs=2, kl_stop=kl_stop)
    experience = evaluate(models, rollouts, 0.1, settings)
    moving = replace(models, policy=deepcopy(models.policy), value=deepcopy(models.value))
    both = learners(moving)
    seen = learn(moving, both, experience, settings, update=0)
    assert seen["minibatches"] == taken
    for learner in (both.policy, both.value):
        assert (learner.steps, learner.skipped) == (taken, 6 - taken), "schedules are those of the whole plan"


def test_a_dual_clip_within_the_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match="beyond the clip"):
        build(PPOSettings, {"model": "m", "reward_model": "r", "data": "d", "clip": 0.3, "dual_clip": 1.2})


def test_scores_are_cut_before_the_penalty(models: PPOModels, settings_of: Callable[..., Any]) -> None:
    made = by_hand(3, 5, 1, 4, stopped=(True, False, True, False))
    given = torch.tensor([-9.0, 9.0, 0.25, -0.25])
    scored = replace(models, score=lambda examples: given)
    settings = settings_of("ppo", score_clip=1.5, missing_stop_penalty=0.5)
    assert evaluate(scored, made, 0.1, settings).scores.tolist() == [-1.5, 1.0, 0.25, -0.75]
    unlimited = settings_of("ppo", missing_stop_penalty=0.0)
    assert evaluate(scored, made, 0.1, unlimited).scores.tolist() == given.tolist()


def test_only_what_did_not_stop_is_penalised(models: PPOModels, settings_of: Callable[..., Any]) -> None:
    stopped = (True, False, True, False, False)
    made = by_hand(3, 5, 1, 1, 7, stopped=stopped)
    settings = settings_of("ppo", missing_stop_penalty=0.75)
    row = pack([rollout.example for rollout in made])
    with torch.no_grad():
        scores = scalar.rewards(models.value.model, row)
    found = evaluate(models, made, 0.1, settings).scores
    expected = [0.0 if stops else 0.75 for stops in stopped]
    assert (scores - found).tolist() == pytest.approx(expected, abs=1e-5)


def test_old_logprobs_are_at_the_temperature_of_sampling(
    models: PPOModels, rollouts: list[Rollout], settings_of: Callable[..., Any]
) -> None:
    settings = settings_of("ppo", rollouts=12, minibatch=4, episodes=12)
    experience = evaluate(models, rollouts, 0.1, settings)
    for old, rollout in zip(experience.old_logprobs, rollouts, strict=True):
        assert old.tolist() == pytest.approx(list(rollout.logprobs), abs=1e-4)


@pytest.mark.parametrize(("count", "rollouts"), [(12, 8), (5, 8), (8, 8), (3, 8), (20, 8)])
def test_every_prompt_comes_once_before_any_comes_again(
    count: int, rollouts: int, settings_of: Callable[..., Any]
) -> None:
    settings = settings_of("ppo", rollouts=rollouts, minibatch=rollouts, episodes=rollouts * 10)
    order = [index for update in range(10) for index in ppo._prompt_order(count, settings, update)]
    assert len(order) == 10 * rollouts
    laps = [order[first : first + count] for first in range(0, len(order), count)]
    for lap in laps[:-1]:
        assert sorted(lap) == list(range(count))
    assert max(Counter(laps[-1]).values()) == 1
    assert count < 5 or laps[0] != laps[1] or len(laps) == 1


def test_minibatches_cut_each_pass_anew(settings_of: Callable[..., Any]) -> None:
    settings = settings_of("ppo", rollouts=8, minibatch=2)
    passes = [_minibatches(8, settings, update, epoch) for update in (0, 1) for epoch in (0, 1)]
    for minibatches in passes:
        assert [len(one) for one in minibatches] == [2, 2, 2, 2]
        assert sorted(index for one in minibatches for index in one) == list(range(8))
    assert len({str(minibatches) for minibatches in passes}) == 4


def test_the_first_update_through_the_stage(
    tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    rows = train("ppo", settings_of("ppo", episodes=8, dev_prompts=3), tmp_path / "ppo")
    dev, first, last = rows
    assert dev["dev_n"] == 3 and dev["dev_kl"] == 0 and last["dev_kl"] != 0
    assert first["kl"] == 0 and first["first_ratio_error"] < 1e-5
    assert first["kl_weight"] == 0.05 and first["stopped"] <= 1 and first["length"] <= 12


def test_a_reward_model_with_another_tokenizer_is_refused(
    tmp_path: Path,
    models: PPOModels,
    model_folder: Path,
    numerics: Numerics,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
) -> None:
    scorer = new_scorer(str(model_folder), numerics, torch.Generator(), bytes_per_parameter=4)
    scorer.codec.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    save_model(scorer.model, scorer.codec, tmp_path / "other")
    with pytest.raises(ModelError, match="another tokenizer or chat template than the policy") as raised:
        train("ppo", settings_of("ppo", reward_model=str(tmp_path / "other")), tmp_path / "ppo")
    assert raised.value.where == str(tmp_path / "other") and raised.value.fix
    assert not is_done(tmp_path / "ppo") and not (tmp_path / "ppo" / "model").exists()


@pytest.mark.parametrize(
    ("sizes", "what", "found", "fix"),
    [
        (
            {"rollouts": 30, "minibatch": 8, "episodes": 60},
            "rollouts must be a multiple of minibatch",
            "rollouts = 30, minibatch = 8",
            "set rollouts = 24",
        ),
        (
            {"rollouts": 8, "minibatch": 8, "episodes": 20},
            "episodes must be a multiple of rollouts",
            "episodes = 20, rollouts = 8",
            "set episodes = 16",
        ),
        (
            {"rollouts": 4, "minibatch": 8, "episodes": 8},
            "rollouts must be a multiple of minibatch",
            "rollouts = 4, minibatch = 8",
            "set rollouts = 8",
        ),
    ],
)
def test_sizes_that_do_not_divide(sizes: dict[str, int], what: str, found: str, fix: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(PPOSettings, {"model": "m", "reward_model": "r", "data": "d", **sizes})
    assert (raised.value.what, raised.value.found, raised.value.fix) == (what, found, fix)
