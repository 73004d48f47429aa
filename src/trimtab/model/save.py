"""Saving a model so that transformers' `from_pretrained` loads it, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.data.tokens import Codec
from trimtab.errors import ResourceError
from trimtab.model.reading import without_progress_bars
from trimtab.runs.files import new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_model(model: PreTrainedModel, codec: Codec, folder: Path) -> None:
    """Write weights (safetensors), config, tokenizer and chat template.

    Raises:
        ResourceError: the disk has too little room.
    """
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise ResourceError(
            "the disk has too little room for the model",
            where=str(folder),
            found=f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
            fix="free some space and run the same command with --resume",
        )
    with new_folder(folder) as temporary:
        used_cache = model.config.use_cache
        model.config.use_cache = True  # others generate with it; ours is switched off while training
        try:
            with without_progress_bars():
                model.save_pretrained(temporary)
        finally:
            model.config.use_cache = used_cache
        codec.tokenizer.save_pretrained(temporary)
