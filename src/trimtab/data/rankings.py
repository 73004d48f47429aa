"""One person's ranking of K responses as one example: the prompt once, each response once.

Files hold a ranking as the pairs that it implies. Computed pair by pair, its prompt would be read
K(K - 1)/2 times and each response K - 1 times.

Dimensions: E = examples, P = pairs of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.data.tokens import Codec, Encoded, Example, Limits, Pair, Response, encode_comparisons
from trimtab.formats import Row
from trimtab.records import Comparison

ONE_PAIR = (Pair(0, 1),)


class RowPairs(NamedTuple):
    """All pairs of some examples, by the places of their responses in the row of these examples."""

    better: Tensor  # [P]
    worse: Tensor  # [P]
    strengths: Tensor  # [P] 1, 2 or 3; 0 where nobody said
    weights: Tensor  # [P] what each counts in a loss: an example's pairs share its weight
    owners: Tensor  # [P] the example, 0 .. E-1


def encode_rankings(codec: Codec, rows: Iterable[Row[Comparison]], limits: Limits) -> Encoded:
    """Each pair that stands alone as an example, and each ranking as one.

    Left out as by `encode_comparisons`; a ranking keeps the pairs that are left, and their weight.
    """
    encoded = encode_comparisons(codec, rows, limits)
    examples = joined(encoded.examples)
    pairs = sum(len(pairs_of(example)) for example in examples)
    rankings = sum(len(example.pairs) > 1 for example in examples)
    if rankings:
        encoded.counts.update(pairs=pairs, rankings=rankings)
    wheres: dict[object, str] = {}
    for number, (example, where) in enumerate(zip(encoded.examples, encoded.wheres, strict=True)):
        wheres.setdefault(_key(example, number), where)
    return replace(encoded, examples=examples, wheres=list(wheres.values()))


def joined(examples: Sequence[Example]) -> list[Example]:
    """The pairs of each group and prompt as one example, in the place of the first of them.

    Responses with the same ids are one. Weights add up, so that a mean over the pairs of the result, by
    weight, is the mean over the pairs given.
    """
    groups: dict[object, list[Example]] = {}
    for number, example in enumerate(examples):
        groups.setdefault(_key(example, number), []).append(example)
    return [group[0] if len(group) == 1 else _join(group) for group in groups.values()]


def pairs_of(example: Example) -> tuple[Pair, ...]:
    """What was said of the responses; of two of which nothing is said, the first is the better."""
    return example.pairs or ONE_PAIR


def order_of(example: Example) -> tuple[int, ...] | None:
    """Places of all responses, best first; None where the pairs leave it open or contradict each other."""
    count = len(example.responses)
    better = {(pair.better, pair.worse) for pair in pairs_of(example)}
    wins = [sum((one, other) in better for other in range(count)) for one in range(count)]
    order = tuple(sorted(range(count), key=lambda place: -wins[place]))
    whole = [wins[place] for place in order] == list(range(count - 1, -1, -1))
    return order if whole and 2 * len(better) == count * (count - 1) else None


def best_of(example: Example) -> Response:
    """The response that was preferred most often; the first of those alike."""
    wins = Counter(pair.better for pair in pairs_of(example))
    return example.responses[max(range(len(example.responses)), key=lambda place: wins[place])]


def pairs_in(examples: Sequence[Example], device: torch.device) -> RowPairs:
    """The pairs of examples that lie in this order in a row."""
    places: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    first = 0
    for number, example in enumerate(examples):
        pairs = pairs_of(example)
        places += [(first + p.better, first + p.worse, p.strength or 0, number) for p in pairs]
        weights += [example.weight / len(pairs)] * len(pairs)
        first += len(example.responses)
    better, worse, strengths, owners = torch.tensor(places, device=device).unbind(1)
    return RowPairs(better, worse, strengths, torch.tensor(weights, device=device), owners)


def _key(example: Example, number: int) -> object:
    """Equal for what belongs together."""
    return (example.group, example.prompt) if example.group else number


def _join(group: Sequence[Example]) -> Example:
    places: dict[Response, int] = {}
    pairs: list[Pair] = []
    for example in group:
        here = [places.setdefault(response, len(places)) for response in example.responses]
        pairs += [pair._replace(better=here[pair.better], worse=here[pair.worse]) for pair in example.pairs]
    return Example(
        group[0].prompt,
        tuple(places),
        weight=sum(example.weight for example in group),
        pairs=tuple(pairs),
        group=group[0].group,
    )
