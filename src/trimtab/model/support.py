"""What trimtab's attention does not compute, refused by name before any weight is read.

trimtab computes plain causal attention through transformers' AttentionInterface and applies the
vocabulary projection itself, to chosen positions only. So anything that changes who attends to
whom, changes the scores, mixes tokens in another way, or comes after the projection would be left
out silently. Each is named here; `model.packed` refuses the same things once more, layer by layer.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from trimtab.errors import ModelError

FULL = "full_attention"


@dataclass(frozen=True)
class Unsupported:
    """One thing that the model asks for and trimtab does not compute."""

    feature: str
    found: str
    fix: str = ""


# Config fields that are in force unless they hold one of the neutral values.
_NEUTRAL: tuple[Any, ...] = (None, False, 0, 0.0, [], ())
_FIELDS = {
    "attn_logit_softcapping": ("soft-capped attention scores", _NEUTRAL),
    "final_logit_softcapping": ("soft-capped logits", _NEUTRAL),
    "logits_soft_cap": ("soft-capped logits", _NEUTRAL),
    "logit_scale": ("scaled logits", (None, 1, 1.0)),
    "logits_scaling": ("scaled logits", (None, 1, 1.0)),
    "lm_head_multiplier": ("scaled logits", (None, 1, 1.0)),
    "add_cross_attention": ("cross attention", _NEUTRAL),
    "cross_attention_layers": ("cross attention", _NEUTRAL),
    "alibi": ("ALiBi position biases", _NEUTRAL),
    "use_bidirectional_attention": ("attention to later tokens", _NEUTRAL),
    "keep_window_size": ("a dynamic attention mask", _NEUTRAL),
}

# Config fields by which hybrid models say which layers are attention and which are something else.
_HYBRID_FIELDS = (
    "layers_block_type",
    "attn_layer_indices",
    "attn_layer_period",
    "full_attention_interval",
    "full_attn_idxs",
    "hybrid_override_pattern",
)


def refuse_unsupported(config: PretrainedConfig) -> None:
    """Pass a config whose model trimtab computes exactly; refuse every other one.

    Raises:
        ModelError: names each feature, the config field and its value, and what to use instead.
    """
    reasons = _reasons(config)
    if not reasons:
        return
    features = list(dict.fromkeys(reason.feature for reason in reasons))
    fixes = [reason.fix for reason in reasons if reason.fix]
    raise ModelError(
        f"the model uses what trimtab does not compute: {', '.join(features)}",
        where=config.name_or_path or config.model_type,
        found="; ".join(reason.found for reason in reasons),
        fix=fixes[0] if fixes else "use a plain decoder: Llama, Qwen2, Qwen3, SmolLM2, GPT-2 ...",
    )


def is_supported(config: PretrainedConfig) -> bool:
    """Whether trimtab computes the model exactly."""
    return not _reasons(config)


def _reasons(config: PretrainedConfig) -> list[Unsupported]:
    text: PretrainedConfig = config.get_text_config(decoder=True)
    return _kind(config) or [
        *_mixers(text),
        *_sliding_window(text),
        *_fields(text),
        *_model_code(config),
    ]


def _kind(config: PretrainedConfig) -> list[Unsupported]:
    """Models that are no causal decoders at all."""
    kind = f"model_type = {config.model_type}"
    if getattr(config, "is_encoder_decoder", False):
        return [Unsupported("an encoder and a decoder", f"is_encoder_decoder = True ({kind})")]
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return [Unsupported("an encoder that sees later tokens", kind)]
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return [Unsupported("no causal language model", kind)]
    return []


def _mixers(config: PretrainedConfig) -> list[Unsupported]:
    """Layers that are not full attention: convolutions, state spaces, linear, chunked or local attention."""
    layer_types = list(getattr(config, "layer_types", None) or [])
    others = sorted(set(layer_types) - {FULL, "sliding_attention"})
    if others:
        count = sum(kind in others for kind in layer_types)
        found = f"layer_types has {', '.join(others)} in {count} of {len(layer_types)} layers"
        return [Unsupported("layers that are not full attention", found)]
    return [
        Unsupported("layers that are not full attention", f"{name} = {_short(value)}")
        for name in _HYBRID_FIELDS
        if (value := getattr(config, name, None)) and not layer_types
    ]


def _sliding_window(config: PretrainedConfig) -> list[Unsupported]:
    layer_types = list(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in layer_types:
        count = layer_types.count("sliding_attention")
        found = f"sliding_window = {window} in {count} of {len(layer_types)} layers (layer_types)"
        return [Unsupported("sliding-window attention", found, "use a model with full attention")]
    if layer_types or not window or getattr(config, "use_sliding_window", None) is False:
        return []
    fix = (
        "use a model with full attention, or, if no sequence is ever longer than "
        f"{window} tokens, set sliding_window to null in config.json: up to there it is the same"
    )
    return [Unsupported("sliding-window attention", f"sliding_window = {window}", fix)]


def _fields(config: PretrainedConfig) -> list[Unsupported]:
    return [
        Unsupported(feature, f"{name} = {_short(value)}")
        for name, (feature, neutral) in _FIELDS.items()
        if (value := getattr(config, name, None)) not in neutral
    ]


def _model_code(config: PretrainedConfig) -> list[Unsupported]:
    """What only the model's class tells: recurrent state, attention of its own, attention sinks."""
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    kind = f"model_type = {config.model_type}"
    reasons = []
    if model._is_stateful:
        reasons.append(Unsupported("a recurrent state beside attention", kind))
    if not model._supports_attention_backend:
        found = f"{kind}: {model.__name__} does not call AttentionInterface"
        reasons.append(Unsupported("attention in code of its own, such as ALiBi", found))
    # No config field announces sinks; layers that have them pass them on under this name.
    if "s_aux" in inspect.getsource(sys.modules[model.__module__]):
        reasons.append(Unsupported("attention sinks", f"{kind}: its layers pass s_aux"))
    return reasons


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
