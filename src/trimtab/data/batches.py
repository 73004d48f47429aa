"""Examples become packed rows: no padding, each prompt once, its responses as branches after it.

Dimensions: T = tokens in a row, N = response tokens in a row, R = responses in a row.

    row        | prompt 0 | response 0 | response 1 | prompt 1 | response 2 | ...
    positions  | 0 .. p-1 | p ..       | p ..       | 0 ..     | ...

Which tokens may see which is the layout's business (`model.packed`); here are only ids and places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Span:
    """Where one example lies in its row."""

    start: int
    prompt: int
    """Tokens of the prompt."""
    responses: tuple[int, ...]
    """Tokens of each response, in order."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Examples laid end to end, and where their response tokens are predicted."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]; a response starts where its prompt ended
    spans: tuple[Span, ...]
    predictors: Tensor  # [N] place of the hidden state that predicts each response token
    targets: Tensor  # [N] the response tokens, response after response
    owners: Tensor  # [N] the response, 0 .. R-1, that each token belongs to
    last: Tensor  # [R] place of each response's last token
    stopped: Tensor  # [R] bool: whether that last token is the stop token
    weights: Tensor  # [R] what the response's example counts in a loss

    @property
    def responses(self) -> int:
        """R."""
        return self.last.numel()

    def to(self, device: torch.device) -> PackedRow:
        """The same row on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "spans"}
        return PackedRow(spans=self.spans, **{name: value.to(device) for name, value in tensors.items()})

    @property
    def token_weights(self) -> Tensor:
        """What each response token's example counts in a loss: [N]."""
        return self.weights[self.owners]

    def sum_by_response(self, values: Tensor) -> Tensor:
        """Sum per-token values over each response: [N] -> [R]."""
        return values.new_zeros(self.responses).index_add(0, self.owners, values)


def pack(examples: Sequence[Example]) -> PackedRow:
    """Lay the examples end to end in one row."""
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    last: list[int] = []
    for example in examples:
        start, prompt = len(ids), len(example.prompt)
        if not prompt:
            raise ValueError(
                "an example needs at least one prompt token: it predicts the first response token"
            )
        ids += example.prompt
        positions += range(prompt)
        for response in example.responses:
            first, length = len(ids), len(response.ids)
            # The prompt's last token predicts the first response token; each response token the next.
            predictors += [start + prompt - 1, *range(first, first + length - 1)]
            owners += [len(last)] * length
            last.append(first + length - 1)
            targets += response.ids
            ids += response.ids
            positions += range(prompt, prompt + length)
        spans.append(Span(start, prompt, tuple(len(response.ids) for response in example.responses)))
    stopped = [response.stopped for example in examples for response in example.responses]
    weights = [example.weight for example in examples for _ in example.responses]
    return PackedRow(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        spans=tuple(spans),
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        owners=torch.tensor(owners, dtype=torch.long),
        last=torch.tensor(last, dtype=torch.long),
        stopped=torch.tensor(stopped, dtype=torch.bool),
        weights=torch.tensor(weights, dtype=torch.float32),
    )


def micro_batches(examples: Sequence[Example], token_budget: int) -> list[list[int]]:
    """Indices of the examples, grouped so that a group has at most `token_budget` tokens.

    First fit, longest first: few and full groups, and the same ones every time. An example longer
    than the budget has a group to itself. Every example is in exactly one group.
    """
    if token_budget < 1:
        raise ConfigError(
            "a row needs room for at least one token", where="row_tokens", found=str(token_budget)
        )
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(examples)), key=lambda i: (-examples[i].tokens, i)):
        tokens = examples[index].tokens
        for group, free in enumerate(room):
            if tokens <= free:
                groups[group].append(index)
                room[group] -= tokens
                break
        else:
            groups.append([index])
            room.append(token_budget - tokens)
    return groups


def shuffled_batches(count: int, size: int, *, epochs: int, seed: int) -> Iterator[list[int]]:
    """Indices of each optimizer step's examples: every example once an epoch, in a fresh order each.

    The last batch of an epoch may be smaller; nothing is dropped. The same seed gives the same
    batches, so a resumed run skips the first k and goes on.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator).tolist()
        for first in range(0, count, size):
            yield order[first : first + size]
