"""Judged pairs, counted from the accounts of runs written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.arena.cost import HumanWork
from trimtab.arena.human import human_work
from trimtab.errors import RunError


def run_on(folder: Path, examples: int, sha256: str) -> str:
    folder.mkdir()
    facts = {"data": {"train": {"examples": examples, "sha256": sha256}}}
    (folder / "run.json").write_text(json.dumps(facts))
    return str(folder)


def test_each_learner_has_its_own_count(tmp_path: Path) -> None:
    costs = {
        "sft": run_on(tmp_path / "sft", 9999, "a"),
        "reward": run_on(tmp_path / "reward", 1700, "a"),
        "judge": run_on(tmp_path / "judge", 571, "b"),
        "dpo": run_on(tmp_path / "dpo", 1650, "a"),
        "ppo": run_on(tmp_path / "ppo", 5000, "c"),
    }
    assert human_work(costs, 244) == HumanWork(
        pairs=(("ppo", 1700), ("dpo", 1650), ("judge", 571)), shared=(("ppo", "dpo"),), held_out_pairs=244
    )


def test_different_data_are_not_called_the_same(tmp_path: Path) -> None:
    costs = {"reward": run_on(tmp_path / "reward", 30, "a"), "dpo": run_on(tmp_path / "dpo", 30, "b")}
    work = human_work(costs, 2)
    assert work is not None and work.shared == ()


def test_runs_that_learned_from_no_pairs_say_nothing(tmp_path: Path) -> None:
    assert human_work({}, 5) is None
    assert human_work({"sft": run_on(tmp_path / "sft", 3, "a")}, 5) is None
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "run.json").write_text("{}")
    assert human_work({"dpo": str(tmp_path / "silent")}, 5) is None
    with pytest.raises(RunError, match="not a run folder"):
        human_work({"dpo": str(tmp_path / "none")}, 5)
