"""Newton's method for many small logistic fits at once, such as all rounds of a bootstrap.

Shapes: R = fits, P = parameters of each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

Derivatives = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""[R, P] parameters to the gradients [R, P] of what is maximised and its negated Hessians [R, P, P]."""

TOLERANCE = 1e-8
"""The largest last step, in nats. Steps shrink quadratically, so the error left is near 1e-16; a smaller
bound would meet the rounding of the gradient."""
MOST_STEPS = 100


def maximise(
    derivatives: Derivatives, reach: Callable[[FloatArray], FloatArray], start: FloatArray
) -> FloatArray:
    """[R, P] the maxima of R strictly concave logistic log-likelihoods.

    A step is shortened so that no log-odds moves by more than 1 nat. With r the largest move, the value
    grows at least by its linear part less (exp(r) - r - 1) / r^2 times the quadratic one, which is below
    one for r <= 1, so that a shortened step always goes up: Newton's method cannot overshoot here, from
    whatever start.

    Args:
        derivatives: gradients and negated Hessians; strictly concave means a prior on every direction.
        reach: [R, P] steps to [R], the largest change of any log-odds by each step, or a bound on it.
        start: [R, P]
    Raises:
        RuntimeError: no maximum after 100 steps: the function is not what it should be.
    Source: Bach 2010, Electronic Journal of Statistics 4, 384-414, proposition 1 (log-odds in place of
        its norms).
    """
    parameters = np.array(start, dtype=np.float64)
    for _ in range(MOST_STEPS):
        gradients, curvatures = derivatives(parameters)
        solved = np.linalg.solve(curvatures, gradients[..., None])
        steps = solved[..., 0].astype(np.float64)
        steps /= np.maximum(1.0, reach(steps))[:, None]
        parameters += steps
        if np.abs(steps).max() <= TOLERANCE:
            return parameters
    raise RuntimeError(f"no maximum after {MOST_STEPS} steps")
