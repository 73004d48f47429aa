"""What a preference loss reads, made from the log-probabilities of single tokens.

Dimensions: P = pairs, K = responses of an example (2, or 3 where a mismatched one comes along), N =
their tokens, pair after pair and response after response. Unit: nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.errors import DataError
from trimtab.losses.pairs import PairLengths, PairLogprobs
from trimtab.losses.preference import PreferenceLoss

TokenValues = Mapping[str, Tensor]
"""[N] each: `policy` log-probabilities, and where the loss reads them `reference` and `likeness`."""


def token_values_read(loss: PreferenceLoss) -> set[str]:
    """Which token values a loss is made from."""
    made_from = {
        "policy": {"policy"},
        "reference": {"reference"},
        "policy_tail": {"policy"},
        "reference_tail": {"reference"},
        "likeness": {"likeness"},
        "mismatch": {"policy", "reference"},
        "lengths": set(),
    }
    return set().union(*(made_from[name] for name in loss.inputs))


def with_mismatches(examples: Sequence[Example]) -> list[Example]:
    """Each example with one response more, which the next prompt's first one lends.

    The same one in every epoch, so that its reference log-probability too is computed once.

    Raises:
        DataError: all examples have one prompt.
    """
    return [
        replace(example, responses=(*example.responses, examples[other].responses[0]))
        for example, other in zip(examples, _next_with_another_prompt(examples), strict=True)
    ]


def _next_with_another_prompt(examples: Sequence[Example]) -> list[int]:
    """For each example the next one, around the end, with another prompt: those with one stand together."""
    count = len(examples)
    found: list[int | None] = [None] * count
    for place in reversed(range(2 * count)):  # twice around, since the last ones look past the end
        here, following = place % count, (place + 1) % count
        same = examples[here].prompt == examples[following].prompt
        found[here] = found[following] if same else following
    if None in found:
        raise DataError(
            "the reference point needs responses to other prompts",
            where="data",
            found=f"{count} examples with the same prompt",
            fix="give more prompts, in dev data too, or use another loss",
        )
    return [other for other in found if other is not None]


def lengths_of(examples: Sequence[Example], device: torch.device) -> Tensor:
    """Tokens of each response: [P, K]."""
    counts = [[len(response.ids) for response in example.responses] for example in examples]
    return torch.tensor(counts, device=device)


def loss_inputs(loss: PreferenceLoss, values: TokenValues, lengths: Tensor) -> dict[str, Any]:
    """What the loss reads.

    Args:
        values: [N] each.
        lengths: [P, K] tokens of each response.
    """
    makers: dict[str, Callable[[], Any]] = {
        "policy": lambda: _pair(_sums(values["policy"], lengths)),
        "reference": lambda: _pair(_sums(values["reference"], lengths)),
        "policy_tail": lambda: _pair(_sums(values["policy"] * _in_tail(lengths), lengths)),
        "reference_tail": lambda: _pair(_sums(values["reference"] * _in_tail(lengths), lengths)),
        "likeness": lambda: _pair(_sums(values["likeness"], lengths) / lengths),
        "mismatch": lambda: _sums(values["policy"] - values["reference"], lengths)[:, 2],
        "lengths": lambda: PairLengths(lengths[:, 0], lengths[:, 1]),
    }
    return {name: makers[name]() for name in loss.inputs}


def _pair(sums: Tensor) -> PairLogprobs:
    return PairLogprobs(sums[:, 0], sums[:, 1])


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    """[N] -> [P, K]: over the tokens of each response."""
    owners = torch.repeat_interleave(lengths.flatten())
    return values.new_zeros(lengths.numel()).index_add(0, owners, values).view_as(lengths)


def _in_tail(lengths: Tensor) -> Tensor:
    """Whether each token lies beyond the length of its pair's shorter response: [N] bool."""
    flat = lengths.flatten()
    first = flat.cumsum(0) - flat
    places = torch.arange(int(flat.sum()), device=lengths.device) - first.repeat_interleave(flat)
    shorter = lengths[:, :2].min(dim=1, keepdim=True).values.expand_as(lengths)
    return places >= shorter.flatten().repeat_interleave(flat)
