"""Log-probabilities of response tokens from hidden states, without keeping logits.

Dimensions: N = response tokens, D = model size, V = vocabulary; n and v of them in a tile. Unit: nats.

Logits exist tile by tile, [n, v] of a fixed size. Of as many tiles as fit into `KEPT` bytes the odds stay
for the backward pass, which computes those of the others again: memory grows neither with N x V nor with
V. Sums are float32 (float64 for a float64 model).

Under autocast the products are bfloat16. A logit near 20 would be rounded to steps of 0.125; so what
is rounded is its distance from a number close to the ones that count (the target's own logit, the
normalizer), taken off within the product's float32 sum. What remains is the rounding of states and
weights (docs/log.md has the figures).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trimtab.losses.kl import full_kl
from trimtab.losses.tables import kept_gradient

ROWS, COLUMNS = 512, 4096
"""Tokens and vocabulary entries of a tile: 8 MB of float32."""

KEPT = 64 * 2**20
"""Bytes of odds that a call may keep: 680 tokens of a vocabulary of 49,152 in bfloat16."""


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
    inputs = _tempered(hidden, weight, bias, temperature)
    logprobs: Tensor = _LogProbs.apply(*inputs, targets)  # type: ignore[no-untyped-call]
    return logprobs


def token_logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and beside them the entropy of the distribution that each target was drawn from.

    Returns:
        Two times [N] float32, nats; the entropy from 0 to log V. Both have gradients.
    Source: derived in docs/math.md#entropy.
    """
    inputs = _tempered(hidden, weight, bias, temperature)
    logprobs, entropy = _LogProbsAndEntropy.apply(*inputs, targets)  # type: ignore[no-untyped-call]
    return logprobs, entropy


@torch.no_grad()
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
    docs/math.md#kl-exact). Products are float32 even under autocast: two models that are close
    differ by less than bfloat16 can say.

    Returns:
        [N] float32, nats, >= 0; without gradient.
    """
    ours = _Head.of(hidden, weight, bias, _wide(weight.dtype))
    theirs = _Head.of(other_hidden, other_weight, other_bias, _wide(other_weight.dtype))
    level, other_level = ours.normalizers(), theirs.normalizers()
    divergence = torch.zeros_like(level)
    for tile in ours.tiles():
        p = ours.logprobs(level, tile)
        q = theirs.logprobs(other_level, tile)
        divergence[tile.rows] += full_kl(p, q)
    return divergence.clamp_(min=0)


@torch.no_grad()
def token_likeness(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log p(target) - log sum_v p(v)^2: how typical each token is of what the model would sample.

    The second term is the log of a sampled token's expected probability, so e^likeness is 1 on average
    over the model's own samples.

    Returns:
        [N] float32, nats, without gradient.
    Source: Zhou et al. 2024 (WPO), arXiv:2406.11827, section 3.2. Derived in docs/math.md#wpo.
    """
    head = _Head.of(hidden, weight, bias, _multiplied_in(hidden, weight))
    target = head.target_logits(targets)
    level = head.normalizers(near=target)
    squares = torch.zeros_like(level)
    for tile in head.tiles():
        squares[tile.rows] += (2 * head.logprobs(level, tile)).exp_().sum(1)
    return target - level - squares.log()


def _tempered(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """States and bias whose logits are divided by the temperature."""
    if not temperature > 0:  # written so that NaN is refused too
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if temperature == 1.0:
        return hidden, weight, bias
    exact = _wide(weight.dtype)
    return hidden.to(exact) / temperature, weight, None if bias is None else bias.to(exact) / temperature


def _multiplied_in(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's arithmetic where it is on, else at least float32."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else _wide(weight.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True, slots=True)
class _Tile:
    rows: slice  # n of N tokens
    columns: slice  # v of V entries


@dataclass(frozen=True)
class _Head:
    """The vocabulary projection at some positions, in the arithmetic of its products."""

    states: Tensor  # [N, D], in that arithmetic
    weight: Tensor  # [V, D], as the model has it: rounded tile by tile, so that no copy of it is needed
    bias: Tensor | None

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> _Head:
        return cls(hidden.to(dtype), weight, bias)

    @property
    def sums_in(self) -> torch.dtype:
        return _wide(self.states.dtype)

    def tiles(self) -> Iterator[_Tile]:
        for first in range(0, len(self.weight), COLUMNS):
            columns = slice(first, min(first + COLUMNS, len(self.weight)))
            for row in range(0, len(self.states), ROWS):
                yield _Tile(slice(row, min(row + ROWS, len(self.states))), columns)

    def weights(self, tile: _Tile) -> Tensor:
        """[v, D], rounded as they are multiplied."""
        return self.weight[tile.columns].to(self.states.dtype)

    def target_logits(self, targets: Tensor) -> Tensor:
        """The logit of each target alone: [N]."""
        exact = self.sums_in
        rounded = self.weight[targets].to(self.states.dtype).to(exact)
        logits = (self.states.to(exact) * rounded).sum(1)
        return logits if self.bias is None else logits + self.bias[targets].to(exact)

    def logits_less(self, level: Tensor, tile: _Tile) -> Tensor:
        """Logits of the tile less a level at each token, which is close to those that count: [n, v]."""
        states, weights, level = self.states[tile.rows], self.weights(tile), level[tile.rows]
        with torch.autocast(states.device.type, enabled=False):
            if states.dtype == self.sums_in:
                less = F.linear(states, weights).sub_(level.unsqueeze(1))
            else:
                near = level.to(states.dtype)  # taken off inside the product, the rest of it outside
                less = torch.addmm(-near.unsqueeze(1).expand(-1, len(weights)), states, weights.t())
                less = less.to(self.sums_in).add_((near - level).unsqueeze(1))
        return less if self.bias is None else less.add_(self.bias[tile.columns])

    def logprobs(self, level: Tensor, tile: _Tile) -> Tensor:
        """Logits less their normalizers, which are large where logits are: rounding must not pass 0."""
        return self.logits_less(level, tile).clamp_(max=0)

    def normalizers(self, near: Tensor | None = None) -> Tensor:
        """log of the sum over the vocabulary of e^logit: [N].

        Args:
            near: [N] logits not far from the largest; none: 0, which is as good in float32.
        """
        level = self.states.new_zeros(len(self.states), dtype=self.sums_in) if near is None else near
        return self.summed(level, _Odds(self.states.dtype, room=0))

    def summed(self, level: Tensor, kept: _Odds) -> Tensor:
        """The normalizers; on the way, odds are kept while there is room."""
        largest = torch.full_like(level, -torch.inf)
        total = torch.zeros_like(level)
        for tile in self.tiles():
            less, rows = self.logits_less(level, tile), tile.rows
            higher = torch.maximum(largest[rows], less.amax(1))
            total[rows] *= (largest[rows] - higher).exp_()
            odds = less.sub_(higher.unsqueeze(1)).exp_()
            total[rows] += odds.sum(1)
            largest[rows] = higher
            kept.offer(odds, level[rows] + higher)
        return level + largest + total.log_()


class _Odds:
    """e^(logit - level) of the first tiles, and the level at each token of theirs."""

    def __init__(self, dtype: torch.dtype, room: int) -> None:
        self.dtype, self.room = dtype, room
        self.tensors: list[Tensor] = []
        """Odds [n, v] and level [n], tile after tile."""

    def offer(self, odds: Tensor, level: Tensor) -> None:
        """Keep them if there is room."""
        self.room -= odds.numel() * self.dtype.itemsize
        if self.room >= 0:
            self.tensors += (odds.to(self.dtype), level)


class _LogProbs(torch.autograd.Function):
    """By the logits, the gradient of log p(target) is onehot(target) - p."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        head = _Head.of(hidden, weight, bias, _multiplied_in(hidden, weight))
        target = head.target_logits(targets)
        kept = _Odds(head.states.dtype, room=KEPT if any(ctx.needs_input_grad) else 0)
        level = head.summed(target, kept)
        ctx.save_for_backward(head.states, weight, bias, targets, level, *kept.tensors)
        ctx.dtype = hidden.dtype
        return (target - level).clamp_(max=0)  # two sums of the same products may differ in the last bit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        states, weight, bias, targets, level, *kept = ctx.saved_tensors
        head = _Head(states, weight, bias)
        gradients = _Gradients.none_yet(head, ctx.needs_input_grad)
        for index, tile in enumerate(head.tiles()):
            share = -gradient[tile.rows]
            if 2 * index < len(kept):
                odds, before = kept[2 * index : 2 * index + 2]
                share = share * (before - level[tile.rows]).exp_()
            else:
                odds = head.logprobs(level, tile).exp_()
            gradients.add(tile, odds, share)
        gradients.add_targets(targets, gradient)
        return (*gradients.as_given(ctx.dtype), None)


class _LogProbsAndEntropy(torch.autograd.Function):
    """As above; by the logits, the gradient of the entropy H is -p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        head = _Head.of(hidden, weight, bias, _multiplied_in(hidden, weight))
        target = head.target_logits(targets)
        level = head.normalizers(near=target)
        entropy = torch.zeros_like(level)
        for tile in head.tiles():
            logprobs = head.logprobs(level, tile)
            entropy[tile.rows] -= (logprobs.exp() * logprobs).sum(1)
        ctx.save_for_backward(head.states, weight, bias, targets, level, entropy)
        ctx.dtype = hidden.dtype
        return (target - level).clamp_(max=0), entropy.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_logprob: Tensor, by_entropy: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        states, weight, bias, targets, level, entropy = ctx.saved_tensors
        head = _Head(states, weight, bias)
        gradients = _Gradients.none_yet(head, ctx.needs_input_grad)
        for tile in head.tiles():
            rows = tile.rows
            logprobs = head.logprobs(level, tile)
            odds = logprobs.exp()
            share = logprobs.add_(entropy[rows].unsqueeze(1)).mul_(by_entropy[rows].unsqueeze(1))
            by_logits = share.add_(by_logprob[rows].unsqueeze(1)).mul_(odds)
            gradients.add(tile, by_logits, -torch.ones_like(entropy[rows]))
        gradients.add_targets(targets, by_logprob)
        return (*gradients.as_given(ctx.dtype), None)


@dataclass(frozen=True)
class _Gradients:
    """Sums of gradients by states, weight and bias; none for what needs none."""

    head: _Head
    states: Tensor | None  # [N, D]
    weight: Tensor | None  # [V, D]; the model's own `.grad` where gradients are added in place
    bias: Tensor | None  # [V]
    in_place: bool

    @classmethod
    def none_yet(cls, head: _Head, needed: tuple[bool, ...]) -> _Gradients:
        def zeros(like: Tensor | None, need: bool) -> Tensor | None:
            return torch.zeros_like(like, dtype=head.sums_in) if need and like is not None else None

        kept = kept_gradient(head.weight, head.sums_in) if needed[1] else None
        weight = zeros(head.weight, needed[1]) if kept is None else kept
        return cls(head, zeros(head.states, needed[0]), weight, zeros(head.bias, needed[2]), kept is not None)

    def add(self, tile: _Tile, by_logits: Tensor, share: Tensor) -> None:
        """Add those of a tile, from the gradient by its logits, [n, v], times a share a token, [n]."""
        states, share = self.head.states[tile.rows], share.unsqueeze(1)
        rounded = by_logits.to(states.dtype)
        if self.states is not None:
            self.states[tile.rows] += share * (rounded @ self.head.weights(tile))
        if self.weight is not None:
            self.weight[tile.columns] += rounded.t() @ (share * states).to(states.dtype)
        if self.bias is not None:
            self.bias[tile.columns] += (share * by_logits).sum(0)

    def add_targets(self, targets: Tensor, by_logit: Tensor) -> None:
        """Add those that reach the targets' logits beside the tiles': [N]."""
        by_logit = by_logit.to(self.head.sums_in)
        if self.states is not None:
            self.states.addcmul_(by_logit.unsqueeze(1), self.head.weight[targets])
        if self.weight is not None:
            self.weight.index_add_(0, targets, by_logit.unsqueeze(1) * self.head.states)
        if self.bias is not None:
            self.bias.index_add_(0, targets, by_logit)

    def as_given(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """In the types of what they belong to; none for what was added in place."""
        head = self.head
        return (
            None if self.states is None else self.states.to(dtype),
            None if self.weight is None or self.in_place else self.weight.to(head.weight.dtype),
            None if self.bias is None or head.bias is None else self.bias.to(head.bias.dtype),
        )
