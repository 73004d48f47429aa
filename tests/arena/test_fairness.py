"""A comparison whose judge or held-out pairs were seen in training is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.arena.fairness import require_independence
from trimtab.arena.settings import CompareSettings
from trimtab.errors import ConfigError, DataError


def pairs(path: Path, *prompts: str) -> str:
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run_on(folder: Path, data: str) -> str:
    folder.mkdir()
    facts = {"stage": "dpo", "finished": "now", "data": {"train": {"source": data}}}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "DONE").touch()
    return str(folder)


@pytest.fixture
def honest(tmp_path: Path) -> dict[str, Any]:
    train = pairs(tmp_path / "train.jsonl", "one", "two")
    other = pairs(tmp_path / "judge.jsonl", "three")
    return {
        "policies": {
            "ppo": run_on(tmp_path / "ppo", train),
            "dpo": run_on(tmp_path / "dpo", train),
        },
        "reference": str(tmp_path / "ppo"),
        "judge": run_on(tmp_path / "judge", other),
        "proxy": run_on(tmp_path / "proxy", train),
        "held_out": pairs(tmp_path / "held_out.jsonl", "four"),
    }


def check(tree: dict[str, Any]) -> tuple[str, ...]:
    return require_independence(CompareSettings(**tree))


def test_an_honest_comparison_passes_without_a_caveat(honest: dict[str, Any]) -> None:
    assert check(honest) == ()


def test_the_judge_is_not_the_proxy(honest: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the reward model that PPO was trained on"):
        check({**honest, "judge": honest["proxy"]})


def test_two_names_for_one_model(honest: dict[str, Any]) -> None:
    same = honest["policies"]["ppo"]
    with pytest.raises(ConfigError, match="the same model"):
        check({**honest, "policies": {"left": same, "right": same}})


@pytest.mark.parametrize("seen_by", ["train", "judge"])
def test_held_out_prompts_that_someone_saw(honest: dict[str, Any], tmp_path: Path, seen_by: str) -> None:
    leaked = pairs(tmp_path / "leaked.jsonl", "four", {"train": "two", "judge": "three"}[seen_by])
    with pytest.raises(DataError, match="held-out prompts"):
        check({**honest, "held_out": leaked})


def test_a_judge_trained_on_a_contestants_prompts(honest: dict[str, Any], tmp_path: Path) -> None:
    shared = run_on(tmp_path / "shared", pairs(tmp_path / "shared.jsonl", "two", "nine"))
    with pytest.raises(DataError, match=r"the judge \S+ and"):
        check({**honest, "judge": shared})


def test_what_cannot_be_checked_is_said(honest: dict[str, Any]) -> None:
    said = check({**honest, "policies": {**honest["policies"], "base": "some/hub-model"}})
    assert len(said) == 1 and "base" in said[0]
