"""Saving a model so that transformers' `from_pretrained` loads it, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.data.tokens import Codec
from trimtab.model.reading import without_progress_bars
from trimtab.runs.files import new_folder, require_room

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_model(model: PreTrainedModel, codec: Codec, folder: Path) -> None:
    """Write weights (safetensors), config, tokenizer and chat template.

    Raises:
        ResourceError: the disk has too little room.
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    require_room(folder.parent, size, "the model")
    with new_folder(folder) as temporary:
        # Elsewhere, too, generation ends at the stop token. Models with a scalar head do not generate.
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.eos_token_id = codec.stop_id
            model.generation_config.pad_token_id = codec.pad_id
        used_cache = model.config.use_cache
        model.config.use_cache = True  # others generate with it; ours is switched off while training
        try:
            with without_progress_bars():
                model.save_pretrained(temporary)
        finally:
            model.config.use_cache = used_cache
        codec.tokenizer.save_pretrained(temporary)
