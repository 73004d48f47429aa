"""Costs read back from run folders: nothing counted twice, nothing made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.arena.ledger import stage_costs
from trimtab.errors import ConfigError, RunError

Rows = list[dict[str, Any]]


def run_folder(
    folder: Path,
    *,
    parts: dict[str, tuple[float, float]],
    rows: Rows,
    settings: str = "",
    done: bool = True,
) -> str:
    """A run that took 100 s, 150 s of processor time, at most 7 bytes of memory; `parts` likewise."""
    folder.mkdir()
    times = {name: {"wall_s": wall, "cpu_s": cpu} for name, (wall, cpu) in parts.items()}
    cost = {"wall_s": 100.0, "cpu_s": 150.0, "peak_memory_bytes": 7, "parts": times}
    (folder / "run.json").write_text(json.dumps({"cost": cost, "device": "cpu, float32"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(settings)
    if done:
        (folder / "DONE").touch()
    return str(folder)


def test_what_is_not_training_stands_apart(tmp_path: Path) -> None:
    rows = [{"step": 0, "dev_loss": 1.0}, {"step": 1, "tokens": 30}, {"step": 2, "tokens": 12}]
    parts = {
        "reference": (20.0, 33.0),
        "training": (60.0, 90.0),
        "evaluation": (7.0, 8.0),
        "checkpoints": (3.0, 1.0),
    }
    folder = run_folder(tmp_path / "mine", parts=parts, rows=rows)
    reference, dpo, measuring = stage_costs({"dpo": folder})
    assert (reference.stage, reference.wall_s, reference.cpu_s) == ("reference", 20.0, 33.0)
    assert (reference.tokens_trained, reference.tokens_generated) == (0, 0)
    assert (measuring.stage, measuring.wall_s, measuring.cpu_s) == ("measuring", 10.0, 9.0)
    assert (dpo.stage, dpo.wall_s, dpo.cpu_s, dpo.tokens_trained) == ("dpo", 70.0, 108.0, 42)
    assert dpo.run == "mine" and dpo.device == "cpu, float32" and dpo.peak_memory_bytes == 7


def test_ppo_trains_two_models_every_epoch_and_samples_once(tmp_path: Path) -> None:
    rows: Rows = [
        {"step": 0, "dev_length": 9},
        {"step": 1, "tokens": 100, "length": 2.5},
        {"step": 2, "tokens": 50, "length": 4},
    ]
    settings = "epochs: 3\nrollouts: 8\n"
    folder = run_folder(tmp_path / "ppo", parts={"sampling": (50.0, 60.0)}, rows=rows, settings=settings)
    ppo, _ = stage_costs({"ppo": folder})
    assert (ppo.tokens_trained, ppo.tokens_generated) == (2 * 3 * 150, 8 * 2.5 + 8 * 4)
    assert (ppo.wall_s, ppo.cpu_s) == (100.0, 150.0)


def test_stages_are_in_the_order_given(tmp_path: Path) -> None:
    runs = {name: run_folder(tmp_path / name, parts={}, rows=[]) for name in ("judge", "sft")}
    found = [cost.stage for cost in stage_costs(runs) if cost.stage != "measuring"]
    assert found == ["judge", "sft"]


def test_an_unfinished_run_has_no_cost_yet(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "sft", parts={}, rows=[], done=False)
    with pytest.raises(RunError, match="the run is not finished") as raised:
        stage_costs({"sft": folder})
    assert raised.value.found == "costs.sft" and "--resume" in raised.value.fix
    with pytest.raises(RunError, match="not a run folder"):
        stage_costs({"sft": str(tmp_path / "none")})


def test_an_unknown_stage_is_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "sft", parts={}, rows=[])
    with pytest.raises(ConfigError, match="no such stage") as raised:
        stage_costs({"sfd": folder})
    assert raised.value.where == "costs.sfd"
