"""What all losses of pairs are built of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from worked import NEGATIVE, NO_LABEL_NOISE, NOT_POSITIVE

from trimtab.losses.pairs import (
    PairLengths,
    PairLogprobs,
    implied_rewards,
    log_ratios,
    per_token,
    require_finite,
    require_label_noise,
    require_non_negative,
    require_positive,
    with_rewards,
)

POLICY = PairLogprobs(torch.tensor([-2.0, -7.0]), torch.tensor([-3.0, -11.0]))
REFERENCE = PairLogprobs(torch.tensor([-2.5, -5.0]), torch.tensor([-1.0, -11.0]))


def lists(pair: tuple[torch.Tensor, torch.Tensor]) -> list[list[float]]:
    return [side.tolist() for side in pair]


def test_a_log_ratio_is_above_0_where_the_policy_is_more_likely() -> None:
    assert lists(log_ratios(POLICY, REFERENCE)) == [[0.5, -2.0], [-2.0, 0.0]]


def test_per_token_divides_each_side_by_its_own_length() -> None:
    found = per_token(POLICY, PairLengths(torch.tensor([4, 2]), torch.tensor([1, 8])))
    assert lists(found) == [[-0.5, -3.5], [-3.0, -1.375]]


def test_implied_rewards_are_beta_times_the_log_ratio() -> None:
    assert lists(implied_rewards(POLICY, REFERENCE, 0.5)) == [[0.25, -1.0], [-1.0, 0.0]]


@pytest.mark.parametrize("beta", NOT_POSITIVE)
def test_implied_rewards_refuse_a_beta_that_is_not_positive(beta: float) -> None:
    with pytest.raises(ValueError, match=f"^beta must be > 0, got {beta}$"):
        implied_rewards(POLICY, REFERENCE, beta)


def test_rewards_are_handed_on_without_gradient_and_the_loss_with_it() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    found = with_rewards(3 * weight, PairLogprobs(4 * weight, 5 * weight))
    assert (found.loss.item(), found.chosen_reward.item(), found.rejected_reward.item()) == (6, 8, 10)
    assert found.loss.requires_grad
    assert not found.chosen_reward.requires_grad and not found.rejected_reward.requires_grad


@pytest.mark.parametrize("value", NOT_POSITIVE)
def test_require_positive(value: float) -> None:
    with pytest.raises(ValueError, match=f"^some_option must be > 0, got {value}$"):
        require_positive("some_option", value)
    require_positive("some_option", 1e-300)
    require_positive("some_option", 1e300)


@pytest.mark.parametrize("value", NEGATIVE)
def test_require_non_negative(value: float) -> None:
    with pytest.raises(ValueError, match=f"^some_option must be >= 0, got {value}$"):
        require_non_negative("some_option", value)
    require_non_negative("some_option", 0.0)
    require_non_negative("some_option", 1e300)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_require_finite(value: float) -> None:
    with pytest.raises(ValueError, match=f"^some_option must be a finite number, got {value}$"):
        require_finite("some_option", value)
    for allowed in (-1e300, 0.0, 1e300):
        require_finite("some_option", allowed)


@pytest.mark.parametrize("value", NO_LABEL_NOISE)
def test_require_label_noise(value: float) -> None:
    message = f"label_noise must be in [0, 0.5), got {value}: at 0.5 labels say nothing"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        require_label_noise(value)
    require_label_noise(0.0)
    require_label_noise(math.nextafter(0.5, 0))


@pytest.mark.parametrize("require", [require_positive, require_non_negative, require_finite])
def test_infinity_is_refused(require: Callable[[str, float], None]) -> None:
    with pytest.raises(ValueError, match=r"^beta must be a finite number, got inf$"):
        require("beta", math.inf)
