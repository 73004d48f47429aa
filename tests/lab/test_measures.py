"""How errors are measured: nothing may be lost on the way to one number."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.lab.properties.measures import SMOOTH, beyond, largest, slope


def test_the_largest_of_all_by_absolute_value() -> None:
    assert largest(torch.tensor([1.0, -3.0]), torch.tensor(2.0), torch.zeros(2, 2)) == 3


@pytest.mark.parametrize("place", [0, 1])
def test_a_nan_is_not_lost(place: int) -> None:
    errors = [torch.tensor([0.0, 5.0]), torch.tensor([1.0, 2.0])]
    errors[place][0] = math.nan
    assert math.isnan(largest(*errors))


def test_only_what_is_beyond_its_limit_counts() -> None:
    assert beyond(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])).tolist() == [0, 1]
    assert beyond(torch.tensor([-1.0, 1.0]), 0).tolist() == [0, 1]
    assert beyond(torch.tensor([math.nan]), 0).isnan().all()


def test_the_slope_of_a_quartic_is_exact() -> None:
    found = slope(lambda x: torch.tensor(x**4 - 2 * x, dtype=torch.float64), 0.5, step=0.1)
    assert found.item() == pytest.approx(4 * 0.5**3 - 2, rel=1e-12)


def test_the_slope_is_off_by_the_fifth_derivative() -> None:
    """x^5 has 120 as its fifth derivative: step^4 / 30 of it is 4 step^4."""
    found = slope(lambda x: torch.tensor(x**5, dtype=torch.float64), 0.0, step=0.1)
    assert found.item() == pytest.approx(-4 * 0.1**4, rel=1e-9)
    smooth = slope(lambda x: torch.tensor(math.exp(x), dtype=torch.float64), 1.0, step=1e-3)
    assert abs(smooth.item() - math.e) < SMOOTH
