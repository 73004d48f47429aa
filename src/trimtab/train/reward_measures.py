"""How a reward model's margins on the dev pairs compare with what people chose.

Beside likelihood and accuracy: accuracy where the chosen response is the longer one and where it is not,
accuracy by the length of the pair, and whether sigma(margin) is as often right as it says.

Pairs of one ranking depend on each other: the intervals of accuracies take the ranking as the unit; that of
the calibration takes each pair for itself and is too narrow for rankings.

Dimensions: P = pairs, E = examples (pairs or rankings).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.data.rankings import pairs_in
from trimtab.data.tokens import Example
from trimtab.losses.bradley_terry import bradley_terry_loss
from trimtab.runs import progress
from trimtab.runs.files import write_json
from trimtab.runs.run import Run
from trimtab.statistics.bootstrap import bootstrap_mean, linearised_ratio
from trimtab.statistics.calibration import calibration, equal_mass_edges, from_margins
from trimtab.statistics.intervals import Interval, wilson
from trimtab.train.measures import Mean, Measure, Share, log_measures

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MARGINS = "dev_margins.json"
"""The run folder's file with each dev pair's margin at the end."""
CALIBRATION = "dev_calibration.json"
"""The run folder's file with the reliability bins, as last measured."""


@dataclass(frozen=True, slots=True)
class DevPairs:
    """The pairs of the dev examples, in order, with what the model makes of them."""

    margins: FloatArray
    """[P] chosen's reward less rejected's, in nats."""
    owners: NDArray[np.int64]
    """[P] the example that each is of, 0 .. E-1."""
    chosen_tokens: NDArray[np.int64]
    rejected_tokens: NDArray[np.int64]
    """[P] lengths of the two responses."""

    @property
    def right(self) -> BoolArray:
        """[P] whether each is ranked as people did; a tie is wrong."""
        found: BoolArray = self.margins > 0
        return found

    def by_example(self, values: FloatArray) -> FloatArray:
        """[P] to [E]: the mean over each example's pairs."""
        means: FloatArray = np.bincount(self.owners, weights=values) / np.bincount(self.owners)
        return means

    def save(self, folder: Path) -> None:
        """Into the run folder, for an ensemble and for whoever wants to look."""
        write_json(folder / MARGINS, {name: value.tolist() for name, value in asdict(self).items()})

    @classmethod
    def read(cls, folder: Path) -> DevPairs:
        """The reverse of `save`."""
        tree = json.loads((folder / MARGINS).read_text(encoding="utf-8"))
        return cls(**{name: np.array(value) for name, value in tree.items()})


def dev_pairs(examples: Sequence[Example], scores: Sequence[Tensor]) -> DevPairs:
    """Join examples and their rewards, one tensor [K] an example."""
    pairs = pairs_in(examples, torch.device("cpu"))
    rewards = torch.cat(list(scores)).double()
    tokens = torch.tensor([len(response.ids) for example in examples for response in example.responses])
    return DevPairs(
        margins=(rewards[pairs.better] - rewards[pairs.worse]).numpy(),
        owners=pairs.owners.numpy(),
        chosen_tokens=tokens[pairs.better].numpy(),
        rejected_tokens=tokens[pairs.worse].numpy(),
    )


def report(run: Run, step: int, seed: int, found: DevPairs, **more: Measure) -> None:
    """Log all measures, and say the first of them.

    Args:
        more: further measures, with a value an example each.
    """
    losses = bradley_terry_loss(torch.from_numpy(found.margins), torch.zeros(len(found.margins)))
    right = found.by_example(found.right.astype(np.float64)).tolist()
    intervals = log_measures(
        run,
        step,
        seed,
        loss=Mean(found.by_example(losses.numpy()).tolist()),
        accuracy=Share(right) if set(right) <= {0.0, 1.0} else Mean(right),
        **more,
    )
    accuracy, count = intervals["accuracy"], len(found.margins)
    ranked = f"ranks {accuracy.percent()} of {count:,} pairs as they were judged"
    progress.say(f"  dev: loss {intervals['loss'].text(3)}, {ranked}")
    run.log(step, **accuracies_by_length(found, seed), **_calibrated(run, found, seed))


def accuracies_by_length(found: DevPairs, seed: int) -> dict[str, float]:
    """Metrics `dev_accuracy_SLICE` with interval and number of pairs; slices of one example are left out."""
    metrics: dict[str, float] = {}
    for name, inside in _slices(found).items():
        if len(np.unique(found.owners[inside])) < 2:
            continue
        accuracy = _accuracy(found, inside, seed)
        metrics |= {
            f"dev_accuracy_{name}": accuracy.estimate,
            f"dev_accuracy_{name}_low": accuracy.low,
            f"dev_accuracy_{name}_high": accuracy.high,
            f"dev_accuracy_{name}_n": int(inside.sum()),
        }
    return metrics


def _slices(found: DevPairs) -> dict[str, BoolArray]:
    """[P] by name: who is longer, and thirds of the pairs by their tokens."""
    longer = found.chosen_tokens - found.rejected_tokens
    tokens = (found.chosen_tokens + found.rejected_tokens).astype(np.float64)
    third = np.searchsorted(equal_mass_edges(tokens, bins=3), tokens, side="right")
    return {
        "chosen_longer": longer > 0,
        "rejected_longer": longer < 0,
        "same_length": longer == 0,
        **{name: third == place for place, name in enumerate(("short", "medium", "long"))},
    }


def _accuracy(found: DevPairs, inside: BoolArray, seed: int) -> Interval:
    owners, right = found.owners[inside], found.right[inside]
    examples, counts = np.unique(owners, return_counts=True)
    if len(examples) == len(owners):
        return wilson(int(right.sum()), len(right))
    totals = np.bincount(owners, weights=right)[examples]
    return bootstrap_mean(linearised_ratio(totals.tolist(), counts.tolist()), seed=seed)


def _calibrated(run: Run, found: DevPairs, seed: int) -> dict[str, float]:
    """The expected calibration error, where there are pairs enough to tell; its bins in any case."""
    shown = calibration(from_margins(found.margins), seed=seed)
    write_json(run.folder / CALIBRATION, asdict(shown))
    if shown.miscalibrated is None:
        return {}
    error = shown.error
    return {
        "dev_calibration_error": error.estimate,
        "dev_calibration_error_low": error.low,
        "dev_calibration_error_high": error.high,
    }
