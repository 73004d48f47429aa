"""LoRA adapters: low-rank updates of frozen matrices. The one door to peft.

A matrix W becomes W + (alpha / rank) B A, where B begins at 0, so that training begins at the base model
exactly. The adapters are put into the model in place: its class, its names and its attention stay, and so
every other part of trimtab goes on working. What is saved is what peft and transformers load; a folder that
is read again is merged in memory.

Left out on purpose: dropout, biases, adapters of embeddings and heads.
Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import copy
import difflib
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.errors import ConfigError, ModelError
from trimtab.model.names import ADAPTER_CONFIG, MERGED_CONFIG
from trimtab.model.reading import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL = "all-linear"
"""In place of targets: every matrix between the embedding and the head."""
WEIGHTS = "adapter_model.safetensors"
_NAME = "default"
Model = TypeVar("Model", bound=nn.Module)
_PREFIX = "base_model.model."


def attach(
    model: PreTrainedModel,
    *,
    base: str,
    rank: int,
    alpha: float,
    targets: str | Sequence[str],
    generator: torch.Generator,
    head: str | None = None,
) -> None:
    """Freeze the model and put adapters beside its matrices; the model computes what it did before.

    Args:
        base: what the model was loaded from, as transformers can load it again.
        targets: endings of module names (`q_proj`), or `ALL`.
        generator: on the CPU; draws A as torch draws a linear layer.
        head: the module outside the backbone that is trained too, and saved whole.
    Raises:
        ConfigError: a target that names no matrix, or peft is not installed.
    """
    peft = _peft()
    matrices = _matrices(model)
    chosen = _chosen(list(matrices), targets)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=chosen,
        fan_in_fan_out=isinstance(matrices[chosen[0]], Conv1D),
        task_type="CAUSAL_LM" if head is None else "SEQ_CLS",
    )
    peft.inject_adapter_in_model(config, model, _NAME)
    # Told to peft only now: it would wrap the head into a module of its own.
    config.base_model_name_or_path, config.modules_to_save = base, None if head is None else [head]
    if head is not None:
        model.get_submodule(head).requires_grad_(True)
    layers = list(_layers(model))
    assert len(layers) == len(chosen), "peft adapts what it was told to"
    for layer in layers:
        down, up = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
        drawn = nn.init.kaiming_uniform_(torch.empty(down.shape), a=math.sqrt(5), generator=generator)
        down.data, up.data = drawn.to(down.device), torch.zeros(up.shape, device=up.device)
    _leave_casts_to_autocast(model)


def attached(model: PreTrainedModel) -> bool:
    """Whether the model has adapters in it, unmerged."""
    return _NAME in getattr(model, "peft_config", {})


@contextmanager
def switched_off(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the backbone is the base model's, bit for bit: a policy's reference.

    For forward passes alone: meanwhile nothing of the adapters asks for a gradient.

    Raises:
        ValueError: the model has no adapters, and would be its own reference.
    """
    if not attached(model):
        raise ValueError("the model has no adapters that could be switched off")
    layers = list(_layers(model))
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@dataclass(frozen=True)
class Adapted:
    """A matrix W [out, in] and what is added to it as it is now: x W' + (x down') up'."""

    matrix: nn.Linear
    down: Tensor | None
    """[rank, in]; None where nothing is added."""
    up: Tensor | None
    """[out, rank], the scaling included."""


def adapted(layer: nn.Module) -> Adapted | None:
    """A linear layer, with or without an adapter of the plain kind; None for anything else."""
    if type(layer) is nn.Linear:
        return Adapted(layer, None, None)
    names = getattr(layer, "active_adapters", None)
    if names != [_NAME] or type(getattr(layer, "base_layer", None)) is not nn.Linear:
        return None
    lora: Any = layer
    if lora.merged or lora.lora_variant or lora.lora_B[_NAME].bias is not None:
        return None
    if lora.disable_adapters:
        return Adapted(lora.base_layer, None, None)
    up = lora.lora_B[_NAME].weight.detach() * lora.scaling[_NAME]
    return Adapted(lora.base_layer, lora.lora_A[_NAME].weight.detach(), up)


def hold_frozen_matrices_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Keep the backbone's frozen matrices as the forward pass uses them, at half the memory.

    Autocast casts them to this type in every call, so nothing changes by a bit; embeddings, norms and
    heads, which autocast leaves in float32, stay as they are.
    """
    for module in _matrices(model).values():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.to(dtype)


def twin(model: Model) -> Model:
    """A second model with the same frozen weights, not copies of them, and with copies of all that learns."""
    frozen = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, frozen)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write what was trained, as peft writes it, and the config that base and adapter have together.

    That is `merged_config.json`: transformers would take a folder with a config.json for a whole model.
    """
    config = copy.copy(_config(model))
    config.inference_mode, config.target_modules = True, sorted(config.target_modules)
    config.save_pretrained(folder)
    tensors = {
        name: parameter.detach().cpu().contiguous() for name, parameter in _saved(model, config).items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    whole = copy.deepcopy(model.config)
    whole.architectures, whole.use_cache = [type(model).__name__], True
    # What the weights are held in while training is nobody else's business.
    for name in ("quantization_config", "dtype"):
        if hasattr(whole, name):
            delattr(whole, name)
    whole.to_json_file(folder / MERGED_CONFIG, use_diff=False)


def load(model: PreTrainedModel, folder: Path) -> None:
    """Put the folder's adapter beside a frozen model's matrices, unmerged, to be trained on.

    Modules outside the backbone that the folder holds whole take their weights from there.

    Raises:
        ConfigError: peft is not installed.
        ModelError: the adapter cannot be read, is no LoRA, or does not fit the model.
    """
    peft = _peft()
    config = _lora_config(folder)
    heads, config.modules_to_save = config.modules_to_save, None  # or peft would wrap the head
    config.inference_mode = False  # as it was saved, nothing of it would learn
    with reading("the adapter", folder):
        peft.inject_adapter_in_model(config, model, _NAME)
    config.modules_to_save = heads
    for head in heads or ():
        model.get_submodule(head).requires_grad_(True)
    places = _saved(model, config)
    _require_every_weight(places, folder)
    with reading("the adapter", folder), torch.no_grad():
        for name, tensor in load_file(folder / WEIGHTS).items():
            if tensor.shape != places[name].shape:
                raise _does_not_fit(folder, f"{name} is {list(tensor.shape)}, not {list(places[name].shape)}")
            places[name].data = tensor.to(places[name].device, torch.float32)
    _leave_casts_to_autocast(model)


def saved_heads(folder: Path) -> tuple[str, ...]:
    """Modules that the adapter's folder holds whole: a base model may lack them."""
    with reading("the adapter's config", folder):
        return tuple(_peft().PeftConfig.from_pretrained(folder).modules_to_save or ())


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base model with the folder's adapter added to its matrices.

    Args:
        model: the base in float32; its matrices are changed.
    Raises:
        ModelError: the adapter cannot be read, is no LoRA, or does not fit the base model.
    """
    peft = _peft()
    config = _lora_config(folder)
    with reading("the adapter", folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that do not fit: they are an error below
        adapted = peft.PeftModel.from_pretrained(model, folder, config=config)
        _require_every_weight(peft.get_peft_model_state_dict(adapted), folder)
        plain: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    plain.requires_grad_(True)  # a model like any other, to be trained as a whole if somebody likes
    return plain


def _require_every_weight(expected: Iterable[str], folder: Path) -> None:
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        differing = sorted(set(expected) ^ set(file.keys()))
    if differing:
        raise _does_not_fit(
            folder, f"{len(differing)} weights are only in one of them, {differing[0]} for one"
        )


def _does_not_fit(folder: Path, found: str) -> ModelError:
    return ModelError(
        "the adapter does not fit its base model",
        where=str(folder),
        found=found,
        fix=f"check base_model_name_or_path in {ADAPTER_CONFIG}",
    )


def _lora_config(folder: Path) -> Any:
    peft = _peft()
    with reading("the adapter's config", folder):
        config = peft.PeftConfig.from_pretrained(folder)
    if config.peft_type != peft.PeftType.LORA:
        raise ModelError("this adapter is no LoRA", where=str(folder), found=str(config.peft_type.value))
    return config


def _saved(model: PreTrainedModel, config: Any) -> dict[str, nn.Parameter]:
    """What a folder holds of the model, by the names that peft gives it there."""
    parts = (f".{_NAME}.", *(f"{name}." for name in config.modules_to_save or ()))
    return {
        _PREFIX + name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in model.named_parameters()
        if parts[0] in name or name.startswith(parts[1:])
    }


def _leave_casts_to_autocast(model: PreTrainedModel) -> None:
    # By way of float32 each adapter would keep an input of its own to the end.
    for layer in _layers(model):
        layer.cast_input_dtype_enabled = False


def trained_parameters(model: PreTrainedModel) -> int:
    """How many weights learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _matrices(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The backbone's matrices by their names in the model; adapters are among them once attached."""
    return {
        f"{model.base_model_prefix}.{name}": module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def _chosen(names: Sequence[str], targets: str | Sequence[str]) -> list[str]:
    if targets == ALL and names:
        return list(names)
    endings = [targets] if isinstance(targets, str) else targets
    for ending in endings:
        if not any(_ends(name, ending) for name in names):
            there = sorted({name.rpartition(".")[2] for name in names})
            near = difflib.get_close_matches(ending, there, n=1)
            raise ConfigError(
                "LoRA finds no such matrix in the model",
                where="lora.targets",
                found=f"{ending}; there are: {', '.join(there) or 'none'}",
                fix=f"did you mean {near[0]}?" if near else f"name some of these, or {ALL}",
            )
    return [name for name in names if any(_ends(name, ending) for ending in endings)]


def _ends(name: str, ending: str) -> bool:
    return f".{name}".endswith(f".{ending}")


def _layers(model: PreTrainedModel) -> Iterator[Any]:
    """peft's layers, in the model's order."""
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))


def _config(model: PreTrainedModel) -> Any:
    configs: dict[str, Any] = model.peft_config
    return configs[_NAME]


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a package that LoRA needs is not installed",
            where="lora",
            found=f"no {error.name}",
            fix="pip install 'trimtab[lora]'",
        ) from error
    return peft
