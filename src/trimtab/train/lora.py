"""Models of stages that train adapters: the frozen base, and the adapters on it.

An adapter's folder names its base model, and peft and transformers must be able to load that by itself. A
base that they cannot load (another adapter, a GGUF file) is written into the run folder first, as `base/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trimtab.data.tokens import Codec
from trimtab.model import adapters, load, scalar
from trimtab.model.device import Numerics, require_memory
from trimtab.model.names import base_of
from trimtab.model.policy import Policy
from trimtab.model.save import save_model
from trimtab.model.scalar import Scorer
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train.loop import FROZEN_BYTES, seed_for
from trimtab.train.settings import EpochSettings, LoRASettings, StageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_policy(settings: EpochSettings, chosen: LoRASettings, numerics: Numerics, run: Run) -> Policy:
    """The model that the stage begins from, frozen, with adapters to be trained.

    Raises:
        ConfigError: a target that names no matrix, 4-bit weights elsewhere than on CUDA, or a package that
            is not installed.
        ModelError: it cannot be loaded, or it needs what trimtab does not compute.
        ResourceError: it would not fit into memory.
    """
    codec = load.load_tokenizer(settings.model)
    base, model = load_base(settings, chosen, codec, numerics, run)
    freeze(model, chosen, numerics)
    attach(model, base, settings, chosen, run)
    return Policy(model, codec, numerics, settings.model)


def new_scorer(
    settings: EpochSettings, chosen: LoRASettings, numerics: Numerics, run: Run, generator: torch.Generator
) -> Scorer:
    """The model that the stage begins from, frozen, with adapters and a fresh scalar head to be trained.

    Raises:
        ConfigError, ModelError, ResourceError: as `load_policy`, and transformers has no scalar head for it.
    """
    codec = load.load_tokenizer(settings.model)
    base, policy = load_base(settings, chosen, codec, numerics, run)
    freeze(policy, chosen, numerics)
    model = scalar.with_new_head(policy, codec, generator, settings.model)
    attach(model, base, settings, chosen, run, head=scalar.HEAD)
    return Scorer(model, codec, numerics, settings.model)


def load_base(
    settings: StageSettings, chosen: LoRASettings, codec: Codec, numerics: Numerics, run: Run
) -> tuple[str, PreTrainedModel]:
    """What the adapter's folder will name as its base, and the model itself."""
    source = load.resolve(settings.model)
    needed = load.parameter_count(settings.model) * FROZEN_BYTES
    require_memory(numerics.device, needed if chosen.base == "full" else needed // 8, settings.model)
    if base_of(source) is not None or Path(source).is_file():
        source = run.folder / "base"
        if not source.is_dir():
            save_model(load.load_causal(settings.model, device="cpu"), codec, source)
            progress.say(f"  the base of the adapter: {source}")
    base = str(source.absolute() if isinstance(source, Path) else source)
    if chosen.base == "4bit":
        return base, load.load_in_4bit(base, numerics)
    return base, load.load_causal(base, device=numerics.device)


def freeze(model: PreTrainedModel, chosen: LoRASettings, numerics: Numerics) -> None:
    """No weight learns, and matrices are held in the type that they are multiplied in."""
    model.requires_grad_(False)
    if chosen.base == "full" and numerics.autocast_dtype is not None:
        adapters.hold_frozen_matrices_in(model, numerics.autocast_dtype)


def attach(
    model: PreTrainedModel,
    base: str,
    settings: StageSettings,
    chosen: LoRASettings,
    run: Run,
    head: str | None = None,
) -> None:
    """Give a frozen model the adapters that the stage trains."""
    adapters.attach(
        model,
        base=base,
        rank=chosen.rank,
        alpha=chosen.alpha,
        targets=chosen.targets,
        generator=torch.Generator().manual_seed(seed_for(settings.seed, "lora")),
        head=head,
    )
    trained, every = adapters.trained_parameters(model), sum(p.numel() for p in model.parameters())
    run.describe(trained_parameters=trained)
    progress.say(f"  LoRA: {trained:,} of {every:,} parameters are trained")
