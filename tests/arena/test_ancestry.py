"""What a model was made from, from run.json files written here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.arena.ancestry import identity, lineage, parents, stage_of

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A finished run in a folder of its own name, below the working folder."""
    monkeypatch.chdir(tmp_path)

    def made(name: str, stage: str, **sources: str) -> str:
        (tmp_path / name / "model").mkdir(parents=True)
        facts = {"stage": stage, "parents": {role: {"source": source} for role, source in sources.items()}}
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
        (tmp_path / name / "DONE").touch()
        return name

    return made


def test_all_that_a_run_was_made_from(make: Make, tmp_path: Path) -> None:
    make("sft", "sft", model="some/hub-model")
    make("reward", "reward", model="./sft/")
    make("ppo", "ppo", model="sft", reward_model="reward")
    assert lineage("ppo/") == {
        str(tmp_path / "ppo"): "ppo/",
        str(tmp_path / "sft"): "sft",
        str(tmp_path / "reward"): "reward",
        "some/hub-model": "some/hub-model",
    }
    assert parents("ppo")["reward_model"] == {"source": "reward"}


def test_a_circle_ends(make: Make) -> None:
    make("a", "dpo", model="b")
    make("b", "dpo", model="a")
    assert list(lineage("a").values()) == ["a", "b"]


def test_one_model_by_several_names(make: Make, tmp_path: Path) -> None:
    make("ppo", "ppo")
    (tmp_path / "link").symlink_to("ppo")
    names = ("ppo", "ppo/", "./ppo", str(tmp_path / "ppo"), "link", "ppo/model")
    assert {identity(name) for name in names} == {str(tmp_path / "ppo")}
    assert identity("some/hub-model") == "some/hub-model"
    (tmp_path / "ppo" / "DONE").unlink()
    assert identity("ppo/model") == str(tmp_path / "ppo" / "model")


def test_what_no_finished_run_made_has_no_parents(make: Make, tmp_path: Path) -> None:
    make("sft", "sft", model="base")
    assert stage_of("sft") == stage_of("sft/model") == "sft" and stage_of("base") == ""
    (tmp_path / "sft" / "DONE").unlink()
    assert parents("sft") == {} and stage_of("sft") == ""
