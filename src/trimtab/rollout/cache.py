"""Keys and values of sequences that are being sampled, and the layouts that write and read them.

Dimensions: B = rows, H = query heads, K = key-value heads, S = positions a row has room for,
T = tokens in a packed row of prompts, D = head size.

The model runs with `use_cache=False`: it knows nothing of the store. The layout, which gets every
layer's keys and values, keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.data.batches import Span
from trimtab.model.packed import PackedLayout

SHORT = 128
"""Tokens of the longest prompt of a row up to which prompts of one length are read as a batch on a CPU: there
the number of calls is what takes time."""


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
        for run in self._runs:
            stored.keys[run.rows, :, : run.length] = run.of(key).to(self.store.dtype)
            stored.values[run.rows, :, : run.length] = run.of(value).to(self.store.dtype)
        if query.device.type != "cpu" or max(run.length for run in self._runs) > SHORT:
            return self._packed.attend(layer, query, key, value, scaling)
        with torch.autocast("cpu", enabled=False):
            found = [_causal(run.of(query), run.of(key), run.of(value), scaling) for run in self._runs]
        return torch.cat([one.transpose(0, 1).flatten(1, 2) for one in found], dim=1).unsqueeze(0)

    @cached_property
    def _packed(self) -> PackedLayout:
        return PackedLayout(self.spans)

    @cached_property
    def _runs(self) -> list[_Run]:
        """The prompts, neighbours of one length together."""
        numbered = list(zip(self.spans, self.rows, strict=True))
        groups = [list(group) for _, group in groupby(numbered, key=lambda one: one[0].prompt)]
        return [
            _Run(group[0][0].start, group[0][0].prompt, torch.tensor([row for _, row in group]))
            for group in groups
        ]


@dataclass(frozen=True)
class _Run:
    """Neighbouring prompts of one length: read together, which for short ones is most of the time."""

    start: int
    length: int
    rows: Tensor  # [n] of the store

    def of(self, packed: Tensor) -> Tensor:
        """[1, H, T, D] -> [n, H, length, D]."""
        tokens = slice(self.start, self.start + len(self.rows) * self.length)
        _, heads, _, size = packed.shape
        return packed[0, :, tokens].reshape(heads, len(self.rows), self.length, size).transpose(0, 1)


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """[n, H, T, D], in the arithmetic of the queries: float32 as they come from their rotary angles."""
    key, value = key.to(query.dtype), value.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)


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
