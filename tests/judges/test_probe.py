"""The probe against transformers' own hidden states, text by text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tiny import tiny_tokenizer
from trimtab.errors import ModelError
from trimtab.judges.judge import Answer, Unreadable
from trimtab.judges.named import load_judge
from trimtab.judges.probe import LONGEST, load_probe
from trimtab.model.device import choose

CPU = choose("cpu", "float32")


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "model")
    width = AutoModelForCausalLM.from_pretrained(model_folder).config.hidden_size
    weights = torch.randn(width, generator=torch.Generator().manual_seed(1))
    (tmp_path / "probe").mkdir()
    arrays = {"weights": weights, "bias": torch.tensor([0.3])}
    save_file(arrays, tmp_path / "probe" / "probe.safetensors")
    return tmp_path / "probe"


def test_it_reads_the_mean_of_the_last_hidden_states(folder: Path, model_folder: Path) -> None:
    judge = load_judge((f"probe:{folder}",), CPU)
    answers = [Answer("a b", " c d"), Answer("", "x"), Answer("a b", " c d, and more of it")]
    found = judge.score(answers)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    weights = judge.weights  # type: ignore[attr-defined]
    for answer, score in zip(answers, found, strict=True):
        ids = tiny_tokenizer()(str(answer.prompt) + answer.text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            mean = model.model(ids).last_hidden_state[0].mean(0)
        assert score == pytest.approx(float(torch.sigmoid(mean @ weights + 0.3)), abs=1e-5)


def test_too_long_a_text_is_unreadable_and_moves_no_other(folder: Path) -> None:
    judge = load_probe(str(folder), CPU)
    long = Answer("", "a " * (LONGEST + 1))
    first, unread, last = judge.score([Answer("", "x"), long, Answer("", "y z")])
    assert isinstance(unread, Unreadable)
    assert [first, last] == pytest.approx(judge.score([Answer("", "x"), Answer("", "y z")]), abs=1e-6)


def test_what_is_no_probe_is_told(folder: Path) -> None:
    (folder / "probe.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="no probe of a language model"):
        load_probe(str(folder), CPU)
