"""Property 25, and the two paths to a log-probability that it holds against each other.

One is the packed forward that every stage takes, the other transformers' own, with its own attention.
Dimensions: P = pairs, N = response tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.data import batches
from trimtab.data.tokens import Example, Response
from trimtab.lab.properties.measures import largest
from trimtab.lab.properties.property import EXACT, Lab, Property
from trimtab.losses.pairs import PairLengths, PairLogprobs, per_token
from trimtab.model import policy as model_policy
from trimtab.model.policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PADDINGS = ((False, 0, 1), (True, 0, 1), (False, 5, 2), (True, 5, 0))
"""On the left; columns more than the longest needs; the id that fills them."""


def rows_and_padding_do_not_matter(lab: Lab) -> float:
    """One response a forward pass, padded batches of either side, and packed rows in any order agree."""
    examples = _of_several_lengths(lab)
    ordinary = ordinary_model(lab.policy)
    expected = [alone(ordinary, one.prompt, response) for one in examples for response in one.responses]
    errors = [
        _padded(ordinary, examples, left, more, fill) - torch.cat(expected) for left, more, fill in _PADDINGS
    ]
    singles = [replace(one, responses=(response,)) for one in examples for response in one.responses]
    order = torch.randperm(len(singles), generator=torch.Generator().manual_seed(1)).tolist()
    rows = [
        (packed(lab.policy, examples), expected),
        (torch.cat([packed(lab.policy, [one]) for one in singles]), expected),
        (packed(lab.policy, [singles[index] for index in order]), [expected[index] for index in order]),
        (packed(lab.policy, examples[::-1]), _in_reverse(examples, expected)),
    ]
    errors += [found - torch.cat(parts) for found, parts in rows]
    return largest(*errors, *_only_responses_are_targets(lab), *_sums_and_means(lab, expected))


def _padded(model: PreTrainedModel, examples: Sequence[Example], left: bool, more: int, fill: int) -> Tensor:
    """Each response in a row of its own of one batch, by the ordinary forward with a mask: [N]."""
    rows = [(one.prompt, response.ids) for one in examples for response in one.responses]
    width = max(len(prompt) + len(ids) for prompt, ids in rows) + more
    input_ids, mask, starts = torch.full((len(rows), width), fill), torch.zeros(len(rows), width).long(), []
    for index, (prompt, ids) in enumerate(rows):
        whole = [*prompt, *ids]
        first = width - len(whole) if left else 0
        input_ids[index, first : first + len(whole)] = torch.tensor(whole)
        mask[index, first : first + len(whole)] = 1
        starts.append(first + len(prompt))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
    device = model.device
    logits = model(**{name: value.to(device) for name, value in inputs.items()}, use_cache=False).logits.cpu()
    logprobs = torch.log_softmax(logits, -1)
    parts = [
        logprobs[index, torch.arange(start, start + len(ids)) - 1, torch.tensor(ids)]
        for index, (start, (_, ids)) in enumerate(zip(starts, rows, strict=True))
    ]
    return torch.cat(parts)


def _only_responses_are_targets(lab: Lab) -> Iterator[Tensor]:
    """The prompt's tokens are nobody's label, each response token is one, and predicted by the one before."""
    examples = _of_several_lengths(lab)
    row = batches.pack(examples)
    both = [(one.prompt, response.ids) for one in examples for response in one.responses]
    targets = torch.tensor([token for _, ids in both for token in ids])
    before = torch.tensor([token for prompt, ids in both for token in (prompt[-1], *ids[:-1])])
    yield torch.tensor(float(len(row.targets) - len(targets)))
    yield (row.targets - targets).double()
    yield (row.input_ids[0, row.predictors] - before).double()


def _sums_and_means(lab: Lab, expected: Sequence[Tensor]) -> Iterator[Tensor]:
    """A response's log-probability is the sum over its tokens: its length times their mean."""
    examples = _of_several_lengths(lab)
    row = batches.pack(examples)
    counts = torch.tensor([len(part) for part in expected], dtype=torch.float64)
    sums = row.sum_by_response(packed(lab.policy, examples))
    means = per_token(PairLogprobs(sums, sums.flip(0)), PairLengths(counts, counts.flip(0)))
    plain = torch.stack([part.mean() for part in expected])
    yield sums - counts * plain
    yield means.chosen - plain
    yield means.rejected - plain.flip(0)


def _of_several_lengths(lab: Lab) -> list[Example]:
    """The world's responses after prompts of 1, 2 and 5 tokens: branches of several lengths."""
    return [Example(prompt, lab.world.responses) for prompt in ((1,), (2, 1), (1, 2, 2, 0, 1))]


def _in_reverse(examples: Sequence[Example], parts: Sequence[Tensor]) -> list[Tensor]:
    """Values of the examples' responses as they come when the examples are packed last first."""
    rest, grouped = iter(parts), []
    for example in examples:
        grouped.append([next(rest) for _ in example.responses])
    return [part for group in reversed(grouped) for part in group]


def packed(policy: Policy, examples: Sequence[Example]) -> Tensor:
    """log p of the response tokens by the path that trains, in one row: [N] nats."""
    row = batches.pack(examples).to(policy.numerics.device)
    return model_policy.response_logprobs(policy.model, row).cpu()


def packed_pairs(policy: Policy, examples: Sequence[Example]) -> PairLogprobs:
    """log p of both responses of each pair by the path that trains: [P] each, with gradient."""
    row = batches.pack(examples).to(policy.numerics.device)
    sums = row.sum_by_response(model_policy.response_logprobs(policy.model, row)).cpu().view(-1, 2)
    return PairLogprobs(sums[:, 0], sums[:, 1])


def ordinary_model(policy: Policy) -> PreTrainedModel:
    """The same weights behind transformers' own attention."""
    model = copy.deepcopy(policy.model)
    model.set_attn_implementation("eager")
    return model


def alone(model: PreTrainedModel, prompt: tuple[int, ...], response: Response) -> Tensor:
    """log p of one response's tokens by the ordinary forward, nothing beside it: [tokens], with gradient."""
    ids = torch.tensor([[*prompt, *response.ids]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].cpu()
    logprobs: Tensor = torch.log_softmax(logits, -1)
    return logprobs[torch.arange(len(response.ids)), torch.tensor(response.ids)]


def apart(model: PreTrainedModel, example: Example) -> Tensor:
    """log p of the chosen less that of the rejected response, each alone: a scalar with gradient."""
    chosen, rejected = (alone(model, example.prompt, response).sum() for response in example.responses)
    return chosen - rejected


PROPERTIES = [
    Property(
        25,
        "neither rows nor padding matter, and only responses are labels",
        "log π by packed rows = by padded batches = alone,  Σ = n · mean",
        EXACT,
        rows_and_padding_do_not_matter,
    ),
]
