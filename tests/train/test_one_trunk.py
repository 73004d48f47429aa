"""PPO with LoRA: four models on one frozen trunk, beside four models that share nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Response
from trimtab.errors import ConfigError
from trimtab.model import adapters, load, scalar
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy, response_logprobs
from trimtab.model.save import save_model
from trimtab.rollout.answers import answer
from trimtab.runs.checkpoint import Checkpoint
from trimtab.runs.run import Run, open_run, read_metrics
from trimtab.train import inputs, ppo
from trimtab.train.lora import load_policy
from trimtab.train.ppo_models import PPOModels, load_ppo_models, rewards
from trimtab.train.settings import LoRASettings

# peft itself asks transformers for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Rows = list[dict[str, Any]]
RATES = {"optimizer": {"learning_rate": 2e-2}, "value_optimizer": {"learning_rate": 2e-2}}
ROW = pack([Example((5, 9, 11, 40), (Response((7, 8, 2), True), Response((30, 31, 32, 33), False)))])


@pytest.fixture(scope="module")
def reward_run(
    tmp_path_factory: pytest.TempPathFactory, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> Path:
    """A reward model that has learned as adapters on the tiny model."""
    folder = tmp_path_factory.mktemp("trunk") / "reward"
    train("reward", settings_of("reward", lora={"rank": 2}, optimizer={"learning_rate": 2e-2}), folder)
    return folder


@pytest.fixture
def settings(settings_of: Callable[..., Any], reward_run: Path) -> Any:
    return settings_of("ppo", reward_model=str(reward_run), lora={"rank": 2, "alpha": 8}, **RATES)


@pytest.fixture
def models(settings: Any, tmp_path: Path) -> Iterator[PPOModels]:
    with open_run(tmp_path / "loaded", "ppo", settings, resume=False) as run:
        yield load_ppo_models(settings, run)


def parts(models: PPOModels) -> list[nn.Module]:
    """The reward model is within what scores."""
    scorer = models.score.args[0]  # type: ignore[attr-defined]
    return [models.policy.model, models.reference.model, models.value.model, scorer.model]


@torch.no_grad()
def computed(models: PPOModels) -> list[Tensor]:
    policy, reference, value, reward = parts(models)
    return [
        response_logprobs(policy, ROW),  # type: ignore[arg-type]
        response_logprobs(reference, ROW),  # type: ignore[arg-type]
        scalar.values(value, ROW),  # type: ignore[arg-type]
        scalar.rewards(reward, ROW),  # type: ignore[arg-type]
    ]


def test_four_models_hold_one_trunk(models: PPOModels, model_folder: Path) -> None:
    trunk = sum(p.numel() for p in load.load_causal(str(model_folder), device="cpu").parameters())
    places = {p.data_ptr(): p.numel() for model in parts(models) for p in model.parameters()}
    learned = [adapters.trained_parameters(part) for part in (models.policy.model, models.value.model)]
    assert learned[1] == learned[0] + models.value.model.config.hidden_size
    # The reward model has of its own what the value model learns.
    assert sum(places.values()) == trunk + learned[0] + 2 * learned[1]
    assert not any(p.requires_grad for part in parts(models)[1::2] for p in part.parameters())


def test_they_begin_as_the_models_that_they_stand_for(
    models: PPOModels, model_folder: Path, reward_run: Path
) -> None:
    policy, reference, values, scores = computed(models)
    alone = load.load_causal(str(model_folder), device="cpu")
    merged = load.load_scalar(str(reward_run), device="cpu")
    with torch.no_grad():
        expected = response_logprobs(alone, ROW)
        torch.testing.assert_close(values, scalar.values(merged, ROW), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scores, scalar.rewards(merged, ROW), rtol=1e-5, atol=1e-5)
    assert torch.equal(policy, expected) and torch.equal(reference, expected)


def test_what_learns_leaves_the_others_alone(models: PPOModels, settings: Any, tmp_path: Path) -> None:
    before = computed(models)
    with open_run(tmp_path / "run", "ppo", settings, resume=False) as run:
        train_set, _ = inputs.prompts(settings, models.policy.codec, run)
        ppo.optimize(models, train_set, [], settings, run)
    policy, reference, value, reward = (
        float((now - then).abs().max()) for now, then in zip(computed(models), before, strict=True)
    )
    assert policy > 1e-2 and value > 1e-2
    assert reference == 0 and reward == 0


def test_it_learns_what_four_models_that_share_nothing_learn(
    models: PPOModels,
    settings: Any,
    tmp_path: Path,
    model_folder: Path,
    reward_run: Path,
    numerics: Numerics,
) -> None:
    def apart(run: Any) -> PPOModels:
        policy = load_policy(settings, LoRASettings(rank=2, alpha=8), numerics, run)
        frozen = load.load_causal(str(model_folder), device="cpu").requires_grad_(False)
        value = scalar.with_saved_adapter(frozen, str(reward_run))
        reward = scalar.load_scorer(str(reward_run), numerics, bytes_per_parameter=4)
        return PPOModels(
            policy,
            Policy(
                load.load_causal(str(model_folder), device="cpu"), policy.codec, numerics, str(model_folder)
            ),
            scalar.Scorer(value, policy.codec, numerics, str(reward_run)),
            partial(answer, policy),
            partial(rewards, reward, settings.row_tokens),
        )

    found = []
    for name in ("together", "apart"):
        with open_run(tmp_path / name, "ppo", settings, resume=False) as run:
            given = models if name == "together" else apart(run)
            train_set, _ = inputs.prompts(settings, given.policy.codec, run)
            ppo.optimize(given, train_set, [], settings, run)
        found.append([row for row in read_metrics(tmp_path / name) if "policy_loss" in row])
    assert len(found[0]) == len(found[1]) == 3
    compared = ("policy_loss", "value_loss", "score", "kl", "grad_norm", "value_grad_norm")
    for mine, other in zip(*found, strict=True):
        for name in compared:
            assert mine[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), name


def test_checkpoints_hold_adapters_and_a_resumed_run_is_the_unbroken_one(
    settings: Any, tmp_path: Path, train: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"checkpoint_every": 1})
    log = Run.log

    def stopped(run: Run, at: int, **values: Any) -> None:
        log(run, at, **values)
        if at == 2 and "policy_loss" in values:
            raise ZeroDivisionError

    rows = train("ppo", settings, tmp_path / "unbroken")
    with monkeypatch.context() as killing, pytest.raises(ZeroDivisionError):
        killing.setattr(Run, "log", stopped)
        train("ppo", settings, tmp_path / "resumed")
    kept = Checkpoint(tmp_path / "resumed" / "checkpoints" / "step-000001", {})
    assert all(".lora_" in name for name in kept.tensors("policy"))
    assert {name for name in kept.tensors("value") if ".lora_" not in name} == {"score.weight"}
    train("ppo", settings, tmp_path / "resumed", resume=True)
    once, twice = (
        load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("unbroken", "resumed")
    )
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    assert next(row["first_ratio_error"] for row in rows if "first_ratio_error" in row) == 0


def test_plain_peft_loads_the_policy(
    settings: Any, tmp_path: Path, train: Callable[..., Rows], model_folder: Path
) -> None:
    train("ppo", settings, tmp_path / "ppo")
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    by_others = peft.PeftModel.from_pretrained(base, tmp_path / "ppo" / "model").eval()
    ours = load.load_causal(str(tmp_path / "ppo"), device="cpu", attention="sdpa")
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, by_others(ids).logits, rtol=1e-4, atol=1e-4)
        with by_others.disable_adapter():
            assert (ours(ids).logits - by_others(ids).logits).abs().max() > 1e-2


def test_adapters_on_a_merged_adapter_share_too(
    settings_of: Callable[..., Any], train: Callable[..., Rows], tmp_path: Path
) -> None:
    """Each stage writes the merged base for itself; the weights are the same, and that counts."""
    train("sft", settings_of("sft", lora={"rank": 2}), tmp_path / "sft")
    start = {"model": str(tmp_path / "sft"), "lora": {"rank": 2}}
    train("reward", settings_of("reward", **start), tmp_path / "reward")
    settings = settings_of("ppo", reward_model=str(tmp_path / "reward"), episodes=8, **start)
    rows = train("ppo", settings, tmp_path / "ppo")
    assert any("kl" in row for row in rows)


def test_a_reward_model_of_other_weights_is_refused(
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    tmp_path: Path,
    reward_run: Path,
    numerics: Numerics,
    model_folder: Path,
) -> None:
    moved = load.load_causal(str(model_folder), device="cpu")
    with torch.no_grad():
        next(moved.parameters()).add_(1e-3)
    save_model(moved, load.load_tokenizer(str(model_folder)), tmp_path / "moved")
    settings = settings_of("ppo", model=str(tmp_path / "moved"), reward_model=str(reward_run), lora={})
    with pytest.raises(ConfigError, match="whose weights are others"):
        train("ppo", settings, tmp_path / "other")
    with pytest.raises(ConfigError, match="its weights are all its own"):
        train("ppo", settings_of("ppo", lora={}), tmp_path / "whole")
