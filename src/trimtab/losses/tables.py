"""Gradients added to where they are kept: of tables as large as a vocabulary, and of rounded matrices.

Autograd would make each part of a table's whole: that of the head, that of the embedding, with a tied table
their sum, beside what earlier rows have left in `.grad`. Five such tensors at once were most of what a step
needed beyond weights and moments (docs/log.md). Within `adding_in_place` a part is added to `.grad` row by
row, and autograd is given none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Process:
    """A backward pass on a GPU runs in a thread of its own, so that what holds is the whole process's."""

    in_place: bool = False


_PROCESS = _Process()


@contextmanager
def adding_in_place() -> Iterator[None]:
    """Around backward passes whose gradients are read from `.grad` alone, and not by torch.autograd.grad."""
    before, _PROCESS.in_place = _PROCESS.in_place, True
    try:
        yield
    finally:
        _PROCESS.in_place = before


def kept_gradient(table: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The table's `.grad`, made if there is none; None where autograd collects.

    Args:
        dtype: of the sums that are added: a table of another one would round each of them.
    """
    if not (_PROCESS.in_place and table.is_leaf and table.dtype == dtype):
        return None
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    return table.grad
