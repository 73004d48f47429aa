"""Packed and branched attention, registered once with transformers' AttentionInterface.

Dimensions: B = rows, H = query heads, K = key-value heads, T = tokens in a row, D = head size.

A model loaded with `attn_implementation="trimtab"` hands every attention layer's queries, keys and
values to `attention`, together with the `layout` keyword that the caller gave to the model's
forward. The layout decides who sees whom: here `PackedLayout` for training and scoring, in
`rollout.cache` the layouts that read and write a key-value store. Everything else of the model
(projections, norms, rotary positions, MLPs) runs on the packed tokens as it is.

Left out on purpose: sliding windows, soft caps, attention sinks and dropout. They are refused by
name, here for what a layer asks for, and in `model.load` for what a config announces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from trimtab.data.batches import PackedRow, Span
from trimtab.errors import ModelError

NAME = "trimtab"

# Keywords that models pass along and that change nothing about who attends to whom, or how.
_HARMLESS = frozenset(
    {
        "cache_position",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


class Layout(Protocol):
    """Who attends to whom in the rows of one forward pass."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of one layer.

        Args:
            layer: the layer's number, for layouts that keep keys and values.
            query: [B, H, T, D]; key and value: [B, K, T, D], rotary positions already applied.
            scaling: what the scores are multiplied by.

        Returns:
            [B, H, T, D].
        """
        ...


@dataclass(frozen=True)
class PackedLayout:
    """Causal attention within each example; branches see their prompt and themselves, not each other."""

    spans: tuple[Span, ...]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """One scaled-dot-product call for prompt and first branch, one for each further branch."""
        exact = _computed_in(query)
        # Autocast would cast back, piece by piece.
        with torch.autocast(query.device.type, enabled=False):
            attended = self._attend(query.to(exact), key.to(exact), value.to(exact), scaling)
        return attended.to(query.dtype)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        # Split, not sliced piece by piece: the gradient of a slice is as large as the whole row.
        split = (torch.split(tensor, self._lengths, dim=2) for tensor in (query, key, value))
        pieces = zip(*split, strict=True)
        parts: list[Tensor] = []
        for span in self.spans:
            queries, keys, values = next(pieces)
            parts.append(causal(queries, keys, values, scaling))
            prompt_keys, prompt_values = keys[:, :, : span.prompt], values[:, :, : span.prompt]
            for _ in span.responses[1:]:
                queries, keys, values = next(pieces)
                keys = torch.cat([prompt_keys, keys], dim=2)
                values = torch.cat([prompt_values, values], dim=2)
                parts.append(causal(queries, keys, values, scaling))
        return torch.cat(parts, dim=2)

    @property
    def _lengths(self) -> list[int]:
        """Of the pieces: prompt and first branch together, then each further branch."""
        return [
            length
            for span in self.spans
            for length in (span.prompt + sum(span.responses[:1]), *span.responses[1:])
        ]


def _computed_in(query: Tensor) -> torch.dtype:
    """float32 for bfloat16 on a CPU, whose backward pass takes 2 to 3 times as long over short sequences.

    No slower up to 512 tokens, 20 % beyond 1,000 (docs/log.md); more exact everywhere.
    """
    on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return torch.float32 if on_cpu else query.dtype


def causal(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attention of the last Q of S positions.

    Args:
        query: [B, H, Q, D]; key and value: [B, K, S, D].

    Returns:
        [B, H, Q, D].
    """
    queries, keys = query.shape[2], key.shape[2]
    grouped = query.shape[1] != key.shape[1]
    if queries == keys:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    # is_causal aligns the triangle top left; these queries are the last positions, so bottom right.
    mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped
    )


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **features: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every attention layer: [B, H, T, D] -> [B, T, H, D].

    Raises:
        ModelError: the layer asks for something that would be computed wrongly if it were ignored.
    """
    name = f"{type(module).__name__} of layer {getattr(module, 'layer_idx', '?')}"
    if layout is None:
        raise ModelError("a model with trimtab's attention needs the layout of its rows", where=name)
    if dropout:
        raise ModelError("attention dropout is not computed", where=name, found=f"dropout = {dropout}")
    asked = {key: value for key, value in features.items() if key not in _HARMLESS and value is not None}
    if asked:
        raise ModelError(
            "this attention feature is not implemented",
            where=name,
            found=", ".join(f"{key} = {_brief(value)}" for key, value in asked.items()),
            fix="use a model with plain full attention",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = int(getattr(module, "layer_idx", 0))
    return layout.attend(layer, query, key, value, scale).transpose(1, 2).contiguous(), None


def _brief(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout says who attends to whom; transformers need not build a mask."""


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _no_mask)


def hidden_states(backbone: nn.Module, row: PackedRow) -> Tensor:
    """The backbone's last hidden states for every token of the row: [T, model size]."""
    output = backbone(
        input_ids=row.input_ids,
        position_ids=row.position_ids,
        layout=PackedLayout(row.spans),
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    return states[0]
