"""Means with intervals, and changes measured example by example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trimtab.config import Settings
from trimtab.errors import DataError
from trimtab.runs.run import open_run, read_metrics
from trimtab.train.measures import Mean, Share, log_measures, per_token


class Stage(Settings):
    seed: int = 0


def test_the_mean_per_token_is_the_ratio_of_the_sums() -> None:
    totals, tokens = [2.0, 30.0, 3.0], [1, 10, 4]
    assert np.mean(per_token(totals, tokens).values) == pytest.approx(35 / 15)


def test_equal_losses_per_token_have_no_spread_whatever_the_lengths() -> None:
    values = per_token([2.0, 20.0, 8.0], [1, 10, 4]).values
    assert values == pytest.approx([2.0, 2.0, 2.0])


def test_the_spread_is_that_of_the_ratio() -> None:
    """Against brute force: the standard deviation of the ratio over resampled examples."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 60, 400)
    totals = tokens * 2.5 + draw.normal(0, 3, 400)
    picks = draw.integers(0, 400, (4000, 400))
    ratios = totals[picks].sum(1) / tokens[picks].sum(1)
    values = np.array(per_token(totals.tolist(), tokens.tolist()).values)
    assert values.std() / np.sqrt(400) == pytest.approx(ratios.std(), rel=0.05)


def test_the_change_is_paired(tmp_path: Path) -> None:
    before = np.random.default_rng(1).normal(3, 5, 100)  # examples differ by far more than they change
    after = before - 0.2 + np.random.default_rng(2).normal(0, 0.1, 100)
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        log_measures(run, 0, 0, loss=Mean(before.tolist()), right=Share([0.0] * 60 + [1.0] * 40))
        log_measures(run, 9, 0, loss=Mean(after.tolist()), right=Share([0.0] * 50 + [1.0] * 50))
    first, last = read_metrics(tmp_path)
    assert first["step"] == 0 and last["step"] == 9
    assert "dev_loss_change" not in first
    assert last["dev_loss_high"] > first["dev_loss_low"]  # the two intervals overlap
    assert last["dev_loss_change"] == pytest.approx((after - before).mean())
    assert -0.25 < last["dev_loss_change_low"] < last["dev_loss_change_high"] < -0.15
    assert last["dev_right"] == 0.5 and last["dev_right_change"] == pytest.approx(0.1)
    assert last["dev_n"] == 100


def test_one_example_is_too_few(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run, pytest.raises(DataError, match="two dev"):
        log_measures(run, 0, 0, loss=Mean([1.0]))
