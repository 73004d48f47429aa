"""bounded_exp: exp itself up to 30, its tangent beyond; bounded_expm1: the same less 1, to the last digit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from trimtab.losses.exponent import LIMIT, bounded_exp, bounded_expm1


def value_and_slope(
    x: float,
    dtype: torch.dtype = torch.float64,
    function: Callable[[torch.Tensor], torch.Tensor] = bounded_exp,
) -> tuple[float, float]:
    exponent = torch.tensor([x], dtype=dtype, requires_grad=True)
    found = function(exponent)
    (slope,) = torch.autograd.grad(found.sum(), exponent)
    assert found.dtype == slope.dtype == dtype
    return found.item(), slope.item()


def test_the_limit() -> None:
    assert LIMIT == 30


@pytest.mark.parametrize("x", [-700.0, -1.0, 0.0, 1.0, 29.0, 29.999])
def test_below_the_limit_it_is_exp_and_its_own_slope(x: float) -> None:
    assert value_and_slope(x) == pytest.approx((math.exp(x), math.exp(x)), rel=1e-14)


def test_at_the_limit_the_value_is_that_of_exp() -> None:
    found = bounded_exp(torch.tensor([30.0], dtype=torch.float64)).item()
    assert found == pytest.approx(math.exp(30), rel=1e-14)


@pytest.mark.parametrize("x", [30.001, 31.0, 60.0, 1e4])
def test_beyond_the_limit_it_is_the_tangent(x: float) -> None:
    expected = math.exp(30) * (1 + (x - 30))
    assert value_and_slope(x) == pytest.approx((expected, math.exp(30)), rel=1e-13)


def test_value_and_slope_are_continuous_at_the_limit() -> None:
    below, above = value_and_slope(30 - 1e-7), value_and_slope(30 + 1e-7)
    assert above == pytest.approx(below, rel=3e-7)
    assert above[0] > below[0]


@pytest.mark.parametrize("x", [1e4, -1e4])
def test_float32_stays_finite_with_room_for_squares(x: float) -> None:
    value, slope = value_and_slope(x, torch.float32)
    assert 0 <= value < 1.1e17 and 0 <= slope < 1.1e13


@pytest.mark.parametrize("x", [1e-12, -1e-9, 1e-3, -2.0, 5.0, 29.9])
def test_less_1_the_digits_of_a_small_exponent_are_kept(x: float) -> None:
    for dtype, digits in [(torch.float64, 1e-14), (torch.float32, 2e-6)]:
        found = value_and_slope(x, dtype, bounded_expm1)
        assert found == pytest.approx((math.expm1(x), math.exp(x)), rel=digits, abs=0)


@pytest.mark.parametrize("x", [30.0, 30.001, 60.0, 1e4])
def test_less_1_it_is_the_same_tangent_beyond_the_limit(x: float) -> None:
    expected = math.expm1(30) + math.exp(30) * (x - 30)
    assert value_and_slope(x, function=bounded_expm1) == pytest.approx((expected, math.exp(30)), rel=1e-14)


def test_shape_is_kept() -> None:
    found = bounded_exp(torch.tensor([[0.0, 1.0, 60.0]]))
    assert found.shape == (1, 3)
    assert found[0, :2].tolist() == pytest.approx([1, math.e], rel=1e-6)
