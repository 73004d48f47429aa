"""Forward passes over many examples, packed row by row, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trimtab.data.batches import PackedRow, micro_batches, pack
from trimtab.data.tokens import Example
from trimtab.model.device import Numerics
from trimtab.runs import progress


def response_count(example: Example) -> int:
    """For `over_rows`: the computation gives one value a response."""
    return len(example.responses)


def response_tokens(example: Example) -> int:
    """For `over_rows`: the computation gives one value a response token."""
    return sum(len(response.ids) for response in example.responses)


@torch.no_grad()
def over_rows(
    examples: Sequence[Example],
    compute: Callable[[PackedRow], Tensor],
    values_in: Callable[[Example], int],
    *,
    row_tokens: int,
    numerics: Numerics,
    name: str,
) -> list[Tensor]:
    """Results of a forward pass over all examples, with a bar.

    Args:
        compute: gives values of a row, in the order of its responses.
        values_in: how many of them belong to an example.

    Returns:
        One tensor an example, in order, on the CPU.
    """
    results: list[Tensor] = [torch.empty(0)] * len(examples)
    with numerics.casting_once(), progress.bar(name, len(examples), unit="examples") as bar:
        for group in micro_batches(examples, row_tokens):
            row = pack([examples[index] for index in group]).to(numerics.device)
            with numerics.autocast():
                values = compute(row).cpu()
            parts = torch.split(values, [values_in(examples[index]) for index in group])
            for index, part in zip(group, parts, strict=True):
                results[index] = part.clone()
            bar.advance(len(group))
    return results
