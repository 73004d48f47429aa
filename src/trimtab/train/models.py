"""Models of a stage: loaded as its settings say, told about in run.json, saved with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trimtab.errors import ConfigError
from trimtab.model import policy, scalar
from trimtab.model.device import Numerics, choose, reuse_freed_memory
from trimtab.model.names import base_of, resolve
from trimtab.model.policy import Policy
from trimtab.model.save import save_model
from trimtab.model.scalar import Scorer
from trimtab.runs import progress
from trimtab.runs.card import write_card
from trimtab.runs.files import file_hash
from trimtab.runs.run import Run, finished
from trimtab.train import lora
from trimtab.train.allocation import keep_few_kernels
from trimtab.train.settings import EpochSettings, StageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def numerics_of(settings: StageSettings, run: Run) -> Numerics:
    """Device and arithmetic, printed and kept in run.json."""
    reuse_freed_memory()
    keep_few_kernels()
    numerics = choose(settings.device, settings.precision)
    progress.say(f"  computing on {numerics.name}, {torch.get_num_threads()} threads")
    run.describe(device=numerics.name, threads=torch.get_num_threads(), seed=settings.seed)
    return numerics


def load_policy(settings: EpochSettings, run: Run, *, copies: int) -> Policy:
    """The model that the stage begins from, to be trained.

    Args:
        copies: bytes a parameter that the stage will hold in all.
    """
    describe_parent(run, "model", settings.model)
    numerics = numerics_of(settings, run)
    if settings.lora is None:
        loaded = policy.load_policy(settings.model, numerics, bytes_per_parameter=copies)
    else:
        loaded = lora.load_policy(settings, settings.lora, numerics, run)
    require_positions(loaded.model, settings)
    return loaded


def new_scorer(settings: EpochSettings, run: Run, generator: torch.Generator, *, copies: int) -> Scorer:
    """The model that the stage begins from, with a fresh scalar head."""
    describe_parent(run, "model", settings.model)
    numerics = numerics_of(settings, run)
    if settings.lora is None:
        scorer = scalar.new_scorer(settings.model, numerics, generator, bytes_per_parameter=copies)
    else:
        scorer = lora.new_scorer(settings, settings.lora, numerics, run, generator)
    require_positions(scorer.model, settings)
    return scorer


def require_positions(model: PreTrainedModel, settings: StageSettings) -> None:
    """Refuse sequences that are longer than the model has learned to read.

    Raises:
        ConfigError: prompt and response together have more tokens than the model has positions.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    needed = settings.max_prompt + settings.max_response
    if room is not None and needed > room:
        raise ConfigError(
            "prompt and response together are longer than the model can read",
            where="max_prompt",
            found=f"max_prompt + max_response = {needed}, and {settings.model} has {room} positions",
            fix=f"lower them to {room} together",
        )


def describe_parent(run: Run, role: str, source: str) -> None:
    """Keep in run.json what a model was loaded from, and the hash of its weights."""
    fact = {"source": source, "finished": finished(source), "weights_sha256": weights_hash(resolve(source))}
    run.describe_input("parents", role, fact)


def finish(trained: Policy | Scorer, run: Run) -> None:
    """Save the model, write the model card, mark the run as done."""
    save_model(trained.model, trained.codec, run.folder / "model")
    run.describe(cost=run.meter.total().as_json())
    write_card(run.folder)
    run.finish()
    progress.say(f"  saved {run.folder / 'model'}")


def weights_hash(resolved: Path | str) -> str:
    """SHA-256 over a local folder's weight files (and an adapter's base) or a GGUF file; empty for a hub."""
    path = Path(resolved)
    if path.is_file():
        return file_hash(path)
    base = base_of(resolved)
    own = [file_hash(file) for file in sorted(path.glob("*.safetensors"))]
    return "+".join(own if base is None else [*own, weights_hash(base)])
