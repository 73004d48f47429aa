"""What a training step holds in memory, and how a stage stays below a limit.

    step = held + moments + gradients + second + beside + row(T, k)      row(T, k) = fixed(k) + a(k) T

    held       what the process holds when the model is loaded: libraries, data, weights
    moments    AdamW's, 8 bytes a trained weight, or 2
    gradients  4 bytes a trained weight
    second     where the reference follows the policy, its weights
    beside     compiled kernels, and on a CPU the holes that they leave (`train.allocation`)
    fixed      of a row: bfloat16 copies of the matrices, what is between the largest gradient and its sum
    a          activations a token, and the logits of response tokens
    T, k       tokens of the largest row; blocks whose activations are computed twice, 0 .. n

fixed and a are measured on two rows of the stage's own data, once with k = 0 and, where that does not fit,
once with k = n; between them they are taken to be linear in k. On a CPU the rows' tensors are counted as
they are allocated and freed; what the allocator loses among them is in HEAP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from trimtab.data.batches import micro_batches, pack
from trimtab.data.tokens import Example
from trimtab.errors import ResourceError
from trimtab.model import scalar
from trimtab.model.policy import Policy, response_logprobs
from trimtab.model.recompute import blocks, recompute_first
from trimtab.model.scalar import Scorer
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train.allocation import (
    HOLES,
    LATER,
    beside_tensors,
    give_back_freed_memory,
    held_now,
    keep_freed_memory,
    peak_of_tensors,
)
from trimtab.train.loop import backward
from trimtab.train.moments import moment_bytes
from trimtab.train.settings import DPOSettings, EpochSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAP, HEAP_GIVEN_BACK = 1.15, 1.05
"""Bytes that the process grows by for each byte that a row holds on a CPU: while freed memory is kept for the
next row, and where it is given back at once (docs/log.md)."""
SMALLEST_ROW = 128
"""Tokens that rows are not cut below before blocks are computed twice."""
PROBED = (0.25, 0.5)
"""Shares of the largest row that are measured."""

AnySettings = TypeVar("AnySettings", bound=EpochSettings)


@dataclass(frozen=True)
class RowCost:
    """Bytes that a row holds at most, as a line over its tokens."""

    fixed: float
    a_token: float

    def of(self, tokens: int) -> float:
        """Bytes of a row of so many tokens."""
        return self.fixed + self.a_token * tokens

    def times(self, factor: float) -> RowCost:
        """The line, so many times as high."""
        return RowCost(factor * self.fixed, factor * self.a_token)

    def towards(self, other: RowCost, share: float) -> RowCost:
        """The line between this one (share 0) and the other (share 1)."""
        return RowCost(
            self.fixed + share * (other.fixed - self.fixed),
            self.a_token + share * (other.a_token - self.a_token),
        )


@dataclass(frozen=True)
class Terms:
    """What a step holds beside its rows, in bytes."""

    held: int
    moments: int
    gradients: int
    second: int
    beside: int

    def step(self, row: float) -> int:
        """Bytes of a step whose largest row holds `row`."""
        beside_rows = self.held + self.moments + self.gradients + self.second + self.beside
        return round(beside_rows + row)


@dataclass(frozen=True)
class Choice:
    """How a stage stays below its limit."""

    row_tokens: int
    recomputed: int
    """Decoder blocks computed twice."""
    expected: int
    """Bytes that are expected at most."""
    limit: int
    given_back: bool
    """Freed memory is given back at once, which takes time and leaves no holes."""


def within_limit(
    trained: Policy | Scorer, train_set: Sequence[Example], settings: AnySettings, run: Run
) -> AnySettings:
    """The settings with which the stage stays below `memory_limit`; the model is made to recompute blocks.

    Called when model and data are loaded. A resumed run does as the run did before, so that its numbers are
    the same.

    Raises:
        ResourceError: it cannot; names what would.
    """
    if settings.memory_limit is None:
        return settings
    before = run.earlier_fact("memory") if run.step else None
    if before is not None and before["limit"] == settings.memory_limit:
        choice = Choice(**before)
    else:
        give_back_freed_memory()  # before anything is measured: a heap that has grown is used first
        choice = choose(trained, train_set, settings)
    run.describe(memory=asdict(choice))
    (give_back_freed_memory if choice.given_back else keep_freed_memory)()
    recompute_first(trained.model, choice.recomputed)
    _tell(choice, settings, len(blocks(trained.model)))
    return settings.model_copy(update={"row_tokens": choice.row_tokens})


def choose(trained: Policy | Scorer, train_set: Sequence[Example], settings: EpochSettings) -> Choice:
    """The mildest way to stay below the limit.

    First as everything was set; then with freed memory given back, and rows as large as they may be; then
    with the smallest rows, and as few blocks computed twice as will do.
    """
    assert settings.memory_limit is not None
    limit, count = int(settings.memory_limit), len(blocks(trained.model))
    on_cpu = trained.numerics.device.type == "cpu"
    largest = largest_row(train_set, settings)
    smallest = max(min(largest, SMALLEST_ROW), max(example.tokens for example in train_set))
    terms = terms_of(trained, settings, holes=HOLES)
    kept = row_cost(trained, train_set, settings)
    as_set = terms.step(kept.times(HEAP if on_cpu else 1.0).of(largest))
    if as_set <= limit:
        return Choice(settings.row_tokens, 0, as_set, limit, given_back=False)

    terms, heap = replace(terms, beside=beside_all(trained, holes=0)), HEAP_GIVEN_BACK if on_cpu else 1.0
    cost = kept.times(heap)
    tokens = min(largest, math.floor((limit - terms.step(cost.fixed)) / cost.a_token))
    if tokens >= smallest:
        rows = settings.row_tokens if tokens == largest else tokens
        return Choice(rows, 0, terms.step(cost.of(tokens)), limit, given_back=on_cpu)
    recompute_first(trained.model, count)
    twice = row_cost(trained, train_set, settings).times(heap)
    for recomputed in range(1, count + 1):
        needed = terms.step(cost.towards(twice, recomputed / count).of(smallest))
        if needed <= limit:
            return Choice(smallest, recomputed, needed, limit, given_back=on_cpu)
    raise _does_not_fit(trained, settings, terms, twice.of(smallest))


def beside_all(trained: Policy | Scorer, *, holes: int) -> int:
    """What is held beside tensors when many rows have gone through."""
    later = LATER if trained.numerics.device.type == "cpu" else 0
    return later + beside_tensors(trained.numerics, math.inf, holes=holes)


def terms_of(trained: Policy | Scorer, settings: EpochSettings, *, holes: int) -> Terms:
    """What is held now, and what training will add to it."""
    parameters = learning(trained.model)
    return Terms(
        held=held_now(trained.model, trained.numerics.device),
        moments=moment_bytes(parameters, settings.optimizer),
        gradients=sum(4 * parameter.numel() for parameter in parameters),
        second=_moving_reference(trained.model, settings),
        beside=beside_all(trained, holes=holes),
    )


def _moving_reference(model: PreTrainedModel, settings: EpochSettings) -> int:
    follows = isinstance(settings, DPOSettings) and settings.reference.every is not None
    return sum(4 * parameter.numel() for parameter in model.parameters()) if follows else 0


def learning(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The weights that are trained: all, or the adapters'."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def largest_row(examples: Sequence[Example], settings: EpochSettings) -> int:
    """Tokens that a row of an optimizer step has at most, whatever the order."""
    sizes = sorted((example.tokens for example in examples), reverse=True)
    return min(max(settings.row_tokens, sizes[0]), sum(sizes[: settings.batch]))


def row_cost(trained: Policy | Scorer, examples: Sequence[Example], settings: EpochSettings) -> RowCost:
    """Measured on two rows, smaller than the largest, so that measuring needs less than the stage."""
    largest = largest_row(examples, settings)
    rows = [_row_of(examples, round(share * largest)) for share in PROBED]
    _backward(trained, rows[0])  # so that gradients are there, and are not counted as the row's
    tokens = [sum(example.tokens for example in row) for row in rows]
    device = trained.numerics.device
    # A gradient is added to what is there by torch's engine, out of sight, while both exist.
    unseen = max(4 * parameter.numel() for parameter in learning(trained.model))
    peaks = [unseen + peak_of_tensors(partial(_backward, trained, row), device) for row in rows]
    trained.model.zero_grad(set_to_none=True)
    if tokens[0] == tokens[1]:
        return RowCost(0.0, max(peaks) / tokens[0])
    slope = (peaks[1] - peaks[0]) / (tokens[1] - tokens[0])
    return RowCost(peaks[0] - slope * tokens[0], slope)


def _row_of(examples: Sequence[Example], tokens: int) -> list[Example]:
    """Examples of the data whose row has about so many tokens, at least one."""
    groups = micro_batches(examples, tokens)
    sizes = [sum(examples[index].tokens for index in group) for group in groups]
    nearest = min(range(len(groups)), key=lambda place: abs(sizes[place] - tokens))
    return [examples[index] for index in groups[nearest]]


def _backward(trained: Policy | Scorer, examples: Sequence[Example]) -> None:
    """Gradients of the sum of what the stage reads of a row."""
    row = pack(examples).to(trained.numerics.device)
    with trained.numerics.autocast():
        if isinstance(trained, Policy):
            values = response_logprobs(trained.model, row)
        else:
            values = scalar.rewards(trained.model, row)
    backward(values.sum())


def _does_not_fit(
    trained: Policy | Scorer, settings: EpochSettings, terms: Terms, row: float
) -> ResourceError:
    limit, needed = int(settings.memory_limit or 0), terms.step(row)
    return ResourceError(
        "the stage does not fit below its memory limit, even with small rows and every block computed twice",
        where="memory_limit",
        found=f"{in_words(needed)} needed, {in_words(limit)} allowed",
        fix=", or ".join(ways_to_fit(learning(trained.model), settings, needed, limit)),
    )


def ways_to_fit(
    parameters: Sequence[torch.Tensor], settings: EpochSettings, needed: int, limit: int
) -> list[str]:
    """Settings with which what needs `needed` bytes would fit below the limit."""
    ways = []
    optimizer = settings.optimizer
    narrow = optimizer.model_copy(update={"moments": "8bit"})
    saved = moment_bytes(parameters, optimizer) - moment_bytes(parameters, narrow)
    if saved > 0 and needed - saved <= limit:
        ways.append("set optimizer.moments=8bit")
    trained = moment_bytes(parameters, optimizer) + sum(4 * parameter.numel() for parameter in parameters)
    if settings.lora is None and needed - trained <= limit:
        ways.append("train adapters (lora.rank=8)")
    ways.append(f"set memory_limit={math.ceil(needed / 2**20)}MiB")
    return [*ways, "use a smaller model"]


def in_words(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _tell(choice: Choice, settings: EpochSettings, count: int) -> None:
    changes = []
    if choice.row_tokens != settings.row_tokens:
        changes.append(f"row_tokens {settings.row_tokens:,} -> {choice.row_tokens:,}")
    if choice.given_back:
        changes.append("freed memory given back")
    if choice.recomputed:
        changes.append(f"{choice.recomputed} of {count} blocks computed twice")
    how = ", ".join(changes) or "as set"
    progress.say(
        f"  memory: at most {in_words(choice.expected)} expected, {in_words(choice.limit)} allowed ({how})"
    )
