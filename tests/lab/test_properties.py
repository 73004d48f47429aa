"""Every closed-form property holds, and each of them can fail."""

from __future__ import annotations

import pytest
import torch

from trimtab.lab.properties import PROPERTIES
from trimtab.lab.properties.property import Lab, Property
from trimtab.model.device import Numerics


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(Numerics(torch.device("cpu"), None))


def test_the_list_is_complete() -> None:
    assert [one.number for one in PROPERTIES] == list(range(1, 53))


@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: f"{one.number}-{one.measure.__name__}")
def test_holds(one: Property, lab: Lab) -> None:
    measured = one.measure(lab)
    assert 0 <= measured <= one.allowed, f"{one.name}: {one.formula}"
