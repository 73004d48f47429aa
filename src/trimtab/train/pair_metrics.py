"""What is measured of pairs beside their loss: how rewards rank them, how far both sides moved, lengths.

The reward of a response is the one that the loss implies. A pair is ranked right only if the chosen
response's is strictly higher: a tie is wrong.

Dimensions: P = pairs. Units: log-ratios and log-probabilities in nats per response, lengths in tokens with
the stop token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.losses.bradley_terry import ranked_right
from trimtab.losses.pairs import PairLoss
from trimtab.train.measures import Mean, Measure, Share


@dataclass(frozen=True)
class Pairs:
    """Pairs under the policy as it is; no gradients."""

    loss: Tensor  # [P]
    chosen_reward: Tensor  # [P]
    rejected_reward: Tensor  # [P]
    chosen: Tensor  # [P] log-ratio to the reference; log-probability for a loss that reads none
    rejected: Tensor  # [P] likewise
    chosen_tokens: Tensor  # [P]
    rejected_tokens: Tensor  # [P]
    weight: Tensor  # [P]

    @property
    def right(self) -> Tensor:
        """Whether the implied rewards are ranked as people did: [P] float, 0 or 1."""
        return ranked_right(self.chosen_reward, self.rejected_reward).to(self.loss.dtype)

    @property
    def margin(self) -> Tensor:
        """Chosen less rejected implied reward: [P]."""
        return self.chosen_reward - self.rejected_reward

    @property
    def longer(self) -> Tensor:
        """Tokens by which the chosen response is longer, below 0 where it is shorter: [P]."""
        return (self.chosen_tokens - self.rejected_tokens).to(self.loss.dtype)


def pairs_of(loss: PairLoss, read: Mapping[str, Any], lengths: Tensor, weight: Tensor) -> Pairs:
    """What the loss read and gave.

    Args:
        read: its inputs by name.
        lengths: [P, K] tokens of each pair's responses.
        weight: [P] what each pair counts.
    """
    policy, reference = read["policy"], read.get("reference")
    sides = policy if reference is None else (p - r for p, r in zip(policy, reference, strict=True))
    chosen, rejected = (side.detach() for side in sides)
    return Pairs(
        loss.loss.detach(),
        loss.chosen_reward,
        loss.rejected_reward,
        chosen,
        rejected,
        lengths[:, 0],
        lengths[:, 1],
        weight,
    )


def together(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of all the rows of a step, on the CPU."""
    columns = {
        field.name: torch.cat([getattr(part, field.name) for part in parts]).cpu() for field in fields(Pairs)
    }
    return Pairs(**columns)


def step_metrics(pairs: Pairs, side: str) -> dict[str, float]:
    """Means over the pairs of a step, by weight; what the step holds no pair of is not there.

    Args:
        side: what `chosen` and `rejected` are: logratio or logprob.
    """

    def mean(values: Tensor, among: Tensor) -> float:
        weight = pairs.weight * among
        return float((weight * values).sum() / weight.sum())

    every = torch.ones_like(pairs.longer, dtype=torch.bool)
    named = {
        "loss": (pairs.loss, every),
        "accuracy": (pairs.right, every),
        "margin": (pairs.margin, every),
        f"chosen_{side}": (pairs.chosen, every),
        f"rejected_{side}": (pairs.rejected, every),
        "chosen_tokens": (pairs.chosen_tokens, every),
        "rejected_tokens": (pairs.rejected_tokens, every),
        "longer_chosen": (pairs.longer > 0, every),
        "accuracy_longer_chosen": (pairs.right, pairs.longer > 0),
        "accuracy_shorter_chosen": (pairs.right, pairs.longer < 0),
    }
    found = {name: mean(values, among) for name, (values, among) in named.items() if bool(among.any())}
    covariance, length, reward = (
        mean(a * b, every)
        for a, b in ((pairs.longer, pairs.margin), (pairs.longer, pairs.longer), (pairs.margin, pairs.margin))
    )
    if length * reward > 0:
        found["length_correlation"] = covariance / math.sqrt(length * reward)
    return found


def dev_measures(pairs: Pairs, side: str, *, step: int) -> dict[str, Measure]:
    """The same over the dev set, for intervals; what is true of the data alone is measured at step 0 only."""
    right, longer = pairs.right, pairs.longer
    measures: dict[str, Measure] = {
        "loss": Mean(pairs.loss.tolist()),
        "margin": Mean(pairs.margin.tolist()),
        "accuracy": Share(right.tolist()),
        f"chosen_{side}": Mean(pairs.chosen.tolist()),
        f"rejected_{side}": Mean(pairs.rejected.tolist()),
    }
    for name, among in (("longer", longer > 0), ("shorter", longer < 0)):
        if int(among.sum()) > 1:
            measures[f"accuracy_{name}_chosen"] = Share(right[among].tolist())
    correlation = linearised_correlation(longer.tolist(), pairs.margin.tolist())
    if correlation is not None and (step > 0 or side == "logprob"):  # before, log-ratios are rounding
        measures["length_correlation"] = Mean(correlation)
    if step == 0:
        measures["chosen_tokens"] = Mean(pairs.chosen_tokens.tolist())
        measures["rejected_tokens"] = Mean(pairs.rejected_tokens.tolist())
        measures["longer_chosen"] = Share((longer > 0).double().tolist())
    return measures


def linearised_correlation(longer: Sequence[float], margin: Sequence[float]) -> list[float] | None:
    """Values whose mean is the correlation of length and reward within pairs, and whose spread is its own.

    r = sum(d m) / sqrt(sum(d^2) sum(m^2)): Pearson's over both orders of each pair, so that it does not
    depend on which response was chosen. None where nothing differs.

    Args:
        longer: [P] tokens by which one response is longer, d.
        margin: [P] by how much higher its reward is, m.
    Source: the influence function of a correlation; Devlin et al. 1975, Biometrika 62(3), 531-545.
    """
    d, m = np.asarray(longer, dtype=np.float64), np.asarray(margin, dtype=np.float64)
    lengths, rewards = (d * d).mean(), (m * m).mean()
    if not lengths * rewards > 0:
        return None
    product = d * m / math.sqrt(lengths * rewards)
    r = product.mean()
    values: list[float] = (r + product - r / 2 * (d * d / lengths + m * m / rewards)).tolist()
    return values
