"""Log-probabilities of a reference, kept between runs: one file a data set, found by what it follows from.

The key is a hash of the token ids in order, the weights and config of the model, the arithmetic and the
versions of what computes. How the examples were cut into rows is not in it: rows move the last bits of a
sum and nothing else. Files are written under another name and renamed, so processes may share the folder;
the least recently used are deleted once all together are larger than the limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab import __version__
from trimtab.data.tokens import Example
from trimtab.model import adapters, bundles
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy
from trimtab.runs import progress
from trimtab.runs.cost import Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = 1
"""Of the key and the file; another number makes all older files unfindable."""
_UNSAID = ("_name_or_path", "transformers_version")
"""What a config says beside how the model computes."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A reference pass and what it took."""

    logprobs: Tensor  # [N] nats, of all response tokens in order
    spent: Part


def folder() -> Path:
    """Where the files lie: TRIMTAB_REFERENCE_CACHE, else reference/ beside the models."""
    own = os.environ.get("TRIMTAB_REFERENCE_CACHE")
    return Path(own).expanduser() if own else bundles.home() / "reference"


def key_of(policy: Policy, examples: Sequence[Example]) -> str:
    """Equal keys give equal log-probabilities, but for rounding: SHA-256 of all that they follow from."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    parts = {
        "format": FORMAT,
        "versions": {"trimtab": __version__, **versions},
        "arithmetic": _arithmetic(policy.numerics),
        "weights": _weights_hash(policy.model),
        "config": {k: v for k, v in policy.model.config.to_dict().items() if k not in _UNSAID},
        "ids": _ids_hash(examples),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read(key: str, tokens: int) -> Kept | None:
    """What was kept under the key; None where there is nothing, or nothing that is whole.

    Args:
        tokens: N, how many log-probabilities it must hold.
    """
    path = _path(key)
    try:
        with safe_open(path, "pt") as file:
            facts, logprobs = file.metadata(), file.get_tensor("logprobs")
        if facts["sha256"] != _hash(logprobs) or logprobs.shape != (tokens,):
            raise ValueError("other content than was written")
        spent = Part(**json.loads(facts["spent"]))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        progress.say(f"  reference: the cached file is damaged and not used ({path}: {error})")
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        os.utime(path)  # used now, so among the last to go
    return Kept(logprobs, spent)


def write(key: str, kept: Kept, limit: int) -> None:
    """Keep a pass for other runs; what does not work out is said and stops nobody.

    Args:
        limit: bytes that all files together may take.
    """
    if kept.logprobs.nbytes > limit:
        return
    facts = {"sha256": _hash(kept.logprobs), "spent": json.dumps(asdict(kept.spent))}
    try:
        folder().mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder(), prefix=f".{key[:12]}-", suffix=".tmp")
        os.close(handle)
        try:
            save_file({"logprobs": kept.logprobs}, temporary, metadata=facts)
            os.replace(temporary, _path(key))
        finally:
            Path(temporary).unlink(missing_ok=True)
        _shrink(limit)
    except (OSError, SafetensorError) as error:
        progress.say(f"  reference: not kept for other runs ({error})")


def _shrink(limit: int) -> None:
    """Delete the least recently used files, what killed processes left behind among them."""
    used: list[tuple[float, int, Path]] = []
    for path in folder().iterdir():
        with suppress(FileNotFoundError):  # another process shrinks too
            found = path.stat()
            used.append((found.st_mtime, found.st_size, path))
    total = 0
    for _, size, path in sorted(used, reverse=True):
        total += size
        if total > limit:
            path.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return folder() / f"{key}.safetensors"


def _arithmetic(numerics: Numerics) -> list[str]:
    device = numerics.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return [device.type, name, str(numerics.autocast_dtype)]


def _weights_hash(model: PreTrainedModel) -> str:
    """Of the tensors themselves, wherever they came from; the buffers hold the rotary frequencies.

    Not of adapters: as they begin they add nothing, and what they draw would find no other run.
    """
    adapted = adapters.attached(model)
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if adapted and tensor.requires_grad:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _ids_hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.prompt, [response.ids for response in example.responses])).encode())
    return digest.hexdigest()


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """A view, nothing is copied on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
