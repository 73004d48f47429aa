"""Measures on dev pairs against counts by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

from trimtab.data.tokens import Example, Pair, Response
from trimtab.runs.run import open_run, read_metrics
from trimtab.statistics.intervals import wilson
from trimtab.train import reward_measures
from trimtab.train.measures import Mean
from trimtab.train.reward_measures import DevPairs, accuracies_by_length, dev_pairs, report


def made(margins: list[float], chosen: list[int], rejected: list[int], owners: list[int]) -> DevPairs:
    return DevPairs(*(np.array(values) for values in (margins, owners, chosen, rejected)))


def test_pairs_find_their_rewards_and_lengths() -> None:
    responses = tuple(Response((9,) * length, True) for length in (3, 1, 2))
    ranking = Example((1,), responses, pairs=(Pair(2, 0), Pair(1, 2)))
    pair = Example((1,), responses[:2])
    found = dev_pairs([ranking, pair], [torch.tensor([0.5, 2.0, -1.0]), torch.tensor([4.0, 1.0])])
    assert found.margins.tolist() == [-1.5, 3.0, 3.0] and found.owners.tolist() == [0, 0, 1]
    assert found.chosen_tokens.tolist() == [2, 1, 3] and found.rejected_tokens.tolist() == [3, 2, 1]


def test_accuracy_by_length_of_pairs() -> None:
    margins = [1.0, -1.0, 2.0, 0.0, 1.0, 1.0, -2.0, 3.0, 1.0]
    chosen, rejected = [1, 2, 3, 8, 8, 8, 15, 16, 17], [2, 3, 1, 8, 7, 9, 30, 15, 16]
    found = accuracies_by_length(made(margins, chosen, rejected, list(range(9))), seed=0)
    counts = {
        "chosen_longer": (4, 4),
        "rejected_longer": (2, 4),
        "short": (2, 3),
        "medium": (2, 3),
        "long": (2, 3),
    }
    for name, (right, n) in counts.items():
        expected = wilson(right, n)
        assert found[f"dev_accuracy_{name}"] == pytest.approx(right / n)
        assert found[f"dev_accuracy_{name}_low"] == expected.low and found[f"dev_accuracy_{name}_n"] == n
        assert found[f"dev_accuracy_{name}_high"] == expected.high
    assert "dev_accuracy_same_length" not in found, "one pair is no slice"


def test_accuracy_of_rankings_takes_the_ranking_as_the_unit() -> None:
    """Six pairs of each of 20 rankings that are all right or all wrong: as uncertain as 20 pairs."""
    margins = [1.0 if ranking % 2 else -1.0 for ranking in range(20) for _ in range(6)]
    owners = [ranking for ranking in range(20) for _ in range(6)]
    found = accuracies_by_length(made(margins, [5] * 120, [4] * 120, owners), seed=0)
    width = found["dev_accuracy_chosen_longer_high"] - found["dev_accuracy_chosen_longer_low"]
    of_20, of_120 = wilson(10, 20), wilson(60, 120)
    assert found["dev_accuracy_chosen_longer"] == 0.5
    assert width == pytest.approx(of_20.high - of_20.low, rel=0.15)
    assert width > 2 * (of_120.high - of_120.low)


@pytest.fixture
def reported(settings_of: Callable[..., Any], tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def run_report(found: DevPairs, **more: Any) -> list[dict[str, Any]]:
        with open_run(tmp_path / "run", "reward", settings_of("reward"), resume=False) as run:
            report(run, 3, 0, found, **more)
        return read_metrics(tmp_path / "run")

    return run_report


def test_the_unit_of_loss_and_accuracy_is_the_example(
    reported: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    found = made([1.0, -1.0, 2.0, 0.5, 3.0], [5, 6, 7, 8, 9], [6] * 5, [0, 0, 0, 1, 2])
    row, lengths = reported(found, disagreement=Mean([0.5, 1.0, 1.5]))
    loss = np.logaddexp(0, -found.margins)
    assert row["dev_loss"] == pytest.approx(np.mean([loss[:3].mean(), loss[3], loss[4]]), rel=1e-6)
    assert row["dev_accuracy"] == pytest.approx((2 / 3 + 1 + 1) / 3) and row["dev_n"] == 3
    assert row["dev_disagreement"] == 1.0
    assert lengths["step"] == 3 and "dev_accuracy_chosen_longer" in lengths and "dev_n" not in lengths
    assert "dev_calibration_error" not in lengths, "five pairs tell nothing of it"
    bins = json.loads((tmp_path / "run" / reward_measures.CALIBRATION).read_text())["bins"]
    assert sum(one["count"] for one in bins) == 5


def test_overconfidence_is_measured(reported: Callable[..., list[dict[str, Any]]]) -> None:
    draw = np.random.default_rng(0)
    size = np.abs(draw.normal(0, 1, 600))
    margins = 4 * np.where(draw.random(600) < expit(size), size, -size)
    found = made(margins.tolist(), [3] * 600, [2] * 600, list(range(600)))
    row = reported(found)[-1]
    true = np.mean(expit(4 * size) - expit(size))
    assert row["dev_calibration_error"] == pytest.approx(true, abs=0.05)
    assert 0.05 < row["dev_calibration_error_low"] < true < row["dev_calibration_error_high"]


def test_margins_are_kept(tmp_path: Path) -> None:
    found = made([1.0, -0.25], [5, 6], [7, 8], [0, 1])
    found.save(tmp_path)
    again = DevPairs.read(tmp_path)
    assert [getattr(again, name).tolist() for name in DevPairs.__slots__] == [
        getattr(found, name).tolist() for name in DevPairs.__slots__
    ]
