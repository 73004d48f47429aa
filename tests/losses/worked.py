"""Six preference pairs written as probabilities, and what every loss of pairs is checked for.

The test modules state each loss once more in plain floats: probabilities, their ratios and powers, odds,
and one logarithm at the end. They share nothing with the functions under test, which see log-probabilities.
Test modules write `from worked import ...`; conftest.py makes the name known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch

from trimtab.losses.pairs import PairLengths, PairLogprobs, PairLoss

NOT_POSITIVE = [0.0, -1e-9, -1.0, math.nan]
NEGATIVE = [-1e-9, -1.0, math.nan]
NO_LABEL_NOISE = [-1e-9, 0.5, 0.6, math.nan]

MISMATCH = [3.0, -1.0, 0.5]
"""Log-ratios of responses that belong to other prompts: nats, their mean above 0."""


class Sides(NamedTuple):
    """A number for each of the two responses."""

    chosen: float
    rejected: float


@dataclass(frozen=True)
class Row:
    """One pair: probabilities of whole responses, not their logarithms."""

    policy: Sides
    reference: Sides
    lengths: Sides
    policy_tail: Sides
    """Probability of the tokens beyond the shorter response's length; 1 where there are none."""
    reference_tail: Sides
    likeness: Sides
    """e^likeness."""

    @property
    def ratio(self) -> Sides:
        """policy / reference of both responses."""
        policy, reference = self.policy, self.reference
        return Sides(policy.chosen / reference.chosen, policy.rejected / reference.rejected)


Tokens = Sequence[float]


def row_of(
    policy: tuple[Tokens, Tokens], reference: tuple[Tokens, Tokens], likeness: tuple[float, float]
) -> Row:
    """A pair from the probability of each token: (chosen, rejected) under both models."""
    lengths = Sides(*(len(side) for side in policy))
    assert lengths == Sides(*(len(side) for side in reference))
    cut = int(min(lengths))
    return Row(
        policy=Sides(*(math.prod(side) for side in policy)),
        reference=Sides(*(math.prod(side) for side in reference)),
        lengths=lengths,
        policy_tail=Sides(*(math.prod(side[cut:]) for side in policy)),
        reference_tail=Sides(*(math.prod(side[cut:]) for side in reference)),
        likeness=Sides(*likeness),
    )


TOKENS: list[tuple[tuple[Tokens, Tokens], tuple[Tokens, Tokens], tuple[float, float]]] = [
    # Both responses gained, the chosen one more.
    (([0.9, 0.5], [0.2, 0.4, 0.8]), ([0.6, 0.5], [0.3, 0.4, 0.5]), (1.2, 0.5)),
    # Chosen lost, rejected gained: far on the wrong side.
    (([0.05, 0.7, 0.3], [0.9]), ([0.4, 0.7, 0.6], [0.2]), (0.3, 0.4)),
    # Chosen gained, rejected lost: far on the right side.
    (
        ([0.95, 0.9, 0.8, 0.99], [0.05, 0.1, 0.5, 0.3]),
        ([0.1, 0.2, 0.5, 0.9], [0.5, 0.4, 0.6, 0.6]),
        (2.0, 1.5),
    ),
    # Both lost, the rejected one more.
    (([0.3], [0.1, 0.02]), ([0.45], [0.3, 0.5]), (0.9, 1.3)),
    # Both gained, the rejected one more.
    (([0.8, 0.8, 0.6, 0.9, 0.7], [0.9, 0.6]), ([0.7, 0.5, 0.6, 0.6, 0.5], [0.2, 0.3]), (0.05, 0.9)),
    # Hardly off the reference, on the wrong side.
    (([0.5, 0.5], [0.31, 0.4, 0.5]), ([0.52, 0.5], [0.3, 0.4, 0.5]), (0.8, 1.0)),
]
ROWS = [row_of(*tokens) for tokens in TOKENS]

WEIGHTS = [1.0, -2.0, 0.5, 3.0, 1.5, -0.7]
"""Of the losses in the total that is differentiated, so that two that trade places show."""


@dataclass(frozen=True)
class Case:
    """A loss, the same loss in plain floats, and the options to compare them at."""

    loss: Callable[..., PairLoss]
    reads: str
    """Names of its inputs, apart by blanks."""
    plain: Callable[..., list[float]]
    """(rows, **options) -> the loss of each pair."""
    slopes: Callable[..., list[Sides]]
    """(rows, **options) -> d total / d log p of both responses, for weights of 1; written out by hand."""
    rewards: Callable[..., list[Sides]]
    """(rows, **options) -> the implied rewards."""
    defaults: Mapping[str, float]
    options: Mapping[str, float]
    """Every option away from its default."""

    def __str__(self) -> str:
        return self.loss.__name__

    def __call__(self, rows: Sequence[Row] = (), **options: float) -> PairLoss:
        return self.loss(**tensors(self.reads, rows or ROWS), **options)


def each(one: Callable[..., Any]) -> Callable[..., list[Any]]:
    """A formula for one pair, as one for a batch."""
    return lambda rows, **options: [one(row, **options) for row in rows]


def leaf(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def logprobs(sides: Sequence[Sides]) -> PairLogprobs:
    """Logarithms of probabilities: float64 leaves."""
    return PairLogprobs(
        leaf([math.log(side.chosen) for side in sides]), leaf([math.log(side.rejected) for side in sides])
    )


def pair(chosen: float, rejected: float) -> PairLogprobs:
    """One pair's log-probabilities as they are."""
    return PairLogprobs(leaf([chosen]), leaf([rejected]))


def lengths(chosen: Sequence[int], rejected: Sequence[int]) -> PairLengths:
    return PairLengths(torch.tensor(chosen), torch.tensor(rejected))


def tensors(reads: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The inputs of a loss by name."""
    found: dict[str, Any] = {}
    for name in reads.split():
        if name == "mismatch":
            found[name] = leaf(MISMATCH)
        elif name == "lengths":
            counts = [row.lengths for row in rows]
            found[name] = lengths([int(n.chosen) for n in counts], [int(n.rejected) for n in counts])
        else:
            found[name] = logprobs([getattr(row, name) for row in rows])
    return found


def log_ratio_rewards(row: Row, *, beta: float, **_: float) -> Sides:
    """Equation 5: beta * log(policy / reference)."""
    return Sides(beta * math.log(row.ratio.chosen), beta * math.log(row.ratio.rejected))


def odds(row: Row, beta: float) -> Sides:
    """e^reward of both responses: (policy / reference)^beta."""
    return Sides(row.ratio.chosen**beta, row.ratio.rejected**beta)


def share(mine: float, other: float) -> float:
    """The probability that odds of `mine` to `other` stand for."""
    return mine / (mine + other)


def exactly(values: Sequence[float]) -> Any:
    return pytest.approx(list(values), rel=1e-12, abs=1e-13)


def check_value(case: Case) -> None:
    """The loss and the rewards of all pairs, at its options and, called with none, at its defaults."""
    for given, options in [({}, case.defaults), (case.options, case.options)]:
        found = case(**given)
        assert found.loss.tolist() == exactly(case.plain(ROWS, **options))
        rewards = case.rewards(ROWS, **options)
        assert found.chosen_reward.tolist() == exactly([reward.chosen for reward in rewards])
        assert found.rejected_reward.tolist() == exactly([reward.rejected for reward in rewards])
        assert found.loss.requires_grad
        assert not found.chosen_reward.requires_grad and not found.rejected_reward.requires_grad


def check_gradient_by_differences(case: Case) -> None:
    """Autograd against central differences of the plain formula: a second path from end to end."""
    for options in (case.defaults, case.options):
        policy = gradient(case, WEIGHTS, options)
        expected = [
            Sides(*(_difference(case, place, side, options) for side in Sides._fields))
            for place in range(len(ROWS))
        ]
        assert policy.chosen == pytest.approx([slope.chosen for slope in expected], rel=1e-7, abs=1e-8)
        assert policy.rejected == pytest.approx([slope.rejected for slope in expected], rel=1e-7, abs=1e-8)


def check_gradient_in_closed_form(case: Case) -> None:
    for options in (case.defaults, case.options):
        policy = gradient(case, [1.0] * len(ROWS), options)
        expected = case.slopes(ROWS, **options)
        assert policy.chosen == exactly([slope.chosen for slope in expected])
        assert policy.rejected == exactly([slope.rejected for slope in expected])


class Gradient(NamedTuple):
    chosen: list[float]
    rejected: list[float]


def gradient(case: Case, weights: Sequence[float], options: Mapping[str, float]) -> Gradient:
    """d sum of weights * losses by the policy's log-probabilities, from autograd."""
    inputs = tensors(case.reads, ROWS)
    loss = case.loss(**inputs, **options).loss
    (loss * torch.tensor(weights, dtype=torch.float64)).sum().backward()
    policy = inputs["policy"]
    return Gradient(policy.chosen.grad.tolist(), policy.rejected.grad.tolist())


def grads_of(found: PairLoss, policy: PairLogprobs) -> Sides:
    """d loss by both log-probabilities of a single pair."""
    chosen, rejected = torch.autograd.grad(found.loss.sum(), policy)
    return Sides(chosen.item(), rejected.item())


def _difference(case: Case, place: int, side: str, options: Mapping[str, float]) -> float:
    step = 1e-5
    above, below = (case.plain(_moved(place, side, by), **options) for by in (step, -step))
    # Summed after the subtraction: the other pairs' losses cancel exactly.
    changes = [weight * (a - b) for weight, a, b in zip(WEIGHTS, above, below, strict=True)]
    return sum(changes) / (2 * step)


def _moved(place: int, side: str, nats: float) -> list[Row]:
    row = ROWS[place]
    probability = getattr(row.policy, side) * math.exp(nats)
    moved = replace(row, policy=row.policy._replace(**{side: probability}))
    return [moved if here == place else other for here, other in enumerate(ROWS)]


def refused(case: Case, message: str, **options: float) -> None:
    """One option out of its range is an error that says so, and says what was given."""
    (value,) = options.values()
    with pytest.raises(ValueError, match=f"^{re.escape(f'{message}, got {value}')}"):
        case(**options)


def allowed(case: Case, **options: float) -> None:
    assert torch.isfinite(case(**options).loss).all()
