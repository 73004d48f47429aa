"""A run that was interrupted and resumed is the run that was never interrupted, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trimtab.errors import Interrupted, RunError
from trimtab.runs.run import Run, is_done, read_facts, read_metrics
from trimtab.train import ppo
from trimtab.train.ppo_experience import RunningScale

Rows = list[dict[str, Any]]

# Names begin with their stage's. PPO has a scale of its own, a KL target that it misses from the second
# update on, so that its weight moves, and updates that end early, so that its schedule is ahead of its steps.
CHANGES: dict[str, dict[str, Any]] = {
    "sft": {},
    "reward": {},
    "dpo": {},
    "ppo": {
        "episodes": 32,
        "kl": {"weight": 0.1, "target": 0.01, "horizon": 20},
        "calibration_prompts": 8,
        "kl_stop": 1e-9,
        "optimizer": {"learning_rate": 1e-3, "schedule": "linear"},
    },
    "ppo with more state": {
        "episodes": 32,
        "scores": "running",
        "value_warmup": 1,
        "average": 0.5,
        "pretraining": {"weight": 0.3, "batch": 5},
        "optimizer": {"learning_rate": 1e-3, "schedule": "linear"},
    },
}
KINDS = tuple(CHANGES)


@pytest.fixture(scope="module")
def changes_of(data: dict[str, str]) -> Callable[[str], dict[str, Any]]:
    """The demonstrations that PPO learns beside the rewards have a path."""

    def changes(kind: str) -> dict[str, Any]:
        found = CHANGES[kind]
        if "pretraining" not in found:
            return found
        return {**found, "pretraining": {**found["pretraining"], "data": data["train"]}}

    return changes


def stage_of(kind: str) -> str:
    return kind.split()[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def without_time(rows: Rows) -> Rows:
    return [
        {name: value for name, value in row.items() if name != "time" and not name.endswith("_s")}
        for row in rows
    ]


def press_ctrl_c_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real signal, sent in the middle of a step: as its metrics are written."""
    log = Run.log

    def logged(run: Run, at: int, **values: Any) -> None:
        log(run, at, **values)
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", logged)


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    changes_of: Callable[[str], dict[str, Any]],
) -> dict[str, Path]:
    """One finished run of each stage."""
    folder = tmp_path_factory.mktemp("unbroken")
    for kind in KINDS:
        stage = stage_of(kind)
        train(stage, settings_of(stage, **changes_of(kind)), folder / kind)
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_unbroken(
    kind: str,
    tmp_path: Path,
    unbroken: dict[str, Path],
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
    changes_of: Callable[[str], dict[str, Any]],
) -> None:
    stage = stage_of(kind)
    settings, folder = settings_of(stage, **changes_of(kind)), tmp_path / kind
    with monkeypatch.context() as pressing:
        press_ctrl_c_at(2, pressing)
        with pytest.raises(Interrupted, match="interrupted"):
            train(stage, settings, folder)
    assert not is_done(folder) and not (folder / "model").exists()
    assert max(row["step"] for row in read_metrics(folder)) == 2
    rows = train(stage, settings, folder, resume=True)

    expected = read_metrics(unbroken[kind])
    assert without_time(rows) == without_time(expected)
    before, after = weights(unbroken[kind]), weights(folder)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert (folder / "samples.jsonl").exists() == (unbroken[kind] / "samples.jsonl").exists()
    if kind != "reward":
        assert (folder / "samples.jsonl").read_text() == (unbroken[kind] / "samples.jsonl").read_text()
    else:
        assert read_facts(folder)["reward_bias"] == read_facts(unbroken[kind])["reward_bias"] != 0
    assert is_done(folder) and not (folder / "checkpoints").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_logged_once(kind: str, unbroken: dict[str, Path]) -> None:
    rows = read_metrics(unbroken[kind])
    total = 4 if stage_of(kind) == "ppo" else 6
    trained = [row["step"] for row in rows if "tokens" in row]
    measured = [row["step"] for row in rows if "dev_n" in row]
    assert trained == list(range(1, total + 1))
    assert measured == [0, total]


def test_the_adaptive_kl_weight_moves_and_is_restored(unbroken: dict[str, Path]) -> None:
    """Otherwise the equality above would hold for a weight that nobody restores."""
    weight = [row["kl_weight"] for row in read_metrics(unbroken["ppo"]) if "kl_weight" in row]
    assert weight[0] == 0.1
    assert len(set(weight)) == len(weight)
    kl = [row["kl"] for row in read_metrics(unbroken["ppo"]) if "kl" in row]
    for before, after, nats in zip(weight, weight[1:], kl, strict=False):
        assert after == pytest.approx(before * (1 + max(-0.2, min(0.2, nats / 0.01 - 1)) * 8 / 20))


def test_killed_between_checkpoints_repeats_those_steps(
    tmp_path: Path,
    unbroken: dict[str, Path],
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is saved when a process is killed; what had been logged after the checkpoint is forgotten."""
    settings, folder = settings_of("sft", checkpoint_every=2), tmp_path / "sft"
    log = Run.log

    def killed(run: Run, at: int, **values: Any) -> None:
        log(run, at, **values)
        if at == 3:
            raise ZeroDivisionError

    with monkeypatch.context() as killing:
        killing.setattr(Run, "log", killed)
        with pytest.raises(ZeroDivisionError):
            train("sft", settings, folder)
    assert [row["step"] for row in read_metrics(folder)] == [0, 1, 2, 3]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000002"]
    rows = train("sft", settings, folder, resume=True)
    assert without_time(rows) == without_time(read_metrics(unbroken["sft"]))
    assert all(torch.equal(value, weights(folder)[name]) for name, value in weights(unbroken["sft"]).items())


@pytest.mark.parametrize("kind", ["sft", "ppo"])
def test_killed_after_the_last_step_measures_again_and_logs_once(
    kind: str,
    tmp_path: Path,
    unbroken: dict[str, Path],
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
    changes_of: Callable[[str], dict[str, Any]],
) -> None:
    stage = stage_of(kind)
    settings, folder = settings_of(stage, **changes_of(kind)), tmp_path / kind

    def killed(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as killing:
        killing.setattr(f"trimtab.train.{stage}.finish", killed)
        with pytest.raises(ZeroDivisionError):
            train(stage, settings, folder)
    assert not is_done(folder) and not (folder / "model").exists()
    rows = train(stage, settings, folder, resume=True)
    assert without_time(rows) == without_time(read_metrics(unbroken[kind]))
    assert (folder / "samples.jsonl").read_text() == (unbroken[kind] / "samples.jsonl").read_text()


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("sft", {"optimizer": {"learning_rate": 2e-3}}, "optimizer.learning_rate: 0.001 -> 0.002"),
        ("dpo", {"loss": {"beta": 0.2}, "seed": 4}, "loss.beta: 0.1 -> 0.2; seed: 0 -> 4"),
    ],
)
def test_other_settings_are_refused_by_name(
    kind: str,
    changes: dict[str, Any],
    named: str,
    tmp_path: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    press_ctrl_c_at(1, monkeypatch)
    with pytest.raises(Interrupted):
        train(kind, settings_of(kind), tmp_path / kind)
    with pytest.raises(RunError, match="other settings") as raised:
        train(kind, settings_of(kind, **changes), tmp_path / kind, resume=True)
    assert raised.value.found == named
    assert not is_done(tmp_path / kind)


def test_data_that_changed_meanwhile_are_refused(
    tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows], data: dict[str, str]
) -> None:
    """DPO's stored reference, for one, belongs to the rows as they were."""
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(Path(data["train"]).read_bytes())
    settings = settings_of("dpo", data=str(mine))
    with pytest.MonkeyPatch.context() as pressing:
        press_ctrl_c_at(1, pressing)
        with pytest.raises(Interrupted):
            train("dpo", settings, tmp_path / "dpo")
    lines = mine.read_text().splitlines(keepends=True)
    mine.write_text("".join(reversed(lines)))
    with pytest.raises(RunError, match="what this run is made from has changed: data train"):
        train("dpo", settings, tmp_path / "dpo", resume=True)
    mine.write_text("".join(lines))
    train("dpo", settings, tmp_path / "dpo", resume=True)
    assert is_done(tmp_path / "dpo")


def test_an_interrupted_run_is_not_begun_anew_by_accident(
    tmp_path: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    press_ctrl_c_at(1, monkeypatch)
    with pytest.raises(Interrupted):
        train("sft", settings_of("sft"), tmp_path / "sft")
    with pytest.raises(RunError, match="this run was interrupted") as raised:
        train("sft", settings_of("sft"), tmp_path / "sft")
    assert "--resume" in raised.value.fix


def test_without_a_kl_target_the_weight_stays(settings_of: Callable[..., Any]) -> None:
    steering = ppo.Steering(0.3, RunningScale())
    steering.steer(None, settings_of("ppo"))  # type: ignore[arg-type]
    assert steering.kl_weight == 0.3
