"""Attention of packed and branched rows on CUDA, in the form that is fastest there. Unmeasured: no GPU yet.

Dimensions: H = query heads, K = key-value heads, T = tokens in a row, G = keys of all pieces, D = head size.

    row     | prompt 0 | response 0 | response 1 | prompt 1 | response 2 | ...
    pieces  |<------ piece 0 ------>|<- piece 1 >|<------ piece 2 ------>|

A piece is what one causal attention computes: the queries of a prompt with its first response, or those of
one further response, whose keys are the prompt's and its own. Queries lie in the row piece after piece as
they are; keys are gathered where there are further responses. Three forms compute the same:

- varlen: one flash kernel over all pieces, with fewer queries than keys where a piece lacks its prompt;
- flex: FlexAttention, compiled, with the row's block mask, and nothing gathered;
- pieces: one scaled-dot-product call a piece, which needs no kernel of its own and is what the others are
  compared with.

`attend` times them on the first row of each kind and takes the fastest. A form that raises there, or gives
other numbers than `pieces`, is never taken: where a kernel aligns its triangle is not left to its documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from trimtab.data.batches import Span

REPEATS = 5
"""Timed passes of each form, forward and backward; one more goes before them, which may compile."""
NEAR = {torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Relative distance from `pieces`, in norm, up to which a form counts as equal; several roundings wide."""
NEAR_OTHERWISE = 1e-3


@dataclass(frozen=True)
class Piece:
    """One causal attention within a row: its queries are the last of its keys."""

    start: int
    queries: int
    prompt: int
    """Place of the prompt's first token."""
    shared: int
    """Keys of the prompt that lie apart, before its own; 0 for the piece that has its prompt within."""

    @property
    def keys(self) -> int:
        """The prompt's and its own."""
        return self.shared + self.queries


@dataclass(frozen=True)
class Plan:
    """What the layers of one forward pass share: built once a row, by `plan`."""

    pieces: tuple[Piece, ...]
    key_index: Tensor | None  # [G] place of every piece's keys in the row; None: the row as it is
    query_ends: Tensor  # [pieces + 1] int32, where each piece's queries begin, and T
    key_ends: Tensor  # [pieces + 1] int32, where each piece's keys begin, and G
    example: Tensor  # [T] the number of the token's example
    branch: Tensor  # [T] the number of its response within the example, -1 in the prompt

    @property
    def tokens(self) -> int:
        """T."""
        return self.example.numel()

    @property
    def longest_query(self) -> int:
        """Queries of the piece that has most."""
        return max(piece.queries for piece in self.pieces)

    @property
    def longest_key(self) -> int:
        """Keys of the piece that has most."""
        return max(piece.keys for piece in self.pieces)

    @cached_property
    def block_mask(self) -> Any:
        """FlexAttention's mask of the row."""
        from torch.nn.attention.flex_attention import create_block_mask

        device = str(self.example.device)
        return create_block_mask(sees(self.example, self.branch), None, None, *2 * (self.tokens,), device)


def plan(spans: Sequence[Span], device: torch.device) -> Plan:
    """Where the pieces of a row lie. The spans cover the row without gaps, in order."""
    pieces = tuple(piece for span in spans for piece in _pieces_of(span))
    places = [
        torch.arange(first, first + count)
        for piece in pieces
        for first, count in ((piece.prompt, piece.shared), (piece.start, piece.queries))
    ]
    lengths = [count for span in spans for count in (span.prompt, *span.responses)]
    return Plan(
        pieces,
        torch.cat(places).to(device) if any(piece.shared for piece in pieces) else None,
        _ends([piece.queries for piece in pieces]).to(device),
        _ends([piece.keys for piece in pieces]).to(device),
        _repeated([index for index, span in enumerate(spans) for _ in (None, *span.responses)], lengths).to(
            device
        ),
        _repeated([index for span in spans for index in range(-1, len(span.responses))], lengths).to(device),
    )


def sees(example: Tensor, branch: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention's mask_mod of a row: whether the query's token sees the key's, both places in the row."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shared = (branch[key] < 0) | (branch[key] == branch[query])
        return (example[query] == example[key]) & shared & (key <= query)

    return visible


def attend(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scaling: float) -> Tensor:
    """Causal attention within each example of one row; responses see their prompt, not each other.

    Args:
        query: [1, H, T, D]; key and value: [1, K, T, D], rotary positions already applied. All are computed
            in the values' type: under autocast its own, where rotary angles have made the others float32.
        plan: of this row, on the same device.
        scaling: what the scores are multiplied by.

    Returns:
        [1, H, T, D], in the values' type.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    form = FORMS[fastest(plan, kind_of(query, key, plan))]
    with torch.autocast(query.device.type, enabled=False):  # it would cast piece by piece
        return form(query, key, value, plan, scaling)


class Kind(NamedTuple):
    """Rows that the same form is fastest for."""

    device: str
    dtype: torch.dtype
    heads: int
    key_value_heads: int
    head_size: int
    tokens: int
    """Of the row, rounded up to a power of two."""
    longest: int
    """Keys of its longest piece, rounded likewise."""
    branched: bool


def kind_of(query: Tensor, key: Tensor, plan: Plan) -> Kind:
    """The kind that a row belongs to."""
    _, heads, tokens, size = query.shape
    return Kind(
        device=str(query.device),
        dtype=query.dtype,
        heads=heads,
        key_value_heads=key.shape[1],
        head_size=size,
        tokens=_power_of_two(tokens),
        longest=_power_of_two(plan.longest_key),
        branched=plan.key_index is not None,
    )


_chosen: dict[Kind, str] = {}


def chosen() -> Mapping[Kind, str]:
    """The form that each kind of row is computed in, as far as any has been seen: for run.json."""
    return dict(_chosen)


def fastest(
    plan: Plan, kind: Kind, measure: Callable[[Plan, Kind], Mapping[str, float]] | None = None
) -> str:
    """The name of the form for rows of this kind, measured on the first of them.

    Args:
        measure: gives seconds for each form that computes what `pieces` does; by default, by the clock.
    """
    if kind not in _chosen:
        seconds = (measure or measured)(plan, kind)
        _chosen[kind] = min(seconds, key=lambda name: seconds[name])
    return _chosen[kind]


@torch.enable_grad()
def measured(plan: Plan, kind: Kind) -> dict[str, float]:
    """Seconds of forward and backward over this row in each form, without those that fail or differ."""
    # A generator of its own: what a run draws must not depend on what was timed.
    generator = torch.Generator(kind.device).manual_seed(0)

    def drawn(heads: int) -> Tensor:
        shape = (1, heads, plan.tokens, kind.head_size)
        return torch.randn(shape, generator=generator, dtype=kind.dtype, device=kind.device)

    inputs = [drawn(heads).requires_grad_() for heads in (kind.heads, *(kind.key_value_heads,) * 2)]
    upstream = drawn(kind.heads)
    expected = _passed(_pieces, inputs, upstream, plan)
    seconds = {}
    for name, form in FORMS.items():
        try:
            found = _passed(form, inputs, upstream, plan)
        except (RuntimeError, TypeError, ValueError):  # no such kernel, type, head size or argument here
            continue
        near = NEAR.get(kind.dtype, NEAR_OTHERWISE)
        if all(_apart(ours, theirs) <= near for ours, theirs in zip(found, expected, strict=True)):
            seconds[name] = median(_timed(form, inputs, upstream, plan) for _ in range(REPEATS))
    return seconds


Form = Callable[[Tensor, Tensor, Tensor, Plan, float], Tensor]


def _varlen(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scaling: float) -> Tensor:
    # Imported here and in _flex: either takes a second, which no run on a CPU needs to wait.
    from torch.nn.attention import varlen

    attended: Tensor = varlen.varlen_attn(  # type: ignore[assignment]  # a pair only if asked for
        query[0].transpose(0, 1),
        _gathered(key, plan),
        _gathered(value, plan),
        plan.query_ends,
        plan.key_ends,
        plan.longest_query,
        plan.longest_key,
        scale=scaling,
        window_size=(-1, 0),  # causal; query i of Q sees key j of S if j <= i + S - Q
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(0, 1).unsqueeze(0)


def _gathered(tensor: Tensor, plan: Plan) -> Tensor:
    """[1, K, T, D] -> [G, K, D]: the keys or values of all pieces."""
    rows = tensor[0].transpose(0, 1)
    return rows if plan.key_index is None else rows.index_select(0, plan.key_index)


def _flex(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scaling: float) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    attended: Tensor = _compiled_flex()(
        query, key, value, block_mask=plan.block_mask, scale=scaling, enable_gqa=grouped
    )
    return attended


@cache
def _compiled_flex() -> Callable[..., Any]:
    """Compiled once for all lengths: rows differ in theirs."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _pieces(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scaling: float) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    lengths = [piece.queries for piece in plan.pieces]
    # Split, not sliced piece by piece: the gradient of a slice is as large as the whole row.
    own = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    parts = []
    prompts: tuple[Tensor, Tensor] = (key, value)
    for piece, (queries, keys, values) in zip(plan.pieces, own, strict=True):
        if piece.shared:
            keys, values = (
                torch.cat([prompt[:, :, : piece.shared], part], dim=2)
                for prompt, part in zip(prompts, (keys, values), strict=True)
            )
        else:
            prompts = (keys, values)
        mask = causal_lower_right(piece.queries, piece.keys)  # the flash kernel, where there is one
        parts.append(
            F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2)


FORMS: dict[str, Form] = {"varlen": _varlen, "flex": _flex, "pieces": _pieces}


def _pieces_of(span: Span) -> list[Piece]:
    """Prompt and first response together, then each further response; what is empty is left out."""
    first = Piece(span.start, span.prompt + sum(span.responses[:1]), span.start, 0)
    start = first.start + first.queries
    found = [first]
    for length in span.responses[1:]:
        found.append(Piece(start, length, span.start, span.prompt))
        start += length
    return [piece for piece in found if piece.queries]


def _ends(lengths: list[int]) -> Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()


def _repeated(values: list[int], times: list[int]) -> Tensor:
    return torch.tensor(values).repeat_interleave(torch.tensor(times))


def _passed(form: Form, inputs: list[Tensor], upstream: Tensor, plan: Plan) -> list[Tensor]:
    """Output and gradients of one forward and backward pass."""
    output = form(inputs[0], inputs[1], inputs[2], plan, inputs[0].shape[-1] ** -0.5)
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


def _timed(form: Form, inputs: list[Tensor], upstream: Tensor, plan: Plan) -> float:
    _wait(upstream.device)
    began = time.perf_counter()
    _passed(form, inputs, upstream, plan)
    _wait(upstream.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm().clamp_min(1e-12))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
