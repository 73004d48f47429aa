"""Attention of packed rows on a CPU: plain matrix products over blocks of queries.

Dimensions: H = query heads, K = key-value heads, R = H / K, T = tokens in a row, D = head size, n = a
block's queries, m = the keys that some of them see.

Made for rows of many short pieces. torch's fused attention for CPUs reaches an eighth of the matrix peak
there, mostly in its backward pass (docs/log.md); here a block's heads are one batched product. Scores are
float32, everything behind the softmax is in the arithmetic of the values. Nothing of size n x m outlives its
block: the backward pass computes the weights again, so that memory grows with T alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trimtab.data.batches import Span

WHOLE, LONGEST = 256, 128
"""Tokens of an example that is one block, whatever its branches; queries of a block of longer ones."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring queries of one example, the keys they read, and who of them sees whom."""

    queries: slice
    keys: tuple[slice, ...]
    """Of the row, in order: one slice, or the prompt's and the branch's own."""
    mask: Tensor  # [n, m] added to the scores: 0 or -inf


def blocks(spans: Sequence[Span], dtype: torch.dtype) -> list[Block]:
    """Every query of the row in exactly one block, in order."""
    return [block for span in spans for block in _blocks_of(span, dtype)]


def _blocks_of(span: Span, dtype: torch.dtype) -> Iterator[Block]:
    end = span.start + span.prompt + sum(span.responses)
    if end - span.start <= WHOLE:
        whole = slice(span.start, end)
        yield Block(whole, (whole,), _branched_mask(span.prompt, span.responses, dtype))
        return
    prompt_end = span.start + span.prompt
    for queries in _cut(span.start, prompt_end):
        yield _causal_block(queries, (slice(span.start, queries.stop),), dtype)
    first = prompt_end
    for length in span.responses:
        for queries in _cut(first, first + length):
            own = slice(first, queries.stop)
            yield _causal_block(queries, (slice(span.start, prompt_end), own), dtype)
        first += length


def _cut(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, LONGEST):
        yield slice(first, min(first + LONGEST, stop))


def _causal_block(queries: slice, keys: tuple[slice, ...], dtype: torch.dtype) -> Block:
    """The queries are the last of the keys, each of which sees all that come before it."""
    seen = sum(part.stop - part.start for part in keys)
    return Block(queries, keys, _causal_mask(queries.stop - queries.start, seen, dtype))


def _causal_mask(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    return _hidden(torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries), dtype)


def _branched_mask(prompt: int, responses: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Of a whole example: branches see their prompt and themselves."""
    lengths = (prompt, *responses)
    branch = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    related = (branch[None, :] == 0) | (branch[None, :] == branch[:, None])
    return _hidden(related.tril(), dtype)


def _hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)


def attend(query: Tensor, key: Tensor, value: Tensor, plan: Sequence[Block], scaling: float) -> Tensor:
    """Attention over the blocks that `blocks` gives for the row.

    Args:
        query: [H, T, D]; key and value: [K, T, D]. Under autocast the values are bfloat16; queries and keys
            come in float32 from their rotary angles. Rounding them and their products would be over half
            of the squared error of the whole pass (docs/log.md).

    Returns:
        [H, T, D] in the dtype of the values.
    """
    wide = _wide(value.dtype)
    found: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query.to(wide), key.to(wide), value, plan, scaling
    )
    return found


class _Attention(torch.autograd.Function):
    """The blocks one after the other, and their gradients.

    With scores S = c Q K', weights P = softmax(S), output O = P V and gradient G by O: by V it is P'G, by S
    it is P * (GV' - rowsum(P * GV')), by Q that one times c K, and by K its transpose times c Q.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Sequence[Block], scaling: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.plan, ctx.scaling = plan, scaling
        found = value.new_empty(query.shape)
        for block in plan:
            weights = _weights(_grouped(query, block, key), _read(key, block), block, scaling)
            products = torch.bmm(weights.to(value.dtype), _read(value, block))
            found[:, block.queries] = products.view(query.shape[0], -1, query.shape[2])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value = ctx.saved_tensors
        by_query = torch.empty_like(query)
        # Keys of a prompt are read by several blocks: their gradients are summed in float32.
        by_key, by_value = (torch.zeros_like(one, dtype=_wide(one.dtype)) for one in (key, value))
        rounded_query, rounded_key = query.to(value.dtype), key.to(value.dtype)
        for block in ctx.plan:
            weights = _weights(_grouped(query, block, key), _read(key, block), block, ctx.scaling)
            weights = weights.to(value.dtype)
            queries, keys = _grouped(rounded_query, block, key), _read(rounded_key, block)
            above = _grouped(gradient, block, key)
            _add(by_value, block, torch.bmm(weights.transpose(1, 2), above))
            by_weights = torch.bmm(above, _read(value, block).transpose(1, 2))
            by_scores = torch.ops.aten._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            reached = _scaled(by_scores, keys, ctx.scaling)
            by_query[:, block.queries] = reached.view(query.shape[0], -1, query.shape[2])
            _add(by_key, block, _scaled(by_scores.transpose(1, 2), queries, ctx.scaling))
        return by_query, by_key.to(key.dtype), by_value.to(value.dtype), None, None


def _grouped(tensor: Tensor, block: Block, key: Tensor) -> Tensor:
    """The block's queries, those that read the same key head together: [H, T, D] -> [K, R n, D]."""
    return tensor[:, block.queries].reshape(key.shape[0], -1, tensor.shape[2])


def _read(tensor: Tensor, block: Block) -> Tensor:
    """The keys, or values, that the block reads: [K, m, D]."""
    parts = [tensor[:, part] for part in block.keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _weights(queries: Tensor, keys: Tensor, block: Block, scaling: float) -> Tensor:
    """[K, R n, m]: how much each query takes of each key; the scores are never rounded to bfloat16."""
    scores = _scaled(queries, keys.transpose(1, 2), scaling)
    scores.view(len(keys), -1, *block.mask.shape).add_(block.mask)
    return torch.softmax(scores, dim=-1)


def _scaled(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """The batched product times a number, in one pass."""
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scaling)


def _add(total: Tensor, block: Block, gradient: Tensor) -> None:
    first = 0
    for part in block.keys:
        length = part.stop - part.start
        total[:, part] += gradient[:, first : first + length]
        first += length


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
