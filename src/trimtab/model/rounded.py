"""Weights in the arithmetic of the forward pass, rounded once for several passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Process:
    kept: dict[Tensor, Tensor] | None = None
    """By weight; a tensor's hash is its identity. None: nothing is kept."""


_PROCESS = _Process()


@contextmanager
def rounding_once(weights: Iterable[Tensor], dtype: torch.dtype) -> Iterator[None]:
    """Around passes between which no weight moves.

    All are rounded here and now: made one by one between the activations of the first row, they would leave
    holes that the activations of the next do not fit into.
    """
    before = _PROCESS.kept
    _PROCESS.kept = {weight: weight.detach().to(dtype) for weight in weights}
    try:
        yield
    finally:
        _PROCESS.kept = before


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in this type, without its gradient's history."""
    kept = _PROCESS.kept
    found = None if kept is None else kept.get(weight)
    return weight.detach().to(dtype) if found is None or found.dtype != dtype else found
