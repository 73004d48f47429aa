"""How errors are measured: the largest of several, and derivatives by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SMOOTH = 1e-9
"""Allowed for `slope` at a step of 1e-3: 3e-14 of the fifth derivative, which is below 1e4 here."""


def largest(*errors: Tensor) -> float:
    """The largest absolute value in any of them; NaN if there is one."""
    return float(torch.stack([error.detach().abs().max() for error in errors]).max())


def beyond(values: Tensor, limit: Tensor | float) -> Tensor:
    """By how much each value exceeds its limit; 0 where it does not."""
    return (values - limit).clamp(min=0)


def slope(function: Callable[[float], Tensor], at: float, *, step: float) -> Tensor:
    """The derivative by central differences of fourth order.

    Off by step^4/30 of the fifth derivative, and by rounding: 1e-16 of the function over the step.
    """
    near = function(at + step) - function(at - step)
    far = function(at + 2 * step) - function(at - 2 * step)
    return (8 * near - far) / (12 * step)
