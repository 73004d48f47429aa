"""Gradients of a whole model as one vector, slopes along a direction, and Newton's method.

Dimensions: P = parameters of a model, end to end; M = numbers in a table. Meant for float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from trimtab.lab.properties.measures import slope

STEP = 3e-4
"""Of a finite difference along a direction of length 1 in parameters."""

ALONG = 1e-9
"""Allowed for `slope_along`: STEP^4 / 30 = 3e-16 of a fifth derivative of some 1e5, and rounding."""


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    """d value / d parameters: [P], 0 for a parameter that the value does not depend on.

    The graph of the value is kept, so that several values may share it.
    """
    parts = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return parameters_to_vector(parts).cpu()


@torch.no_grad()
def slope_along(direction: Tensor, value: Callable[[], Tensor], model: nn.Module) -> Tensor:
    """The derivative of value() as the parameters move along the direction [P]; they are put back after."""
    parameters = list(model.parameters())
    start = parameters_to_vector(parameters).clone()

    def at(distance: float) -> Tensor:
        vector_to_parameters(start + distance * direction.to(start.device), parameters)
        return value()

    found = slope(at, 0.0, step=STEP)
    vector_to_parameters(start, parameters)
    return found


def directions(steepest: Tensor, *, count: int) -> list[Tensor]:
    """Directions of length 1 to try a gradient [P] along: its own, and `count` random ones."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(steepest.shape, generator=generator, dtype=steepest.dtype) for _ in range(count)]
    return [one / one.norm() for one in (steepest, *drawn)]


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor, *, steps: int) -> Tensor:
    """Where a convex loss of a table [M] is smallest, by Newton's method; each step doubles the digits.

    Directions in which the loss is flat, such as a constant added to all numbers, are left alone.
    """
    at = start
    for _ in range(steps):
        at = at.detach().requires_grad_()
        (downhill,) = torch.autograd.grad(loss(at), at, create_graph=True)
        rows = [torch.autograd.grad(one, at, retain_graph=True)[0] for one in downhill]
        downhill, curvature = downhill.detach(), torch.stack(rows)
        # Far above the rounding of a flat direction's curvature, far below that of any other here.
        at = at.detach() - torch.linalg.pinv(curvature, hermitian=True, rtol=1e-12) @ downhill
    return at
