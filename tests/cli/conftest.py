"""The command line as a person meets it: its exit code, what it printed, and where."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from trimtab.cli.main import main
from trimtab.model.device import Numerics
from trimtab.model.save import save_model
from trimtab.model.scalar import new_scorer


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command in this process, through the entry that turns errors into messages."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # pytest's would be in every usage
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        return Said(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def scorer_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A reward model that nobody trained: the tiny model's backbone under a random head."""
    folder = tmp_path_factory.mktemp("judge") / "model"
    numerics = Numerics(torch.device("cpu"), None)
    scorer = new_scorer(str(model_folder), numerics, torch.Generator().manual_seed(3), bytes_per_parameter=4)
    save_model(scorer.model, scorer.codec, folder)
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight comparisons."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"say {n}", "chosen": "a" * (n + 1), "rejected": "b" * (9 - n)} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
