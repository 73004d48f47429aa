"""Checkpoints come back as they were saved, and a save that fails costs nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trimtab.errors import ResourceError, RunError
from trimtab.runs import checkpoint, files

GROUPS = {
    "policy": {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "policy-optimizer": {"w/exp_avg": torch.zeros(3), "steps": torch.tensor(7)},
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, {"step": 7, "kl_weight": 0.25, "cost": {"wall_s": 1.5}}, GROUPS)
    assert folder == tmp_path / "checkpoints" / "step-000007"
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert (found.folder, found.step) == (folder, 7)
    assert found.state == {"step": 7, "kl_weight": 0.25, "cost": {"wall_s": 1.5}}
    for group, tensors in GROUPS.items():
        loaded = found.tensors(group)
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)


def test_views_and_trained_weights_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    trained = torch.nn.Parameter(torch.ones(2))
    checkpoint.save(tmp_path, {"step": 1}, {"policy": {"turned": whole.T, "trained": trained}})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors("policy")["turned"], whole.T)
    assert found.tensors("policy")["trained"].tolist() == [1.0, 1.0]


def test_older_ones_are_removed(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        checkpoint.save(tmp_path, {"step": step}, GROUPS)
        assert names(tmp_path) == [f"step-{step:06d}"]
        found = checkpoint.latest(tmp_path)
        assert found is not None and found.step == step


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 3, "try": 1}, GROUPS)
    checkpoint.save(tmp_path, {"step": 3, "try": 2}, {"policy": GROUPS["policy"]})
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.state["try"] == 2
    assert sorted(path.name for path in found.folder.iterdir()) == ["policy.safetensors", "state.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_an_error_while_saving_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    checkpoint.save(tmp_path, {"step": 1}, GROUPS)

    def fail(path: Path, value: object) -> None:
        raise error("while writing the state")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(error, match="while writing"):
        checkpoint.save(tmp_path, {"step": 2}, GROUPS)
    assert names(tmp_path) == ["step-000001"]
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 1
    assert torch.equal(found.tensors("policy")["w"], GROUPS["policy"]["w"])


def test_a_kill_while_saving_leaves_the_previous_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 1}, GROUPS)
    script = (
        "import os, signal, sys, torch; from pathlib import Path; from trimtab.runs import checkpoint;"
        "checkpoint.write_json = lambda path, value: os.kill(os.getpid(), signal.SIGKILL);"
        "checkpoint.save(Path(sys.argv[1]), {'step': 2}, {'policy': {'w': torch.ones(9)}})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names(tmp_path) if name.startswith("step-")] == ["step-000001"]
    assert any((tmp_path / "checkpoints").rglob("policy.safetensors"))
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 1
    checkpoint.save(tmp_path, {"step": 2}, GROUPS)
    assert names(tmp_path) == ["step-000002"], "what the kill had left is gone"


def test_a_disk_without_room_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 6 * 4 + 2 * 2 + 3 * 4 + 8
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    checkpoint.save(tmp_path, {"step": 1}, GROUPS)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(ResourceError, match="too little room for a checkpoint"):
        checkpoint.save(tmp_path, {"step": 2}, GROUPS)
    assert names(tmp_path) == ["step-000001"]


def test_one_that_was_being_removed_does_not_count(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, {"step": 1}, GROUPS)
    (folder / "state.json").unlink()
    assert checkpoint.latest(tmp_path) is None


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 1}, GROUPS)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    with pytest.raises(RunError, match="the checkpoint lacks a part") as caught:
        found.tensors("value")
    assert caught.value.where == str(found.folder / "value.safetensors")


def test_removing_all(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    checkpoint.remove_all(tmp_path)
    checkpoint.save(tmp_path, {"step": 1}, GROUPS)
    checkpoint.remove_all(tmp_path)
    assert checkpoint.latest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
