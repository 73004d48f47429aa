"""Log-probabilities of response tokens from hidden states, without keeping logits.

Dimensions: N = response tokens, D = model size, V = vocabulary. Unit: nats. Logits are computed in
float32 tile by tile, and again in the backward pass, so that memory is a tile and not [N, V].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE = 512
"""Tokens whose logits exist at the same time: 100 MB of float32 for a vocabulary of 50,000."""


def token_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """log p(target) under softmax((hidden @ weight.T + bias) / temperature).

    Args:
        hidden: [N, D] states at the positions that predict the targets.
        weight: [V, D] and bias: [V] of the model's vocabulary projection.
        targets: [N] token ids.
        temperature: > 0; the one that the tokens were sampled with, or PPO's ratios start off 1.

    Returns:
        [N] float32, nats.
    """
    _check_temperature(temperature)

    def tile(states: Tensor, ids: Tensor) -> Tensor:
        logits = _logits(states, weight, bias, temperature)
        return -F.cross_entropy(logits, ids, reduction="none")

    return _tiled(tile, hidden, targets)


def token_kl(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other_hidden: Tensor,
    other_weight: Tensor,
    other_bias: Tensor | None,
) -> Tensor:
    """KL(p || q) over the whole vocabulary at each position: p from hidden, q from other_hidden.

    Summed along sampled responses, this estimates the sequence KL without bias and with less
    variance than log-ratios of the sampled tokens (chain rule; docs/math.md#kl-exact).

    Returns:
        [N] float32, nats, >= 0.
    """

    def tile(states: Tensor, other_states: Tensor) -> Tensor:
        p = F.log_softmax(_logits(states, weight, bias, 1.0), dim=-1)
        q = F.log_softmax(_logits(other_states, other_weight, other_bias, 1.0), dim=-1)
        return (p.exp() * (p - q)).sum(-1)

    return _tiled(tile, hidden, other_hidden)


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):  # bf16 logits would carry errors of 0.05 nats
        logits = F.linear(states.float(), weight.float(), None if bias is None else bias.float())
    return logits if temperature == 1.0 else logits / temperature


def _tiled(tile: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    parts = []
    for start in range(0, len(first), TILE):
        piece = slice(start, start + TILE)
        if torch.is_grad_enabled() and first.requires_grad:
            parts.append(checkpoint(tile, first[piece], second[piece], use_reentrant=False))
        else:
            parts.append(tile(first[piece], second[piece]))
    return torch.cat(parts) if parts else first.new_zeros(0, dtype=torch.float32)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:  # written so that NaN is refused too
        raise ValueError(f"temperature must be > 0, got {temperature}")
