"""AdamW with its two moments in float32, or in 8 bits a value.

8 bits: each block of 256 values keeps its largest magnitude in float32, and of each value a code of how large
it is beside that. The codes lie close together near 0 and far apart near 1, over seven powers of ten. Left
out on purpose: a compiled kernel. torchao's took 48 seconds to compile and 5 seconds a step for 135 million
weights on one CPU core; tables and pieces that stay in the cache take 1.4 (docs/log.md).

Source: Dettmers et al. 2022, arXiv:2110.02861, section 2 (the map without its sparse and stable embedding
parts).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from trimtab.train.settings import OptimizerSettings

BLOCK = 256
"""Values that share a scale."""
EIGHT_BIT_FROM = 4096
"""Values that a tensor must have, in whole blocks, to be kept in 8 bits; others stay float32."""
PIECE = 1 << 18
"""Values that are worked on at once: 1 MB of float32, which stays in the cache."""
SIGNED = {"exp_avg": True, "exp_avg_sq": False}
"""The moments, and whether they have a sign."""


def adamw(parameters: Iterable[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over the parameters; matrices decay, biases and norms do not."""
    every = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    if settings.moments == "8bit":
        return EightBitAdamW(groups, settings)
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True)


def moment_bytes(parameters: Iterable[Tensor], settings: OptimizerSettings) -> int:
    """What both moments of all the parameters take, once the first step is done."""
    in_codes = 1 + 4 / BLOCK
    return round(
        sum(
            2 * parameter.numel() * (in_codes if _in_codes(parameter, settings) else 4)
            for parameter in parameters
        )
    )


def as_tensors(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moments of named parameters, as `NAME/KEY`, for a checkpoint."""
    return {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if key != "step"
    }


def restore(
    optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], tensors: Mapping[str, Tensor], steps: int
) -> None:
    """Take the moments from what `as_tensors` gave after so many steps."""
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        if name in named:
            state = optimizer.state[named[name]]
            state[key] = value.to(named[name].device)
            state.setdefault("step", torch.tensor(float(steps), device=named[name].device))


class EightBitAdamW(torch.optim.Optimizer):
    """AdamW whose moments lie in codes between two steps; the step itself is computed in float32."""

    def __init__(self, groups: list[dict[str, Any]], settings: OptimizerSettings) -> None:
        super().__init__(groups, {"lr": settings.learning_rate})
        self._settings = settings

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])

    def _move(self, parameter: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state |= _no_moments(parameter, self._settings)
        state["step"] += 1
        weights, gradient = parameter.view(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        steps = float(state["step"])
        for first in range(0, weights.numel(), PIECE):
            piece = slice(first, min(first + PIECE, weights.numel()))
            mean, square = (_read(state, key, piece) for key in SIGNED)
            self._move_piece(weights[piece], gradient[piece], mean, square, steps, rate, decay)
            _write(state, "exp_avg", piece, mean)
            _write(state, "exp_avg_sq", piece, square)

    def _move_piece(
        self,
        weights: Tensor,
        gradient: Tensor,
        mean: Tensor,
        square: Tensor,
        steps: float,
        rate: float,
        decay: float,
    ) -> None:
        """Moments and weights, in place."""
        beta1, beta2 = self._settings.beta1, self._settings.beta2
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = square.sqrt().div_((1 - beta2**steps) ** 0.5).add_(self._settings.epsilon)
        weights.mul_(1 - rate * decay).addcdiv_(mean, root, value=-rate / (1 - beta1**steps))


def _in_codes(parameter: Tensor, settings: OptimizerSettings) -> bool:
    size = parameter.numel()
    return settings.moments == "8bit" and size >= EIGHT_BIT_FROM and size % BLOCK == 0


def _no_moments(parameter: Tensor, settings: OptimizerSettings) -> dict[str, Tensor]:
    state = {"step": torch.zeros((), device=parameter.device)}
    size = parameter.numel()
    for key, signed in SIGNED.items():
        if _in_codes(parameter, settings):
            zero = code_values(signed=signed).index(0.0)
            state[f"{key}_codes"] = torch.full((size,), zero, dtype=torch.uint8, device=parameter.device)
            state[f"{key}_scales"] = torch.zeros(size // BLOCK, device=parameter.device)
        else:
            state[key] = torch.zeros(size, device=parameter.device)
    return state


def _read(state: Mapping[str, Tensor], key: str, piece: slice) -> Tensor:
    """A piece of a moment in float32: a copy of what lies in codes, else the moment itself."""
    if key in state:
        return state[key][piece]
    codes, scales = state[f"{key}_codes"][piece], state[f"{key}_scales"][_blocks(piece)]
    return decoded(codes, scales, signed=SIGNED[key])


def _write(state: Mapping[str, Tensor], key: str, piece: slice, values: Tensor) -> None:
    if key not in state:
        codes, scales = encoded(values, signed=SIGNED[key])
        state[f"{key}_codes"][piece] = codes
        state[f"{key}_scales"][_blocks(piece)] = scales


def _blocks(piece: slice) -> slice:
    return slice(piece.start // BLOCK, piece.stop // BLOCK)


def encoded(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes and scales of whole blocks of float32 values: uint8 [n], float32 [n / BLOCK].

    The nearest code is looked up by the first 16 bits of the float32, rounded: near enough, because the codes
    are further apart than that.
    """
    blocks = values.view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1)
    relative = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1)
    place = relative.bfloat16().view(torch.int16).view(-1).int() & 0xFFFF
    return _nearest_codes(signed).to(values.device).index_select(0, place), scales


def decoded(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The float32 values that codes and scales stand for: [n]."""
    values = _code_tensor(signed).to(codes.device).index_select(0, codes.int())
    return values.view(-1, BLOCK).mul_(scales.unsqueeze(1)).view(-1)


@lru_cache
def code_values(*, signed: bool) -> tuple[float, ...]:
    """What each of the 256 codes stands for, ascending, from -1 or 0 to 1.

    Seven powers of ten, each with twice as many evenly spaced values as the one below it; 0 and 1 besides.
    """
    values = [0.0, 1.0]
    for power in range(7):
        steps = 2**power if signed else 2 ** (power + 1)
        bounds = [0.1 + 0.9 * step / steps for step in range(steps + 1)]
        middles = [10.0 ** (power - 6) * (low + high) / 2 for low, high in pairwise(bounds)]
        values += middles + [-value for value in middles] if signed else middles
    return tuple(sorted(values))


@lru_cache
def _code_tensor(signed: bool) -> Tensor:
    return torch.tensor(code_values(signed=signed))


@lru_cache
def _nearest_codes(signed: bool) -> Tensor:
    """For the first 16 bits of each float32, the code nearest to it: [65536] uint8."""
    values = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    known = _code_tensor(signed)
    between = (known[1:] + known[:-1]) / 2
    return torch.bucketize(values.nan_to_num(), between).to(torch.uint8)
