"""Scores in deviations of the reference's answers: the same training whatever the reward model's scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.data.batches import pack
from trimtab.data.tokens import Example
from trimtab.errors import ModelError
from trimtab.model import scalar
from trimtab.model.device import Numerics
from trimtab.model.save import save_model
from trimtab.rollout.types import Sampling
from trimtab.runs.run import Run, open_run
from trimtab.train import inputs
from trimtab.train.calibration import calibrated
from trimtab.train.ppo_models import PPOModels, load_ppo_models

Rows = list[dict[str, Any]]
COUNT = 8


@pytest.fixture
def rescaled_folder(tmp_path: Path, reward_folder: Path, numerics: Numerics) -> Path:
    """The same reward model with scores 7 s + 3."""
    scorer = scalar.load_scorer(str(reward_folder), numerics, bytes_per_parameter=4)
    scalar.rescale(scorer.model, mean=-3 / 7, deviation=1 / 7)
    save_model(scorer.model, scorer.codec, tmp_path / "rescaled")
    return tmp_path / "rescaled"


@pytest.fixture
def run(tmp_path: Path, settings_of: Callable[..., Any]) -> Run:
    with open_run(
        tmp_path / "run", "ppo", settings_of("ppo", calibration_prompts=COUNT), resume=False
    ) as opened:
        return opened


def sampling(models: PPOModels) -> Sampling:
    return Sampling(max_new=12, stop_ids=(models.policy.codec.stop_id,))


def loaded(settings: Any, run: Run) -> tuple[PPOModels, list[Example]]:
    models = load_ppo_models(settings, run)
    return models, inputs.prompts(settings, models.policy.codec, run)[0]


def test_the_references_answers_have_mean_0_and_deviation_1(
    run: Run, settings_of: Callable[..., Any]
) -> None:
    settings = settings_of("ppo", calibration_prompts=COUNT)
    models, prompts = loaded(settings, run)
    answered: list[Example] = []

    def score(examples: Any) -> torch.Tensor:
        answered.extend(examples)
        return models.score(examples)

    watched = PPOModels(models.policy, models.reference, models.value, models.answer, score)
    found = calibrated(watched, prompts, sampling(models), settings, run)
    assert len(answered) == COUNT == len({example.prompt for example in answered})
    before, after = models.score(answered[:COUNT]), found.score(answered[:COUNT])
    assert float(after.mean()) == pytest.approx(0, abs=1e-5)
    assert float(after.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert after.argsort().tolist() == before.argsort().tolist()


def test_values_begin_in_the_unit_of_the_scores(run: Run, settings_of: Callable[..., Any]) -> None:
    """The value model starts as the reward model: read at a last token, both say the same."""
    settings = settings_of("ppo", calibration_prompts=COUNT)
    models, prompts = loaded(settings, run)
    found = calibrated(models, prompts, sampling(models), settings, run)
    examples = [one.example for one in models.answer(prompts, sampling(models), range(len(prompts)), name="")]
    with torch.no_grad():
        values = scalar.rewards(found.value.model, pack(examples))
    assert values.tolist() == pytest.approx(found.score(examples).tolist(), abs=1e-5)


def test_training_is_the_same_whatever_the_reward_models_scale(
    tmp_path: Path,
    rescaled_folder: Path,
    reward_folder: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
) -> None:
    def trained(name: str, scores: Path, **changes: Any) -> Rows:
        common = {"episodes": 16, "missing_stop_penalty": 0.0}
        settings = settings_of("ppo", reward_model=str(scores), **common, **changes)
        return train("ppo", settings, tmp_path / name)

    one, other = (
        trained(name, scores, calibration_prompts=COUNT)
        for name, scores in (("one", reward_folder), ("other", rescaled_folder))
    )
    for name in ("score", "score_std", "kl", "value_loss", "dev_kl", "dev_proxy_reward"):
        pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) if name in a]
        assert pairs and all(a == pytest.approx(b, rel=1e-3, abs=1e-4) for a, b in pairs), name
    plain, seven = trained("plain", reward_folder), trained("seven", rescaled_folder)
    assert seven[1]["score_std"] == pytest.approx(7 * plain[1]["score_std"], rel=1e-3), "the scales differ"
    facts = json.loads((tmp_path / "other" / "run.json").read_text(encoding="utf-8"))["calibration"]
    first = json.loads((tmp_path / "one" / "run.json").read_text(encoding="utf-8"))["calibration"]
    assert facts["deviation"] == pytest.approx(7 * first["deviation"], rel=1e-4)
    assert facts["mean"] == pytest.approx(7 * first["mean"] + 3, abs=1e-4) and facts["answers"] == COUNT


def test_a_reward_model_that_cannot_tell_answers_apart_is_refused(
    tmp_path: Path,
    reward_folder: Path,
    numerics: Numerics,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
) -> None:
    scorer = scalar.load_scorer(str(reward_folder), numerics, bytes_per_parameter=4)
    torch.nn.init.zeros_(scorer.model.score.weight)
    save_model(scorer.model, scorer.codec, tmp_path / "dull")
    settings = settings_of("ppo", reward_model=str(tmp_path / "dull"), calibration_prompts=COUNT)
    with pytest.raises(ModelError, match="cannot tell answers apart") as raised:
        train("ppo", settings, tmp_path / "ppo")
    assert raised.value.where == str(tmp_path / "dull") and "all with score 0" in raised.value.found
