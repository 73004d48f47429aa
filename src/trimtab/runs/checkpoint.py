"""Checkpoints: all that a run needs to go on, as safetensors and JSON, whole or not there.

    checkpoints/step-000100/
      state.json            step, rows logged and cost so far, whatever else the stage keeps
      NAME.safetensors      one file for each named group of tensors (weights, optimizer moments)

Random numbers need no state of their own: every draw is seeded from the run's seed and the step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import RunError
from trimtab.runs.files import new_folder, require_room, write_json

if TYPE_CHECKING:
    from torch import Tensor

TensorGroups = Mapping[str, Mapping[str, "Tensor"]]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after some step."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that were done when it was saved."""
        return int(self.state["step"])

    def tensors(self, group: str) -> dict[str, Tensor]:
        """One group of tensors."""
        path = self.folder / f"{group}.safetensors"
        if not path.exists():
            raise RunError(
                "the checkpoint lacks a part", where=str(path), fix="delete this checkpoint folder"
            )
        from safetensors.torch import load_file  # brings torch, which most commands do without

        return load_file(path)


def save(run_folder: Path, state: Mapping[str, Any], groups: TensorGroups) -> Path:
    """Save a checkpoint of `state["step"]` and then remove the older ones."""
    from safetensors.torch import save_file  # brings torch, which most commands do without

    folder = run_folder / "checkpoints" / f"step-{state['step']:06d}"
    folder.parent.mkdir(exist_ok=True)
    tensors_of_all = [tensor for tensors in groups.values() for tensor in tensors.values()]
    require_room(folder.parent, sum(t.numel() * t.element_size() for t in tensors_of_all), "a checkpoint")
    with new_folder(folder) as temporary:
        for group, tensors in groups.items():
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, temporary / f"{group}.safetensors")
        write_json(temporary / "state.json", dict(state))
    for older in sorted(folder.parent.glob("step-*"), key=_step)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return folder


def latest(run_folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run, or None."""
    # By their state: a folder without one was being removed when the process was killed.
    found = (run_folder / "checkpoints").glob("step-*/state.json")
    states = sorted(found, key=lambda path: _step(path.parent))
    if not states:
        return None
    return Checkpoint(states[-1].parent, json.loads(states[-1].read_text(encoding="utf-8")))


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def remove_all(run_folder: Path) -> None:
    """Remove the checkpoints of a finished run."""
    shutil.rmtree(run_folder / "checkpoints", ignore_errors=True)
