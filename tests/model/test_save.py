"""A saved model is whole, loads with transformers alone, and replaces the old one only then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tiny import CHAT_TEMPLATE, tiny_gpt2, tiny_llama, tiny_qwen2, tiny_tokenizer
from trimtab.data.tokens import Codec
from trimtab.errors import ResourceError
from trimtab.model import load
from trimtab.model.save import save_model
from trimtab.runs import files

CODEC = Codec(tiny_tokenizer(), stop_id=2, pad_id=0)
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2, tiny_gpt2])
def test_transformers_loads_it(build: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    model = build()
    save_model(model, CODEC, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer("Hello, you.")["input_ids"] == CODEC.tokenizer("Hello, you.")["input_ids"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not list((tmp_path / "model").glob("*.bin"))


def test_what_trimtab_loads_it_saves_again(model_folder: Path, tmp_path: Path) -> None:
    model = load.load_causal(str(model_folder), device="cpu")
    codec = load.load_tokenizer(str(model_folder))
    save_model(model, codec, tmp_path / "model")
    again = load.load_causal(str(tmp_path / "model"), device="cpu")
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert load.load_tokenizer(str(tmp_path / "model")).fingerprint == codec.fingerprint


def test_others_generate_with_a_cache_and_training_goes_on_without(
    model_folder: Path, tmp_path: Path
) -> None:
    model = load.load_causal(str(model_folder), device="cpu")
    assert model.config.use_cache is False
    save_model(model, CODEC, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["use_cache"] is True
    assert model.config.use_cache is False


def test_elsewhere_too_generation_ends_at_the_stop_token(tmp_path: Path) -> None:
    model = tiny_llama(eos_token_id=0, pad_token_id=2)
    save_model(model, CODEC, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (loaded.generation_config.eos_token_id, loaded.generation_config.pad_token_id) == (2, 0)


def test_others_may_read_it(tmp_path: Path) -> None:
    save_model(tiny_llama(), CODEC, tmp_path / "model")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o644}


def test_an_error_leaves_the_old_model_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    save_model(model, CODEC, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    model.config.use_cache = False

    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, CODEC, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert model.config.use_cache is False


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    needed = 4 * sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(ResourceError, match="too little room for the model") as caught:
        save_model(model, CODEC, tmp_path / "model")
    assert caught.value.where == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    save_model(model, CODEC, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists()
