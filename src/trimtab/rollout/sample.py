"""Logits to tokens: pure functions, the random numbers given.

Dimensions: B = rows, V = vocabulary. Unit: nats.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.errors import ModelError
from trimtab.rollout.types import Sampling

BLOCK = 128
"""Neighbouring tokens whose weights are summed before they are looked at one by one."""
FIRST_LOOK = 256
"""Likeliest tokens in which the nucleus is first looked for: most lie within, and sorting all V is slow."""


class Drawn(NamedTuple):
    """One token a row."""

    tokens: Tensor  # [B]
    logprobs: (
        Tensor  # [B] float64 nats under softmax(logits / temperature), before anything is cut or penalised
    )


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Drawn:
    """The token that each row's uniform number picks, and its log-probability.

    Args:
        logits: [B, V] float32.
        uniforms: [B] float64 in [0, 1).
        sampling: its temperature divides the logits; at 0 the likeliest token is taken, and its
            log-probability is that under the plain softmax.
        seen: [B, V], true for tokens that the repetition penalty reaches; None where there is no penalty.

    Raises:
        ModelError: logits that are not numbers.
    """
    odds = _Odds.of(logits, sampling.temperature)
    chosen_from = odds if seen is None else _Odds.of(penalised(logits, seen, sampling), sampling.temperature)
    if sampling.temperature == 0:
        tokens = chosen_from.shifted.argmax(-1)
    else:
        tokens = inverse_cdf(kept(chosen_from.weights, sampling), uniforms)
    return Drawn(tokens, odds.logprobs(tokens))


class _Odds(NamedTuple):
    shifted: Tensor  # [B, V] logits less their largest, by the temperature
    weights: Tensor  # [B, V] e to that: at most 1

    @classmethod
    def of(cls, logits: Tensor, temperature: float) -> _Odds:
        peak = logits.amax(-1, keepdim=True)
        if not peak.isfinite().all():
            raise ModelError(
                "the model's logits are not finite",
                found=f"a largest logit of {peak[~peak.isfinite()][0].item()}",
                fix="look at what came before: too high a learning rate, or overflow in half precision",
            )
        # Shifted before it is divided: nothing overflows, however small the temperature.
        shifted = logits - peak
        if temperature > 0:
            shifted /= temperature
        return cls(shifted, shifted.exp())

    def logprobs(self, tokens: Tensor) -> Tensor:
        """[B] float64 nats."""
        return (self.shifted.gather(-1, tokens[:, None]) - _sums(self.weights).log())[:, 0]


def penalised(logits: Tensor, seen: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, V] of tokens that were seen, made less likely: divided where > 0, else multiplied.

    Source: Keskar et al. 2019 (CTRL), arXiv:1909.05858, section 4.1, with transformers' treatment of logits
    below 0, which a division would raise.
    """
    penalty = sampling.repetition_penalty
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def kept(weights: Tensor, sampling: Sampling) -> Tensor:
    """The weights [B, V] with zero for what top_k, top_p and min_p cut, in this order.

    top_p is of what top_k has left; min_p is a share of the largest. Ties with the last token kept are kept.
    """
    if 0 < sampling.top_k < weights.shape[-1]:
        smallest = weights.topk(sampling.top_k).values[:, -1:]
        weights = weights.masked_fill(weights < smallest, 0.0)
    if sampling.top_p < 1:
        weights = nucleus(weights, sampling.top_p * _sums(weights))
    if sampling.min_p > 0:
        weights = weights.masked_fill(weights < sampling.min_p * weights.amax(-1, keepdim=True), 0.0)
    return weights


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose running sum of weights exceeds the uniform's share of the whole: [B].

    First the block of tokens is found, then the token in it: running sums over all V took longer than the
    vocabulary's product (docs/log.md). Never a token of weight zero, at either end: its running sum is that
    of the token before it, and a share is below the sum that it is a share of.

    Args:
        weights: [B, V] >= 0.
        uniforms: [B] float64 in [0, 1).
    """
    blocks = _in_blocks(weights)  # [B, n, BLOCK]
    sums = blocks.sum(-1).double()
    running = sums.cumsum(-1)
    share = uniforms[:, None] * running[:, -1:]
    block = torch.searchsorted(running, share, right=True)  # [B, 1]
    within = blocks.take_along_dim(block[..., None], dim=1)[:, 0].double().cumsum(-1)  # [B, BLOCK]
    rest = share - (running - sums).gather(-1, block)
    # The block's sum was rounded, and the running sum less it: neither may lead out of the block.
    rest = torch.minimum(rest.clamp(min=0), within[:, -1:].nextafter(rest.new_zeros(())))
    return (block * BLOCK + torch.searchsorted(within, rest, right=True))[:, 0]


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
    # Not `cumsum(dtype=)`, which took six times as long on a CPU (torch 2.13).
    reached = largest.double().cumsum(-1) >= needed
    # Where rounding keeps even the whole below what is needed, every token is kept.
    last = (~reached).sum(-1, keepdim=True).clamp(max=look - 1)
    smallest = largest.gather(-1, last)
    further = ~reached[:, -1]
    if look < weights.shape[-1] and further.any():
        smallest[further] = _smallest_kept(weights[further], needed[further], 16 * look)
    return smallest


def _sums(weights: Tensor) -> Tensor:
    """[B, 1] float64, block by block as they are drawn from."""
    return _in_blocks(weights).sum(-1).double().sum(-1, keepdim=True)


def _in_blocks(weights: Tensor) -> Tensor:
    """[B, n, BLOCK], zeros behind the last."""
    short = -weights.shape[-1] % BLOCK
    whole = F.pad(weights, (0, short)) if short else weights
    return whole.view(len(weights), -1, BLOCK)
