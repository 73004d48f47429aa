"""What a report says of the runs behind it, read from their folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab.arena.provenance import (
    common_origin,
    curves_of,
    facts_of,
    method_of,
    runs_of_a_method,
    seed_of,
)
from trimtab.arena.settings import CompareSettings
from trimtab.config import dump_yaml


def make_run(
    folder: Path, stage: str, settings: dict[str, Any], parents: dict[str, str], seed: int = 0
) -> str:
    folder.mkdir(parents=True)
    facts = {
        "stage": stage,
        "seed": seed,
        "commit": "abc123",
        "finished": "2026-01-01",
        "parents": {
            role: {"source": source, "weights_sha256": f"w-{role}"} for role, source in parents.items()
        },
        "data": {"train": {"source": "pairs.jsonl", "sha256": "d1", "ids_sha256": "i1"}},
        "command": ["trimtab", stage],
    }
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(dump_yaml(settings))
    (folder / "DONE").touch()
    return str(folder)


@pytest.fixture
def settings(tmp_path: Path) -> CompareSettings:
    sft = make_run(tmp_path / "sft", "sft", {"optimizer": {"learning_rate": 2e-5}}, {"model": "base"})
    dpo = make_run(tmp_path / "dpo", "dpo", {"loss": {"name": "ipo", "beta": 0.3}}, {"model": sft}, seed=4)
    reward = make_run(tmp_path / "reward", "reward", {"epochs": 2}, {"model": sft})
    ppo = make_run(tmp_path / "ppo", "ppo", {"kl": {"weight": 0.07}}, {"model": sft, "reward_model": reward})
    judge = make_run(tmp_path / "judge", "reward", {"epochs": 3}, {"model": sft})
    (tmp_path / "held.jsonl").write_text("{}\n")
    return CompareSettings(
        policies={"ppo": ppo, "dpo": dpo},
        reference=sft,
        judge=judge,
        proxy=reward,
        held_out=str(tmp_path / "held.jsonl"),
        costs={"dpo": dpo, "ppo": ppo},
    )


def test_every_setting_and_hash_of_every_run_is_there(settings: CompareSettings, tmp_path: Path) -> None:
    surroundings = {"trimtab": "0.1.0", "commit": "fff", "python": "3.11"}
    surroundings |= {"packages": {"torch": "2"}, "hardware": {"cores": 2}}
    found = facts_of(settings, SimpleNamespace(facts=surroundings))  # type: ignore[arg-type]
    said = {(fact.group, fact.name): fact.value for fact in found}
    assert len(said) == len(found)
    stages = {"sft": "sft", "dpo": "dpo", "ppo": "ppo", "reward": "reward", "judge": "reward"}
    place = {name: f"run {tmp_path / name} ({stage})" for name, stage in stages.items()}
    assert {group for group, _ in said} == {"comparison", "versions", *place.values()}
    assert said[place["sft"], "optimizer.learning_rate"] == "2e-05"
    assert said[place["dpo"], "loss.beta"] == "0.3" and said[place["dpo"], "loss.name"] == "ipo"
    assert said[place["ppo"], "kl.weight"] == "0.07" and said[place["judge"], "epochs"] == "3"
    assert said[place["ppo"], "parents.reward_model.weights_sha256"] == "w-reward_model"
    assert said[place["ppo"], "data.train.sha256"] == "d1" and said[place["ppo"], "commit"] == "abc123"
    assert said["comparison", "policies.dpo"] == str(tmp_path / "dpo")
    assert said["comparison", "held_out.sha256"] == hashlib.sha256(b"{}\n").hexdigest()
    assert said["versions", "packages.torch"] == "2" and said["versions", "hardware.cores"] == "2"


def test_a_judge_from_the_policies_own_beginning_is_not_independent(settings: CompareSettings) -> None:
    assert "not independent" in common_origin(settings)[0]
    assert common_origin(settings.model_copy(update={"judge": "words:somewhere"})) == ()


def test_methods_seeds_and_how_many_runs(settings: CompareSettings, tmp_path: Path) -> None:
    assert method_of(settings.policies["dpo"]) == "dpo" and seed_of(settings.policies["dpo"]) == 4
    assert method_of("some/model") == "model" and seed_of("some/model") is None
    assert runs_of_a_method(settings) == 1
    again = make_run(tmp_path / "dpo-2", "dpo", {}, {}, seed=5)
    more = settings.model_copy(
        update={"policies": {**settings.policies, "again": again, "base": "some/model"}}
    )
    assert runs_of_a_method(more) == 2


def test_curves_know_their_loss(settings: CompareSettings, tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 2.0, "margin": 0.1}, {"step": 2, "loss": 1.0}]
    (tmp_path / "dpo" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "ppo" / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "explained_variance": -4.1}) + "\n"
    )
    curves = {(one.stage, one.metric): one for one in curves_of(settings.costs)}
    assert curves["dpo", "loss"].points == ((1, 2.0), (2, 1.0)) and curves["dpo", "loss"].loss == "ipo"
    assert curves["ppo", "explained_variance"].points == ((1, -4.1),) and curves["ppo", "kl"].loss == ""
