"""Keys and values of sequences that are being sampled, and the layouts that write and read them.

Dimensions: B = rows, H = query heads, K = key-value heads, S = positions a row has room for,
T = tokens in a packed row of prompts, D = head size.

The model runs with `use_cache=False`: it knows nothing of the store. The layout, which gets every
layer's keys and values, keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.data.batches import Span
from trimtab.model.packed import PackedLayout


class Stored(NamedTuple):
    """What one layer has kept."""

    keys: Tensor  # [B, K, S, D]
    values: Tensor  # [B, K, S, D]


class KeyValueStore:
    """Room for the keys and values of B rows of S positions, layer by layer.

    A layer's room is allocated whole when the layer first asks for it: only then are its heads and
    their size known without reading the config of every kind of model.
    """

    def __init__(self, rows: int, positions: int, dtype: torch.dtype) -> None:
        self.rows = rows
        self.positions = positions
        self.dtype = dtype
        self._layers: dict[int, Stored] = {}

    def layer(self, layer: int, key: Tensor, value: Tensor) -> Stored:
        """The layer's keys and values; `key` and `value` [*, K, *, D] give heads, sizes and device."""
        if layer not in self._layers:
            self._layers[layer] = Stored(self._room(key), self._room(value))
        return self._layers[layer]

    def copy(self, of: Tensor, to: Tensor) -> None:
        """Row `to[i]` becomes what row `of[i]` is."""
        for stored in self._layers.values():
            for kept in stored:
                kept[to] = kept[of]

    def _room(self, like: Tensor) -> Tensor:
        # Zeros: a masked position weighs 0, and 0 times what uninitialised memory holds may be NaN.
        return like.new_zeros(self.rows, like.shape[1], self.positions, like.shape[3], dtype=self.dtype)


@dataclass(frozen=True)
class PrefillLayout:
    """Whole prompts, packed in one row: causal attention within each, whose keys and values are kept."""

    store: KeyValueStore
    spans: tuple[Span, ...]
    rows: tuple[int, ...]
    """The store's row for each span."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[1, H, T, D]; key and value [1, K, T, D]."""
        stored = self.store.layer(layer, key, value)
        for row, span in zip(self.rows, self.spans, strict=True):
            tokens = slice(span.start, span.start + span.prompt)
            stored.keys[row, :, : span.prompt] = key[0, :, tokens]
            stored.values[row, :, : span.prompt] = value[0, :, tokens]
        return PackedLayout(self.spans).attend(layer, query, key, value, scaling)


class DecodeLayout:
    """One new token a row, at the end of rows of different lengths.

    Args:
        store: whose first B rows are the batch.
        lengths: [B] positions that each row has filled; the new token is written after them.
    """

    def __init__(self, store: KeyValueStore, lengths: Tensor) -> None:
        self._store = store
        self._lengths = lengths
        self._rows = torch.arange(len(lengths), device=lengths.device)
        self._reach = int(lengths.max()) + 1
        positions = torch.arange(self._reach, device=lengths.device)
        self._mask = (positions <= lengths[:, None])[:, None, None]  # [B, 1, 1, reach]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[B, H, 1, D]; key and value [B, K, 1, D]."""
        stored = self._store.layer(layer, key, value)
        stored.keys[self._rows, :, self._lengths] = key[:, :, 0].to(self._store.dtype)
        stored.values[self._rows, :, self._lengths] = value[:, :, 0].to(self._store.dtype)
        # The H / K query heads that share a key head become that head's queries: nothing is expanded.
        rows, heads, _, size = query.shape
        together = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
        attended = F.scaled_dot_product_attention(
            together,
            stored.keys[:rows, :, : self._reach],
            stored.values[:rows, :, : self._reach],
            attn_mask=self._mask,
            scale=scaling,
        )
        return attended.reshape(rows, heads, 1, -1)
