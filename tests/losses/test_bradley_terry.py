"""The reward model's loss against odds."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.losses.bradley_terry import bradley_terry_loss, ranked_right
from trimtab.losses.sft import sft_loss


def test_value_is_minus_log_of_the_winning_odds() -> None:
    chosen, rejected = (
        torch.tensor([1.3, -0.2], dtype=torch.float64),
        torch.tensor([0.4, 2.0], dtype=torch.float64),
    )
    expected = [-math.log(math.exp(c) / (math.exp(c) + math.exp(r))) for c, r in ((1.3, 0.4), (-0.2, 2.0))]
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx(expected, rel=1e-12)


def test_gradient_pulls_apart_by_the_probability_of_being_wrong() -> None:
    chosen = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(chosen, rejected).sum().backward()
    wrong = 1 / (1 + math.exp(0.9))
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-wrong, rel=1e-12)
    assert rejected.grad.item() == pytest.approx(wrong, rel=1e-12)


def test_a_constant_model_pays_ln_2_and_ranks_nothing_right() -> None:
    same = torch.zeros(3)
    assert bradley_terry_loss(same, same).tolist() == pytest.approx([math.log(2)] * 3)
    assert not ranked_right(same, same).any()


def test_a_shift_of_both_rewards_changes_nothing() -> None:
    chosen, rejected = torch.tensor([0.5]), torch.tensor([0.1])
    torch.testing.assert_close(
        bradley_terry_loss(chosen + 7, rejected + 7), bradley_terry_loss(chosen, rejected)
    )


def test_sft_loss_is_the_negative_log_probability() -> None:
    assert sft_loss(torch.tensor([0.5, 0.25]).log()).tolist() == pytest.approx([math.log(2), math.log(4)])
