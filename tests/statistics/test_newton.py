"""The batched maximum against scipy's minimiser, from starts where plain Newton would overshoot."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from trimtab.statistics.newton import maximise

DESIGN = np.random.default_rng(0).uniform(-1, 1, (40, 2))
OUTCOMES = (np.random.default_rng(1).random((3, 40)) < expit(DESIGN @ [3.0, -1.0])).astype(float)
RIDGE = 0.01


def derivatives(parameters):
    chances = expit(parameters @ DESIGN.T)
    spread = chances * (1 - chances)
    gradients = (OUTCOMES - chances) @ DESIGN - RIDGE * parameters
    return gradients, np.einsum("rn,ni,nj->rij", spread, DESIGN, DESIGN) + RIDGE * np.eye(2)


def cost(parameters, outcomes):
    odds = DESIGN @ parameters
    return (np.logaddexp(0, odds) - outcomes * odds).sum() + RIDGE / 2 * parameters @ parameters


@pytest.mark.parametrize("start", [[0.0, 0.0], [30.0, -20.0], [-40.0, 40.0]])
def test_every_fit_reaches_its_own_maximum(start):
    found = maximise(derivatives, lambda steps: np.abs(steps).sum(axis=1), np.tile(start, (3, 1)))
    for row, outcomes in zip(found, OUTCOMES, strict=True):
        expected = minimize(cost, [0.0, 0.0], args=(outcomes,), method="BFGS", options={"gtol": 1e-9}).x
        assert row == pytest.approx(expected, abs=1e-5)
    assert np.abs(derivatives(found)[0]).max() < 1e-10


def test_the_start_is_left_alone():
    start = np.zeros((3, 2))
    maximise(derivatives, lambda steps: np.abs(steps).sum(axis=1), start)
    assert not start.any()


def test_what_has_no_maximum_is_not_waited_for():
    with pytest.raises(RuntimeError, match="no maximum"):
        maximise(
            lambda parameters: (np.ones_like(parameters), np.ones((1, 1, 1))),
            lambda steps: np.abs(steps[:, 0]),
            np.zeros((1, 1)),
        )
