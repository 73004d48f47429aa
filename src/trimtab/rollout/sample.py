"""Logits to tokens: pure functions, the random numbers given.

Dimensions: B = rows, V = vocabulary. Unit: nats.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.errors import ModelError

FIRST_LOOK = 256
"""Likeliest tokens in which the nucleus is first looked for: most lie within, and sorting all V is slow."""


class Drawn(NamedTuple):
    """One token a row."""

    tokens: Tensor  # [B]
    logprobs: Tensor  # [B] float64 nats under softmax(logits / temperature), before top_p cuts the tail


def draw(logits: Tensor, uniforms: Tensor, *, temperature: float, top_p: float) -> Drawn:
    """The token that each row's uniform number picks, and its log-probability.

    Args:
        logits: [B, V] float32.
        uniforms: [B] float64 in [0, 1).
        temperature: divides the logits; at 0 the likeliest token is taken, and its log-probability
            is that under the plain softmax.
        top_p: in (0, 1]; see `nucleus`.

    Raises:
        ModelError: logits that are not numbers.
    """
    peak = logits.amax(-1, keepdim=True)
    if not peak.isfinite().all():
        raise ModelError(
            "the model's logits are not finite",
            found=f"a largest logit of {peak[~peak.isfinite()][0].item()}",
            fix="look at what came before: a learning rate that is too high, or overflow in half precision",
        )
    # Shifted before it is divided: nothing overflows, however small the temperature.
    shifted = logits - peak
    if temperature > 0:
        shifted /= temperature
    weights = shifted.exp()
    cumulative = _running_sums(weights)
    total = cumulative[:, -1:]
    if temperature == 0:
        tokens = logits.argmax(-1)
    elif top_p == 1:
        tokens = inverse_cdf(cumulative, uniforms)
    else:
        kept = nucleus(weights, top_p * total)
        tokens = inverse_cdf(_running_sums(kept), uniforms)
    chosen = shifted.gather(-1, tokens[:, None])
    return Drawn(tokens, (chosen - total.log())[:, 0])


def inverse_cdf(cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose cumulative weight exceeds the uniform's share of the whole: [B].

    Never a token of weight zero, at either end: its cumulative weight is that of the token before
    it, and for uniforms below 1 the share, in float64, is below the whole.

    Args:
        cumulative: [B, V] float64, running sums of weights >= 0.
        uniforms: [B] float64 in [0, 1).
    """
    share = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, share, right=True)[:, 0]


def nucleus(weights: Tensor, needed: Tensor) -> Tensor:
    """The weights with zero for all but the likeliest tokens that together reach what is needed.

    Tokens that tie with the last one kept are kept too: the choice must not depend on their ids.

    Args:
        weights: [B, V] >= 0.
        needed: [B, 1] float64, a sum of weights.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    return weights.masked_fill(weights < _smallest_kept(weights, needed, FIRST_LOOK), 0.0)


def _smallest_kept(weights: Tensor, needed: Tensor, look: int) -> Tensor:
    """The weight [B, 1] of the last token that is needed, looked for among the `look` likeliest."""
    look = min(look, weights.shape[-1])
    largest = weights.topk(look).values  # [B, look], descending
    reached = _running_sums(largest) >= needed
    # Where rounding keeps even the whole below what is needed, every token is kept.
    last = (~reached).sum(-1, keepdim=True).clamp(max=look - 1)
    smallest = largest.gather(-1, last)
    further = ~reached[:, -1]
    if look < weights.shape[-1] and further.any():
        smallest[further] = _smallest_kept(weights[further], needed[further], 16 * look)
    return smallest


def _running_sums(weights: Tensor) -> Tensor:
    """[B, V] float64. Not `cumsum(dtype=)`, which took six times as long on a CPU (torch 2.13)."""
    return weights.double().cumsum(-1)
