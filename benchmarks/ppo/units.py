"""What is run, process by process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengths import LIMIT, recorded
from plan import Unit

HERE = Path(__file__).parent
PROMPT = 8
"""Tokens of every prompt."""
SAMPLERS = ("trimtab", "generate-bf16", "generate-float32", "generate-static")
TRAINERS = ("trimtab", "trl", "trimtab-lora")
EPISODES, EPOCHS = 32, 4
"""Of an update."""


@dataclass(frozen=True)
class Sampling:
    """A case of sampling alone."""

    batch: int
    lengths: tuple[int, ...]
    """Of the responses, one a prompt."""
    arms: tuple[str, ...]
    peak: bool = False
    """Whether the matrix peak is measured in every round."""


@dataclass(frozen=True)
class Training:
    """A case of PPO from end to end."""

    lengths: tuple[int, ...]
    """Of the responses of all updates, from the beginning again where they end."""
    arms: tuple[str, ...] = TRAINERS


CASES: dict[str, Sampling | Training] = {
    "sampler-forced-32": Sampling(32, (LIMIT,) * 32, SAMPLERS),
    "sampler-natural-32": Sampling(32, tuple(recorded(128)), SAMPLERS[:2]),
    "sampler-forced-128": Sampling(128, (LIMIT,) * 128, SAMPLERS[:2], peak=True),
    "ppo-forced": Training((LIMIT,)),
    "ppo-natural": Training(tuple(recorded(256))),
}


def rounds(out: Path, case: str, count: int, timed: int) -> Iterator[Unit]:
    """Every arm once in one order, then once in the other; for PPO once a round, the order turning.

    Args:
        timed: calls of a sampler, updates of a trainer, after one that is not timed.
    """
    found = CASES[case]
    arms = found.arms
    for number in range(1, count + 1):
        if isinstance(found, Training):
            for arm in arms if number % 2 else arms[::-1]:
                yield trainer(out, case, found, f"round-{number}-{arm}", arm, timed)
            continue
        letters = (*arms, "peak") if found.peak else arms
        for half, order in (("a", letters), ("b", letters[::-1])):
            for arm in order:
                yield sampler(out, case, found, f"round-{number}-{half}-{arm}", arm, timed)


def sampler(out: Path, case: str, found: Sampling, name: str, arm: str, calls: int) -> Unit:
    """A process that samples, or that measures the matrix peak."""
    model = str(out / "models" / "policy")
    if arm == "peak":
        script = HERE.parent / "training" / "matrix_peak.py"
        return Unit(case, name, str(script), 1, {"model": model, "device": "cpu"})
    spec = {"arm": arm, "model": model, "batch": found.batch, "lengths": found.lengths}
    return Unit(case, name, str(HERE / "sampler_arm.py"), calls, {**spec, "prompt": PROMPT, "calls": calls})


def trainer(out: Path, case: str, found: Training, name: str, arm: str, updates: int) -> Unit:
    """A process that runs PPO."""
    models = out / "models"
    spec: dict[str, Any] = {
        "model": str(models / "policy"),
        "reward": str(models / ("adapter" if arm == "trimtab-lora" else "scorer")),
        "lora": arm == "trimtab-lora",
        "prompt": PROMPT,
        "limit": LIMIT,
        "lengths": found.lengths,
        "episodes": EPISODES,
        "epochs": EPOCHS,
        "updates": updates,
        "scratch": str(out / "scratch"),
    }
    script = "their_arm_ppo.py" if arm == "trl" else "our_arm_ppo.py"
    return Unit(case, name, str(HERE / script), updates + 1, spec)
