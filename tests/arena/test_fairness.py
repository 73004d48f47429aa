"""A comparison whose judge or held-out pairs were seen in training is refused."""

from __future__ import annotations

import hashlib
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


def run_on(folder: Path, data: str, *made_from: str, stage: str = "dpo") -> str:
    folder.mkdir()
    sha256 = hashlib.sha256(Path(data).read_bytes()).hexdigest()
    facts = {
        "stage": stage,
        "finished": "now",
        "data": {"train": {"source": data, "sha256": sha256}},
        "parents": {f"model {index}": {"source": source} for index, source in enumerate(made_from)},
    }
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


def test_the_judge_is_not_the_proxy_by_another_name(honest: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the reward model that PPO was trained on"):
        check({**honest, "judge": honest["proxy"] + "/"})


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


class TestAncestors:
    """What a model was made from counts as its own training."""

    @pytest.fixture
    def family(self, honest: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
        """As pipelines make it: all begin from one SFT run, PPO also from its reward model."""
        train, other = str(tmp_path / "train.jsonl"), str(tmp_path / "judge.jsonl")
        sft = run_on(tmp_path / "base", train, stage="sft")
        reward = run_on(tmp_path / "reward", train, sft, stage="reward")
        return {
            **honest,
            "policies": {
                "ppo": run_on(tmp_path / "ppo-of-sft", train, sft, reward, stage="ppo"),
                "dpo": run_on(tmp_path / "dpo-of-sft", train, sft),
            },
            "reference": sft,
            "judge": run_on(tmp_path / "judge-of-sft", other, sft, stage="reward"),
            "proxy": reward,
        }

    def test_one_sft_run_behind_all_is_no_offence(self, family: dict[str, Any]) -> None:
        assert check(family) == ()
        assert check({**family, "policies": {**family["policies"], "sft": family["reference"]}}) == ()

    @pytest.mark.parametrize("stage", ["sft", "reward"])
    def test_a_parent_that_saw_the_held_out_prompts(
        self, family: dict[str, Any], tmp_path: Path, stage: str
    ) -> None:
        leaked = pairs(tmp_path / "leaked.jsonl", "four", "five")
        grand = run_on(tmp_path / "grand", leaked, stage=stage)
        parent = run_on(tmp_path / "parent", str(tmp_path / "train.jsonl"), grand, stage="sft")
        child = run_on(tmp_path / "child", str(tmp_path / "train.jsonl"), parent)
        with pytest.raises(DataError, match=r"grand, from which dpo comes, was trained on held-out"):
            check({**family, "policies": {**family["policies"], "dpo": child}})

    def test_a_reference_that_saw_the_held_out_prompts(self, family: dict[str, Any], tmp_path: Path) -> None:
        seen = run_on(tmp_path / "seen", pairs(tmp_path / "leaked.jsonl", "four"), stage="sft")
        with pytest.raises(DataError, match="the reference was trained on held-out prompts"):
            check({**family, "reference": seen})

    def test_ppo_learned_from_the_judge_though_no_proxy_is_named(self, family: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"the judge \S+reward and ppo rest on the same training"):
            check({**family, "judge": family["proxy"], "proxy": None})

    def test_a_judge_made_from_a_contestant(self, family: dict[str, Any], tmp_path: Path) -> None:
        judge = run_on(tmp_path / "late", str(tmp_path / "judge.jsonl"), family["policies"]["dpo"])
        with pytest.raises(ConfigError, match="and dpo rest on the same training"):
            check({**family, "judge": judge, "policies": dict(reversed(family["policies"].items()))})

    def test_a_reward_model_behind_ppo_that_saw_the_judges_prompts(
        self, family: dict[str, Any], tmp_path: Path
    ) -> None:
        other = run_on(tmp_path / "other", str(tmp_path / "judge.jsonl"), stage="reward")
        ppo = run_on(tmp_path / "ppo-2", str(tmp_path / "train.jsonl"), other, stage="ppo")
        with pytest.raises(DataError, match="from which ppo comes, were trained on the same prompts"):
            check({**family, "policies": {**family["policies"], "ppo": ppo}})

    def test_a_base_model_that_nobody_can_check(self, family: dict[str, Any], tmp_path: Path) -> None:
        sft = run_on(tmp_path / "on-a-hub-model", str(tmp_path / "train.jsonl"), "some/hub-model")
        (said,) = check({**family, "reference": sft})
        assert said == (
            "What some/hub-model, from which the reference comes, was trained on could not be checked "
            "against the held-out prompts."
        )

    def test_a_reference_behind_all_is_no_offence(self, family: dict[str, Any], tmp_path: Path) -> None:
        train, other = str(tmp_path / "train.jsonl"), str(tmp_path / "judge.jsonl")
        first = run_on(tmp_path / "first-round", train)
        second = run_on(tmp_path / "second-round", train, first)
        judge = run_on(tmp_path / "judge-of-first", other, first, stage="reward")
        policies = {"second": second, "ppo": family["policies"]["ppo"]}
        assert check({**family, "reference": first, "judge": judge, "policies": policies}) == ()

    def test_a_circle_ends(self, family: dict[str, Any], tmp_path: Path) -> None:
        train = str(tmp_path / "train.jsonl")
        first = run_on(tmp_path / "first", train, str(tmp_path / "second"))
        run_on(tmp_path / "second", train, first)
        assert check({**family, "policies": {**family["policies"], "dpo": first}}) == ()


def test_data_that_have_changed_since_are_not_trusted(honest: dict[str, Any], tmp_path: Path) -> None:
    pairs(tmp_path / "judge.jsonl", "four")  # had it been so, this would be a leak
    (said,) = check(honest)
    assert said.startswith("What the judge") and "judge.jsonl is no longer the file" in said


def test_one_run_compared_with_itself_is_told(honest: dict[str, Any]) -> None:
    same = honest["policies"]["ppo"]
    (said,) = check({**honest, "policies": {"left": same, "right": f"{same}/"}})
    assert said == "left and right are one and the same model: what differs between them is chance."
