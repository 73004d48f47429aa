"""Norms, matrices, gated feed-forward parts and embeddings of transformers' models, with less memory.

Dimensions: D = model size, V = entries of a table.

What transformers computes stays what it is; four things change. A norm gives its result in the arithmetic of
the projections that read it, once, where each would otherwise round it for itself and keep its own copy. What
the backward pass can compute again cheaply is not kept. Gradients of rounded matrices and of embeddings can
be added where they are kept (`losses.tables`). And matrices are rounded before the first of several rows
(`model.rounded`).

A norm or gated part is replaced only if it gives the same values as its own code on random numbers, so that a
model family with another norm keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trimtab.losses.tables import kept_gradient
from trimtab.model.rounded import rounded

TOLERANCE = 1e-5
"""Relative and absolute, in float32: what two orders of the same sums may differ by."""

NEXT_TO_ZERO = 1e-30
"""Far below what a sum notices, and far above the least number of float32 and bfloat16."""

Model = TypeVar("Model", bound=nn.Module)
Forward = Callable[[nn.Module, Tensor], Tensor]


def fuse(model: Model) -> Model:
    """Replace what can be replaced in the decoder's blocks, and its embeddings; gives the model back.

    Norms outside the blocks stay: what the last one gives is read in float32.
    """
    for part in model.modules():
        if type(part) is nn.Embedding and not (part.max_norm or part.scale_grad_by_freq):
            vars(part)["forward"] = MethodType(_embedding_forward, part)
        if isinstance(part, nn.ModuleList):
            for module in part.modules():
                _fuse_one(module)
    return model


def rounded_weights(model: nn.Module) -> Iterator[Tensor]:
    """The weights that passes with gradients round."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) is _linear_forward:
            yield cast(Tensor, module.weight)


def _fuse_one(module: nn.Module) -> None:
    if type(module) is nn.Linear:
        vars(module)["forward"] = MethodType(_linear_forward, module)
    elif hasattr(module, "variance_epsilon") and _parameters(module) == {"weight"}:
        _replace(module, _norm_forward, cast(Tensor, module.weight).shape[0])
    elif {"gate_proj", "up_proj", "down_proj", "act_fn"} <= set(dict(module.named_children())):
        _replace(module, _gated_forward, cast(nn.Linear, module.gate_proj).in_features)


def _parameters(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


def _replace(module: nn.Module, forward: Forward, width: int) -> None:
    """Give the module this forward pass if both give the same."""
    weight = next(module.parameters())
    if weight.dtype != torch.float32 or weight.device.type == "meta":
        return
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(4, width, generator=generator).to(weight.device)
    with torch.no_grad():
        expected, found = module(probe), forward(module, probe)
    if torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        module.forward = MethodType(forward, module)


def _norm_forward(module: Any, hidden: Tensor) -> Tensor:
    dtype = _read_in(hidden)
    found: Tensor = _RootMeanSquareNorm.apply(  # type: ignore[no-untyped-call]
        hidden, module.weight, module.variance_epsilon, dtype
    )
    return found


def _linear_forward(module: Any, hidden: Tensor) -> Tensor:
    dtype = _read_in(hidden)
    if dtype == module.weight.dtype or not torch.is_grad_enabled():
        return F.linear(hidden, module.weight, module.bias)
    found: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
        hidden.to(dtype), module.weight, module.bias, dtype
    )
    return found


def _gated_forward(module: Any, hidden: Tensor) -> Tensor:
    gate, up = module.gate_proj(hidden), module.up_proj(hidden)
    found: Tensor = module.down_proj(_SiluProduct.apply(gate, up))  # type: ignore[no-untyped-call]
    return found


def _embedding_forward(module: Any, ids: Tensor) -> Tensor:
    found: Tensor = _Entries.apply(module.weight, ids, module.padding_idx)  # type: ignore[no-untyped-call]
    return found


def _read_in(hidden: Tensor) -> torch.dtype:
    """The arithmetic of the projections behind a norm."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class _RootMeanSquareNorm(torch.autograd.Function):
    """y = w n with n = x / sqrt(mean(x^2) + epsilon), over the last dimension.

    With r = 1 / sqrt(...) and gradient g: by w it is the sum of g n, by x it is r (w g - n mean(w g n)).
    y is kept in place of x, because the projections behind the norm keep it too, and n = y / w. That n is not
    lost behind a weight of zero, such a weight counts as `NEXT_TO_ZERO`.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = hidden.to(weight.dtype)
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        found = (wide * scale).mul_(_divisor(weight)).to(dtype)
        ctx.save_for_backward(found, weight, scale)
        ctx.dtype = hidden.dtype
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        found, weight, scale = ctx.saved_tensors
        gradient = gradient.to(weight.dtype)
        normed = found / _divisor(weight)
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = (gradient * normed).flatten(0, -2).sum(0)
        above = gradient * weight
        along = (above * normed).mean(-1, keepdim=True)
        return above.addcmul_(normed, along, value=-1).mul_(scale).to(ctx.dtype), by_weight, None, None


def _divisor(weight: Tensor) -> Tensor:
    return weight.masked_fill(weight == 0, NEXT_TO_ZERO)


class _SiluProduct(torch.autograd.Function):
    """silu(gate) * up; keeps both and computes silu again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        by_up = F.silu(gate).mul_(gradient)
        by_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return by_gate, by_up


class _Product(torch.autograd.Function):
    """x W' + b, with a weight that is rounded to the type of x.

    Left to autocast, rounding W is a step of the graph that all rows of a step share. Autograd takes the
    youngest step first, so that from the second row on it would hold the gradients by all rounded weights
    until the row is done. Here each is added to `.grad` at once.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.rounded, ctx.biased = rounded(weight, dtype), bias is not None
        ctx.save_for_backward(hidden, weight)
        return F.linear(hidden, ctx.rounded, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        by_hidden = by_weight = by_bias = None
        if ctx.needs_input_grad[1]:
            by_weight = gradient.flatten(0, -2).t() @ hidden.flatten(0, -2)
            kept = kept_gradient(weight, torch.float32)
            if kept is not None:
                kept.add_(by_weight)
                by_weight = None
        if ctx.biased and ctx.needs_input_grad[2]:
            by_bias = gradient.flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            by_hidden = gradient @ ctx.rounded
        return by_hidden, by_weight, by_bias, None


class _Entries(torch.autograd.Function):
    """Entries of a table [V, D] by number; the one for padding has no gradient, as in torch."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(table, ids)
        ctx.padding = padding
        return F.embedding(ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        table, ids = ctx.saved_tensors
        kept = kept_gradient(table, gradient.dtype)
        if kept is None:
            padding = -1 if ctx.padding is None else ctx.padding
            whole = torch.ops.aten.embedding_dense_backward(gradient, ids, len(table), padding, False)
            return whole, None, None
        if ctx.padding is not None:
            gradient = gradient.masked_fill((ids == ctx.padding).unsqueeze(-1), 0)
        kept.index_put_((ids,), gradient, accumulate=True)
        return None, None, None
