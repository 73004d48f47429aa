"""Saving a model so that transformers' `from_pretrained` (or peft's) loads it, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.data.tokens import Codec
from trimtab.model import adapters
from trimtab.model.reading import without_progress_bars
from trimtab.runs.files import new_folder, require_room

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_model(model: PreTrainedModel, codec: Codec, folder: Path) -> None:
    """Write weights (safetensors), config, tokenizer and chat template; of a model with adapters these alone.

    Raises:
        ResourceError: the disk has too little room.
    """
    adapted = adapters.attached(model)
    written = [p for p in model.parameters() if p.requires_grad or not adapted]
    require_room(folder.parent, sum(p.numel() * p.element_size() for p in written), "the model")
    with new_folder(folder) as temporary:
        if adapted:
            adapters.save(model, temporary)
        else:
            _save_whole(model, codec, temporary)
        codec.tokenizer.save_pretrained(temporary)


def _save_whole(model: PreTrainedModel, codec: Codec, folder: Path) -> None:
    # Elsewhere, too, generation ends at the stop token. Models with a scalar head do not generate.
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = codec.stop_id
        model.generation_config.pad_token_id = codec.pad_id
    used_cache = model.config.use_cache
    model.config.use_cache = True  # others generate with it; ours is switched off while training
    try:
        with without_progress_bars():
            model.save_pretrained(folder)
    finally:
        model.config.use_cache = used_cache
