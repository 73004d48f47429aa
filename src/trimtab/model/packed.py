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

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from trimtab.data.batches import PackedRow, Span
from trimtab.errors import ModelError
from trimtab.model import products, varlen

NAME = "trimtab"
Made = TypeVar("Made")

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
        """Of each example by itself, in the arithmetic of the values."""
        if query.device.type == "cpu":
            # Autocast would compute the softmax apart, and cast piece by piece.
            with torch.autocast("cpu", enabled=False):
                plan = self._blocks(value.dtype)
                return products.attend(query[0], key[0], value[0], plan, scaling).unsqueeze(0)
        return varlen.attend(query, key, value, self._pieces(query.device), scaling)

    def _blocks(self, dtype: torch.dtype) -> list[products.Block]:
        """Made once for all layers."""
        return self._made(("blocks", dtype), lambda: products.blocks(self.spans, dtype))

    def _pieces(self, device: torch.device) -> varlen.Plan:
        """Made once for all layers."""
        return self._made(("pieces", device), lambda: varlen.plan(self.spans, device))

    def _made(self, key: tuple[object, ...], make: Callable[[], Made]) -> Made:
        if key not in self._plans:
            self._plans[key] = make()
        made: Made = self._plans[key]
        return made

    @cached_property
    def _plans(self) -> dict[tuple[object, ...], Any]:
        return {}


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
