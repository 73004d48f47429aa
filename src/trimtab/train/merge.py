"""An adapter merged with its base model into a model of its own, which needs neither."""

from __future__ import annotations

from pathlib import Path

import torch

from trimtab.errors import ConfigError
from trimtab.model import load
from trimtab.model.adapters import WEIGHTS
from trimtab.model.device import require_memory
from trimtab.model.names import base_of
from trimtab.model.save import save_model
from trimtab.runs.files import file_hash, write_text
from trimtab.train.loop import FROZEN_BYTES
from trimtab.train.models import weights_hash


def merge(name: str, folder: Path) -> None:
    """Write the model that base and adapter make as a plain folder: weights, config, tokenizer and a card.

    Args:
        name: a run that was trained with LoRA, or any folder with an adapter that peft has written.
        folder: made anew.
    Raises:
        ConfigError: there is no adapter, or the folder is in use.
        ModelError: base or adapter cannot be read, or they do not fit each other.
        ResourceError: too little memory, or too little room on the disk.
    """
    resolved = load.resolve(name)
    base = base_of(resolved)
    if base is None:
        raise ConfigError(
            "there is no adapter to merge",
            where=name,
            found=f"{resolved} is a whole model",
            fix="use it as it is, or name a run that was trained with lora",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("the place is in use", where=str(folder), fix="name a folder that does not exist")
    require_memory(torch.device("cpu"), load.parameter_count(name) * FROZEN_BYTES, "the merged model")
    kinds = list(load.load_config(name).architectures or [])
    scores = any(kind.endswith("ForSequenceClassification") for kind in kinds)
    model = (load.load_scalar if scores else load.load_causal)(name, device="cpu")
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, load.load_tokenizer(name), folder)
    write_text(folder / "README.md", _card(folder.name, Path(resolved), base))


def _card(title: str, adapter: Path, base: Path | str) -> str:
    """Where the weights came from; after it the card of the run that trained the adapter, if there is one."""
    text = f"""# {title}

Made by `trimtab merge`: the matrices of the base model with the adapter's update added, in float32.
Neither of them is needed any more.

| what | source | SHA-256 |
|---|---|---|
| base model | {base} | {weights_hash(base) or "not a local file"} |
| adapter | {adapter} | {file_hash(adapter / WEIGHTS)} |
"""
    card = adapter.parent / "README.md"
    if adapter.name == "model" and card.is_file():
        text += "\nThe card of the run that trained the adapter follows.\n\n"
        text += card.read_text(encoding="utf-8")
    return text
