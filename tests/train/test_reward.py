"""The reward stage's own options: a margin, and what holds the level of the rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trimtab.losses.bradley_terry import bradley_terry_loss
from trimtab.train import reward

CHOSEN, REJECTED = torch.tensor([1.5, -0.5, 2.0]), torch.tensor([1.0, 0.5, -2.0])


def test_without_options_it_is_the_likelihood(settings_of: Callable[..., Any]) -> None:
    found = reward.pair_losses(CHOSEN, REJECTED, settings_of("reward"))
    torch.testing.assert_close(found, bradley_terry_loss(CHOSEN, REJECTED))


def test_margin_and_centring(settings_of: Callable[..., Any]) -> None:
    found = reward.pair_losses(CHOSEN, REJECTED, settings_of("reward", margin=0.5, centring=0.01))
    expected = [
        float(torch.log1p(torch.exp(rejected - chosen + 0.5)) + 0.01 * (chosen + rejected) ** 2)
        for chosen, rejected in zip(CHOSEN, REJECTED, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
