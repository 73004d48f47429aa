"""exp() for ratios of probabilities, finite wherever a policy may go."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LIMIT = 30.0
"""e^30 is 1e13; float32 ends at 3e38, and squares and sums of squares of gradients must fit as well."""


def bounded_exp(exponent: Tensor) -> Tensor:
    """exp(x), continued along its tangent beyond LIMIT.

    A token that the policy has all but ruled out, or has become certain of, keeps a finite loss and a
    finite gradient of the right sign; below the limit the value is exp(x) itself.

    Source: docs/math.md#bounded-exp.
    """
    return torch.exp(exponent.clamp(max=LIMIT)) + math.exp(LIMIT) * F.relu(exponent - LIMIT)


def bounded_expm1(exponent: Tensor) -> Tensor:
    """bounded_exp(x) - 1, without losing the digits of a small x.

    Source: docs/math.md#bounded-exp.
    """
    return torch.expm1(exponent.clamp(max=LIMIT)) + math.exp(LIMIT) * F.relu(exponent - LIMIT)
