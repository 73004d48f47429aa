"""An average of a model's weights over the steps of its training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trimtab.runs.run import Run


class Average:
    """a <- keep a + (1 - keep) w after every step, from the weights w that training begins with.

    A second set of weights in memory and in checkpoints. InstructGPT (Ouyang et al. 2022, arXiv:2203.02155,
    appendix C) keeps 0.992 and ships the average.
    """

    def __init__(self, model: nn.Module, *, keep: float) -> None:
        self._weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._average = {name: value.detach().clone() for name, value in self._weights.items()}
        self._keep = keep

    def follow(self) -> None:
        """Take one step towards the weights as they are."""
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1 - self._keep)

    def put(self) -> None:
        """Give the model the average as its weights."""
        with torch.no_grad():
            for name, value in self._weights.items():
                value.copy_(self._average[name])

    def tensors(self, name: str) -> Mapping[str, Mapping[str, Tensor]]:
        """The average, as a group for a checkpoint."""
        return {f"{name}-average": self._average}

    def restore(self, run: Run, name: str) -> None:
        """Take the average from the run's checkpoint, if it has one."""
        if run.resumed_from is None:
            return
        for key, value in run.resumed_from.tensors(f"{name}-average").items():
            self._average[key].copy_(value)
