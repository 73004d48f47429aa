"""What is measured of pairs, against counts and sums by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from trimtab.train.pair_metrics import Pairs, dev_measures, linearised_correlation, step_metrics, together

# pair:     0     1     2     3    4
CHOSEN = [0.5, -1.0, 2.0, 0.25, -0.5]
REJECTED = [0.5, -2.0, 3.0, -0.25, 0.5]  # pair 0 is a tie: wrong
LONG = [7, 3, 5, 2, 9]
SHORT = [4, 5, 5, 1, 3]
WEIGHT = [1.0, 1.0, 0.5, 0.5, 2.0]


def pairs() -> Pairs:
    chosen, rejected = torch.tensor(CHOSEN), torch.tensor(REJECTED)
    return Pairs(
        loss=torch.arange(5.0),
        chosen_reward=chosen,
        rejected_reward=rejected,
        chosen=10 * chosen,
        rejected=10 * rejected,
        chosen_tokens=torch.tensor(LONG),
        rejected_tokens=torch.tensor(SHORT),
        weight=torch.tensor(WEIGHT),
    )


def weighted(values: list[float], among: list[int]) -> float:
    return sum(WEIGHT[i] * values[i] for i in among) / sum(WEIGHT[i] for i in among)


def test_step_metrics() -> None:
    right = [0.0, 1.0, 0.0, 1.0, 0.0]
    every, longer, shorter = [0, 1, 2, 3, 4], [0, 3, 4], [1]
    margins = [c - r for c, r in zip(CHOSEN, REJECTED, strict=True)]
    apart = [a - b for a, b in zip(LONG, SHORT, strict=True)]
    both_orders = np.array([(s * d, s * m) for s in (1, -1) for d, m in zip(apart, margins, strict=True)])
    expected = {
        "loss": weighted([0.0, 1.0, 2.0, 3.0, 4.0], every),
        "accuracy": weighted(right, every),
        "margin": weighted(margins, every),
        "chosen_logratio": 10 * weighted(CHOSEN, every),
        "rejected_logratio": 10 * weighted(REJECTED, every),
        "chosen_tokens": weighted([float(n) for n in LONG], every),
        "rejected_tokens": weighted([float(n) for n in SHORT], every),
        "longer_chosen": weighted([1.0, 0.0, 0.0, 1.0, 1.0], every),
        "accuracy_longer_chosen": weighted(right, longer),
        "accuracy_shorter_chosen": weighted(right, shorter),
        "length_correlation": np.cov(both_orders.T, aweights=WEIGHT * 2)[0, 1]
        / math.sqrt(np.prod([np.cov(column, aweights=WEIGHT * 2) for column in both_orders.T])),
    }
    assert step_metrics(pairs(), "logratio") == pytest.approx(expected, rel=1e-6)


def test_rows_of_a_step_make_the_step() -> None:
    whole = pairs()
    parts = [
        Pairs(*(getattr(whole, field.name)[piece] for field in dataclasses.fields(Pairs)))
        for piece in (slice(0, 2), slice(2, 5))
    ]
    assert step_metrics(together(parts), "logprob") == step_metrics(whole, "logprob")


def test_what_a_step_has_no_pair_of_is_not_there() -> None:
    equal = dataclasses.replace(pairs(), chosen_tokens=torch.tensor(SHORT))
    found = step_metrics(equal, "logratio")
    assert not {"accuracy_longer_chosen", "accuracy_shorter_chosen", "length_correlation"} & found.keys()


def test_dev_measures() -> None:
    begun, later = (dev_measures(pairs(), "logratio", step=step) for step in (0, 3))
    assert {name for name in begun if name not in later} == {
        "chosen_tokens",
        "rejected_tokens",
        "longer_chosen",
    }
    assert {name for name in later if name not in begun} == {"length_correlation"}
    assert later["accuracy"].values == [0, 1, 0, 1, 0]
    assert later["accuracy_longer_chosen"].values == [0, 1, 0]
    assert "accuracy_shorter_chosen" not in later  # one pair has no interval
    assert later["rejected_logratio"].values == [10 * value for value in REJECTED]
    assert begun["longer_chosen"].values == [1, 0, 0, 1, 1]


def test_the_correlations_interval_is_that_of_resampled_pairs() -> None:
    draw = np.random.default_rng(5)
    longer = draw.normal(size=400)
    margin = 0.6 * longer + draw.normal(size=400)

    def correlation(d: np.ndarray, m: np.ndarray) -> float:
        return float(np.corrcoef(np.concatenate([d, -d]), np.concatenate([m, -m]))[0, 1])

    values = linearised_correlation(longer.tolist(), margin.tolist())
    assert values is not None
    assert np.mean(values) == pytest.approx(correlation(longer, margin), rel=1e-12)
    resampled = [correlation(longer[drawn], margin[drawn]) for drawn in draw.integers(400, size=(2000, 400))]
    assert np.std(values) / math.sqrt(400) == pytest.approx(np.std(resampled), rel=0.08)


def test_equal_lengths_or_equal_rewards_have_no_correlation() -> None:
    assert linearised_correlation([0.0, 0.0], [1.0, 2.0]) is None
    assert linearised_correlation([1.0, 2.0], [0.0, 0.0]) is None
    assert linearised_correlation([1.0, -2.0], [3.0, -6.0]) == pytest.approx([1.0, 1.0])
