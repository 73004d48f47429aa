"""GGUF files, read by transformers and made into ordinary models and tokenizers.

Two traps are closed here. transformers marks a model that came from a GGUF file as quantized and
then refuses to save it: the weights move into a fresh model of the same config. And it knows how to
split text for some of the pre-tokenizers that a file may name, and silently falls back to GPT-2's
for the others: those whose split is known are set right, the rest are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.integrations.gguf import gguf_tokenizer_mapping
from transformers.integrations.gguf.reader import read_gguf_metadata

from trimtab.errors import ModelError
from trimtab.model.reading import reading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Each digit alone, then GPT-2's split. Source: llama.cpp, llama-vocab.cpp, regex_exprs.
_DIGITS_ALONE = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
# GPT-2's split as it is, which is transformers' fallback. Same source; "default" and nothing at all
# come from files that are older than the field.
_GPT2 = frozenset(
    {"", "default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling"}
)

# What transformers splits right by itself; before 5.18 or so it looked at Qwen2's architecture only.
_TRANSFORMERS = frozenset(getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", {"qwen2"}))

_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def load_config(path: Path) -> PretrainedConfig:
    """The model's config, rebuilt from the file's header."""
    with reading("the GGUF header", path):
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    vars(config).pop("_model_name_or_path", None)  # the header's title; it is no path
    config.name_or_path = str(path)
    return config


def load_model(path: Path, config: PretrainedConfig, *, attention: str) -> PreTrainedModel:
    """A fresh float32 model of `config` with the file's dequantized weights; it can be saved.

    Raises:
        ModelError: the file cannot be read, or lacks weights that the model needs.
    """
    with reading("the GGUF file", path):
        read, report = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    if report["missing_keys"]:
        raise ModelError(
            "weights are missing",
            where=str(path),
            found=", ".join(sorted(report["missing_keys"])[:3]),
            fix="use a complete GGUF file, or the model's safetensors folder",
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    model.load_state_dict(read.state_dict())
    return model


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The file's tokenizer, splitting text as the file says.

    Raises:
        ModelError: the file names a pre-tokenizer whose split is not known; its ids would be wrong.
    """
    with reading("the GGUF header", path):
        metadata, _ = read_gguf_metadata(str(path))
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if metadata.get("tokenizer.ggml.model") == "gpt2":
        _set_split(tokenizer, str(metadata.get("tokenizer.ggml.pre", "")), path)
    for role, key in _ROLES.items():  # older transformers give SmolLM2 its begin token as end token
        if (number := metadata.get(f"tokenizer.ggml.{key}")) is not None:
            setattr(tokenizer, role, tokenizer.convert_ids_to_tokens(int(number)))
    tokenizer.name_or_path = str(path)
    context = metadata.get(f"{metadata['general.architecture']}.context_length")
    if context:
        tokenizer.model_max_length = int(context)
    return tokenizer


def _set_split(tokenizer: Any, name: str, path: Path) -> None:
    if name in _DIGITS_ALONE:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif name not in _GPT2 and name not in _TRANSFORMERS:
        raise ModelError(
            "how this GGUF file's tokenizer splits text is not known, so its token ids would be wrong",
            where=str(path),
            found=f"tokenizer.ggml.pre = {name}",
            fix="use the model's safetensors folder or hub id",
        )
