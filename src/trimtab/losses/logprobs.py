"""Log-probabilities of response tokens from hidden states, without keeping logits.

Dimensions: N = response tokens, D = model size, V = vocabulary. Unit: nats. Logits are computed in
float32 (float64 for a float64 model) tile by tile, and again in the backward pass, so that memory is
a tile and not [N, V].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trimtab.losses.kl import full_kl

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


def token_logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and beside them the entropy of the distribution that each target was drawn from.

    Returns:
        Two times [N] float32, nats; the entropy from 0 to log V. Both have gradients.
    Source: derived in docs/math.md#entropy.
    """
    _check_temperature(temperature)

    def tile(states: Tensor, ids: Tensor) -> Tensor:
        p = F.log_softmax(_logits(states, weight, bias, temperature), dim=-1)
        return torch.stack((p.gather(1, ids.unsqueeze(1)).squeeze(1), -(p.exp() * p).sum(-1)), dim=1)

    logprobs, entropy = _tiled(tile, hidden, targets).unbind(1)
    return logprobs, entropy


def token_kl(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other_hidden: Tensor,
    other_weight: Tensor,
    other_bias: Tensor | None,
) -> Tensor:
    """KL(p || q) over the whole vocabulary at each position: p from hidden, q from other_hidden.

    Summed along sampled responses, this estimates the sequence KL without bias and, short of
    contrived cases, with less variance than log-ratios of the sampled tokens (chain rule;
    docs/math.md#kl-exact).

    Returns:
        [N] float32, nats, >= 0.
    """

    def tile(states: Tensor, other_states: Tensor) -> Tensor:
        p = F.log_softmax(_logits(states, weight, bias, 1.0), dim=-1)
        q = F.log_softmax(_logits(other_states, other_weight, other_bias, 1.0), dim=-1)
        return full_kl(p, q)

    return _tiled(tile, hidden, other_hidden)


@torch.no_grad()
def token_likeness(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log p(target) - log sum_v p(v)^2: how typical each token is of what the model would sample.

    The second term is the log of a sampled token's expected probability, so e^likeness is 1 on average
    over the model's own samples.

    Returns:
        [N] float32, nats, without gradient.
    Source: Zhou et al. 2024 (WPO), arXiv:2406.11827, section 3.2. Derived in docs/math.md#wpo.
    """

    def tile(states: Tensor, ids: Tensor) -> Tensor:
        p = F.log_softmax(_logits(states, weight, bias, 1.0), dim=-1)
        return p.gather(1, ids.unsqueeze(1)).squeeze(1) - torch.logsumexp(2 * p, dim=-1)

    return _tiled(tile, hidden, targets)


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    exact = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(states.device.type, enabled=False):  # bf16 logits would carry errors of 0.05 nats
        logits = F.linear(states.to(exact), weight.to(exact), None if bias is None else bias.to(exact))
    return logits if temperature == 1.0 else logits / temperature


def _tiled(tile: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    parts = []
    for start in range(0, max(1, len(first)), TILE):
        piece = slice(start, start + TILE)
        if torch.is_grad_enabled() and first.requires_grad:
            parts.append(checkpoint(tile, first[piece], second[piece], use_reentrant=False))
        else:
            parts.append(tile(first[piece], second[piece]))
    return torch.cat(parts)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:  # written so that NaN is refused too
        raise ValueError(f"temperature must be > 0, got {temperature}")
