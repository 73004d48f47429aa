"""Models and tokenizers from a folder, a run, a bundle, a GGUF file or the hub.

Weights are float32 (the optimizer's master weights; autocast does the rest), safetensors only, and
never run code from the model's folder. A folder with an adapter stands for its base model with the
adapter merged. Dropout is off, because ratios between two forward passes of
the same weights must be exactly 1. What trimtab cannot compute is refused before weights are read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from trimtab.data.tokens import Codec
from trimtab.errors import ConfigError, ModelError, ResourceError
from trimtab.model import adapters, gguf
from trimtab.model.device import Numerics
from trimtab.model.fused import fuse
from trimtab.model.names import MERGED_CONFIG, base_of, resolve
from trimtab.model.reading import brief, reading, without_reports
from trimtab.model.support import refuse_unsupported

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "load_causal",
    "load_classifier",
    "load_config",
    "load_in_4bit",
    "load_scalar",
    "load_tokenizer",
    "parameter_count",
    "refuse_unsupported",
    "resolve",
]

NEW_PAD = "<|pad|>"
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")
_SCALAR_ENDINGS = ("ForSequenceClassification",)


def load_causal(name: str, *, device: str | torch.device, attention: str = "trimtab") -> PreTrainedModel:
    """A causal language model in float32 and eval mode, without dropout and without a cache.

    Args:
        name: as `resolve` takes it.
        device: where the weights go.
        attention: transformers' name of an attention function; "trimtab" is registered first.
    Raises:
        ModelError: the model cannot be found or read, is no causal language model, lacks weights,
            or uses what trimtab does not compute.
        ResourceError: the device has too little memory for the weights.
    """
    source, config = resolve(name), _config_to_compute(name, _CAUSAL_ENDINGS)
    _register(attention)
    if _is_gguf(source):
        model = gguf.load_model(Path(source), config, attention=attention)
    else:
        model = _load_safetensors(AutoModelForCausalLM, source, config, attention)
    return _ready(model, device, name)


def load_in_4bit(name: str, numerics: Numerics) -> PreTrainedModel:
    """As `load_causal`, with the backbone's matrices as NF4; to be frozen under adapters. Not measured.

    Raises:
        ConfigError: the device is not CUDA, or bitsandbytes is not installed.
        ModelError: as `load_causal`.
    """
    if numerics.device.type != "cuda":
        raise ConfigError(
            "4-bit weights are computed with on CUDA only",
            where="lora.base",
            found=f"device {numerics.device}",
            fix="set lora.base to full",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "a package that 4-bit weights need is not installed",
            where="lora.base",
            found="no bitsandbytes",
            fix="pip install 'trimtab[4bit]'",
        )
    source, config = resolve(name), _config_to_compute(name, _CAUSAL_ENDINGS)
    _register("trimtab")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=numerics.autocast_dtype or torch.float32,
    )
    model = _load_safetensors(
        AutoModelForCausalLM,
        source,
        config,
        "trimtab",
        quantization_config=quantization,
        device_map={"": str(numerics.device)},
    )
    return _without_dropout_modules(model.eval())


def load_scalar(name: str, *, device: str | torch.device, attention: str = "trimtab") -> PreTrainedModel:
    """A backbone with a sequence classification head, prepared as `load_causal` prepares a model.

    Raises:
        ModelError: as `load_causal`, and for a model without such a head.
        ResourceError: the device has too little memory for the weights.
    """
    source, config = resolve(name), _config_to_compute(name, _SCALAR_ENDINGS)
    _register(attention)
    model = _load_safetensors(AutoModelForSequenceClassification, source, config, attention)
    return _ready(model, device, name)


def load_classifier(name: str, *, device: str | torch.device) -> PreTrainedModel:
    """A sequence classification model of any kind, with the attention that transformers chooses for it.

    Raises:
        ModelError: the model cannot be found or read, has no such head, or lacks weights.
        ResourceError: the device has too little memory for the weights.
    """
    source, config = resolve(name), load_config(name)
    _refuse_other_heads(config, name, _SCALAR_ENDINGS)
    _without_dropout(config)
    model = _load_safetensors(AutoModelForSequenceClassification, source, config, None)
    return _ready(model, device, name)


def _config_to_compute(name: str, endings: tuple[str, ...]) -> PretrainedConfig:
    config = load_config(name)
    _refuse_other_heads(config, name, endings)
    refuse_unsupported(config)
    _without_dropout(config)
    config.use_cache = False
    return config


def _register(attention: str) -> None:
    if attention == "trimtab":
        from trimtab.model import packed

        assert attention == packed.NAME, "importing it has registered the attention function"


def _ready(model: PreTrainedModel, device: str | torch.device, name: str) -> PreTrainedModel:
    return _to(fuse(_without_dropout_modules(model.eval())), device, name)


def _without_dropout_modules(model: PreTrainedModel) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def load_config(name: str) -> PretrainedConfig:
    """The model's config; nothing else is read."""
    source = resolve(name)
    if _is_gguf(source):
        return gguf.load_config(Path(source))
    if (base := base_of(source)) is not None:
        own = Path(source) / MERGED_CONFIG
        source = own if own.is_file() else base
    with reading("the config", source):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def load_tokenizer(name: str) -> Codec:
    """The model's tokenizer, with the token that ends a response and a pad token distinct from it.

    The tokenizer's own pad token is kept where it is fit. Otherwise its `pad_token` is set: to a
    special token that neither ends text nor occurs in the chat template, or, where the embedding
    has a row to spare, to a new `<|pad|>`.

    Raises:
        ModelError: the tokenizer cannot be read, nothing ends a response, or no pad token is left.
    """
    source = resolve(name)
    if _is_gguf(source):
        tokenizer = gguf.load_tokenizer(Path(source))
    else:
        if (base := base_of(source)) is not None and not (Path(source) / "tokenizer_config.json").is_file():
            source = base
        with reading("the tokenizer", source):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    stop = stop_token(tokenizer)
    tokenizer.pad_token = pad_token(tokenizer, stop) or _new_pad(tokenizer, load_config(name), name)
    return Codec(tokenizer, stop_id=_id(tokenizer, stop), pad_id=_id(tokenizer, str(tokenizer.pad_token)))


def parameter_count(name: str) -> int:
    """How many weights the model has, tied ones counted once; none of them is read."""
    config = load_config(name)
    architectures = list(getattr(config, "architectures", None) or [])
    scalar = any(kind.endswith(_SCALAR_ENDINGS) for kind in architectures)
    kind = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    with reading("the config", resolve(name)), torch.device("meta"):
        model = kind.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def stop_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that ends a response: what the chat template writes after it, else the end token."""
    if tokenizer.chat_template:
        after = _rendered(tokenizer).partition(_RESPONSE)[2].lstrip()
        ends = [token for token in _added_tokens(tokenizer) if after.startswith(token)]
        if ends:
            return max(ends, key=len)
    if tokenizer.eos_token is None:
        raise ModelError(
            "nothing ends a response: the tokenizer has no end token, and the chat template writes none",
            where=str(tokenizer.name_or_path),
            fix="set eos_token in tokenizer_config.json",
        )
    return str(tokenizer.eos_token)


def pad_token(tokenizer: PreTrainedTokenizerBase, stop: str) -> str | None:
    """An existing token that is fit for padding, or None.

    Fit is a special token that ends nothing, begins nothing and that the chat template never writes.
    The tokenizer's own choice comes first, then one named pad, then the unknown token, then any.
    """
    template = str(tokenizer.chat_template or "") + (_rendered(tokenizer) if tokenizer.chat_template else "")
    taken = {stop, tokenizer.eos_token, tokenizer.bos_token}
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    preferred = [
        tokenizer.pad_token,
        *(token for token in special if "pad" in token.lower()),
        tokenizer.unk_token,
        *special,
    ]
    fit = (token for token in preferred if token and token not in taken and token not in template)
    return next(fit, None)


_RESPONSE = "an answer that no template writes by itself"


def _rendered(tokenizer: PreTrainedTokenizerBase) -> str:
    chat = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _RESPONSE}]
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception as error:  # templates are programs and raise what they like
        raise ModelError(
            "the chat template cannot write a question and an answer",
            where=str(tokenizer.name_or_path),
            found=brief(error),
            fix="repair chat_template.jinja, or use another model",
        ) from error


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if str(token).strip()]


def _new_pad(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, name: str) -> str:
    rows = config.get_text_config(decoder=True).vocab_size
    if len(tokenizer) >= rows:
        raise ModelError(
            "no pad token: each special token of the tokenizer ends text or is part of the chat template",
            where=name,
            found=f"{len(tokenizer)} tokens for an embedding of {rows} rows, so none can be added",
            fix=f"add one with transformers: tokenizer.add_special_tokens({{'pad_token': '{NEW_PAD}'}}), "
            "model.resize_token_embeddings(len(tokenizer)), save both, and name that folder",
        )
    tokenizer.add_special_tokens({"pad_token": NEW_PAD})
    return NEW_PAD


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


def _is_gguf(source: Path | str) -> bool:
    return isinstance(source, Path) and source.suffix == ".gguf"


def _refuse_other_heads(config: PretrainedConfig, name: str, endings: tuple[str, ...]) -> None:
    # transformers would load such a checkpoint all the same, and draw the missing head at random.
    architectures = list(getattr(config, "architectures", None) or [])
    if architectures and not any(kind.endswith(endings) for kind in architectures):
        wanted = "causal language model" if endings == _CAUSAL_ENDINGS else "reward model"
        raise ModelError(
            f"this is no {wanted}",
            where=name,
            found=f"architectures = {', '.join(architectures)}",
            fix=f"name a model with a fitting head (...{endings[0]})",
        )


def _without_dropout(config: PretrainedConfig) -> None:
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)


def _load_safetensors(
    kind: type[AutoModelForCausalLM] | type[AutoModelForSequenceClassification],
    source: Path | str,
    config: PretrainedConfig,
    attention: str | None,
    **options: Any,
) -> PreTrainedModel:
    base = base_of(source)
    begun = source if base is None else base
    for folder in (source, begun):
        if isinstance(folder, Path):
            _refuse_pickles(folder)
    with reading("the weights", begun), nullcontext() if base is None else without_reports():
        model, report = kind.from_pretrained(
            begun,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    loaded: PreTrainedModel = model
    if base is None:
        _refuse_missing(report["missing_keys"], source)
        return loaded
    heads = tuple(f"{head}." for head in adapters.saved_heads(Path(source)))
    _refuse_missing([key for key in report["missing_keys"] if not key.startswith(heads)], begun)
    return adapters.merged(loaded, Path(source))


def _refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    raise ModelError(
        "the folder has no safetensors weights" + (", and pickled ones can run code" if pickles else ""),
        where=str(folder),
        found=pickles[0].name if pickles else "no *.safetensors",
        fix="if you trust it, write it anew with transformers: "
        "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        if pickles
        else "obtain the model again",
    )


def _refuse_missing(keys: Iterable[str], source: Path | str) -> None:
    missing = sorted(keys)
    if missing:
        raise ModelError(
            "weights are missing, and would have been drawn at random",
            where=str(source),
            found=", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            fix="obtain the complete model again",
        )


def _to(model: PreTrainedModel, device: str | torch.device, name: str) -> PreTrainedModel:
    try:
        moved: PreTrainedModel = model.to(device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            "too little memory for the weights",
            where=name,
            found=brief(error),
            fix="use a smaller model, or device=cpu",
        ) from error
    return moved
