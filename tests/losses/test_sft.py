"""The supervised loss against probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.losses.sft import sft_loss

PROBABILITIES = [0.5, 0.25, 0.9, 1e-30]


def test_the_loss_of_a_token_is_what_its_probability_says() -> None:
    found = sft_loss(torch.tensor(PROBABILITIES, dtype=torch.float64).log())
    assert found.tolist() == pytest.approx([math.log(1 / p) for p in PROBABILITIES], rel=1e-12)


def test_a_token_that_was_certain_costs_nothing() -> None:
    assert sft_loss(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_value_a_token_in_the_type_it_came_in(dtype: torch.dtype) -> None:
    found = sft_loss(torch.zeros(4, dtype=dtype))
    assert found.shape == (4,) and found.dtype == dtype
    assert sft_loss(torch.zeros(0, dtype=dtype)).shape == (0,)


def test_its_gradient_raises_every_token_alike() -> None:
    logprobs = torch.tensor(PROBABILITIES, dtype=torch.float64).log().requires_grad_()
    (gradient,) = torch.autograd.grad(sft_loss(logprobs).sum(), logprobs)
    assert gradient.tolist() == [-1, -1, -1, -1]


def test_on_a_softmax_it_is_least_where_the_policy_is_the_data() -> None:
    """Cross-entropy = entropy of the data + KL(data || policy), by enumeration of five outcomes."""
    data = [0.1, 0.3, 0.2, 0.05, 0.35]
    logits = torch.tensor([0.9, -0.4, 0.3, -1.2, 0.1], dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(logits, 0)
    loss = (torch.tensor(data, dtype=torch.float64) * sft_loss(logprobs)).sum()
    policy = logprobs.exp().tolist()
    entropy = math.fsum(p * math.log(1 / p) for p in data)
    divergence = math.fsum(p * math.log(p / q) for p, q in zip(data, policy, strict=True))
    assert loss.item() == pytest.approx(entropy + divergence, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.tolist() == pytest.approx([q - p for p, q in zip(data, policy, strict=True)], abs=1e-12)


@pytest.mark.parametrize("logprob", [-1e4, -1e30])
def test_an_all_but_impossible_token_stays_finite(logprob: float) -> None:
    assert sft_loss(torch.tensor([logprob])).tolist() == pytest.approx([-logprob], rel=1e-6)
