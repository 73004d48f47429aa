"""The plumbing that stages call: learning steps, interruption, seeds, packed passes over data.

Nothing here knows a loss.
"""

from __future__ import annotations

import hashlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from trimtab.data.batches import PackedRow, micro_batches, pack, shuffled_batches
from trimtab.data.tokens import Example
from trimtab.errors import Interrupted, RunError
from trimtab.losses.tables import adding_in_place
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train import moments
from trimtab.train.allocation import give_back
from trimtab.train.settings import EpochSettings, OptimizerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Bytes a parameter: float32 weight, gradient and two moments; a weight alone where nothing is trained.
TRAINED_BYTES = 16
FROZEN_BYTES = 4


def trained_bytes(settings: OptimizerSettings) -> int:
    """Bytes a parameter that is trained: `TRAINED_BYTES`, less with 8-bit moments."""
    return TRAINED_BYTES - (6 if settings.moments == "8bit" else 0)


Item = TypeVar("Item")

Watch = Callable[[], Mapping[str, float]]
"""Measures of the caller's own, logged with the metrics of every step."""


def unwatched() -> Mapping[str, float]:
    """No measures beyond the stage's own."""
    return {}


def nothing_beside() -> Mapping[str, Mapping[str, Tensor]]:
    """No tensors in a checkpoint beside the learner's."""
    return {}


def seed_for(seed: int, *path: int | str) -> int:
    """A seed of its own for each purpose and step: a hash of the run's seed and the path.

    So a resumed run needs no saved random state, and adding a draw here moves none there.
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def in_laps(count: int, first: int, wanted: int, seed: int, *path: str | int) -> list[int]:
    """The draws `first` to `first + wanted` of an endless series of 0 .. count-1.

    Each comes once before any comes again, in a fresh order every lap.
    """
    drawn: list[int] = []
    for lap in range(first // count, (first + wanted - 1) // count + 1):
        generator = torch.Generator().manual_seed(seed_for(seed, *path, lap))
        drawn += torch.randperm(count, generator=generator).tolist()
    skipped = first % count
    return drawn[skipped : skipped + wanted]


def learning_rate(settings: OptimizerSettings, step: int, total: int) -> float:
    """The rate of step 0 .. total-1: a linear warm-up, then the schedule."""
    warmup = round(settings.warmup * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progressed = (step - warmup) / max(total - warmup, 1)
    shape = {
        "constant": 1.0,
        "linear": 1.0 - progressed,
        "cosine": 0.5 * (1 + math.cos(math.pi * progressed)),
    }
    return settings.learning_rate * shape[settings.schedule]


class Learner:
    """A model with its optimizer and schedule."""

    def __init__(self, model: PreTrainedModel, settings: OptimizerSettings, total_steps: int) -> None:
        self.model = model
        self.settings = settings
        self.total_steps = total_steps
        self.steps = 0
        self.skipped = 0
        """Steps that the schedule counts and that were not taken."""
        self._named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._optimizer = moments.adamw(self._named.values(), settings)

    def step(self) -> dict[str, float]:
        """Clip the gradients, move the weights, forget the gradients.

        Raises:
            RunError: the gradient is not finite; the weights stay as they were.
        """
        norm = float(nn.utils.clip_grad_norm_(self._named.values(), self.settings.max_grad_norm))
        if not math.isfinite(norm):
            raise RunError(
                "training diverged: the gradient is not finite",
                where=f"step {self.steps + 1}",
                found=f"gradient norm {norm}",
                fix="lower the learning rate, or set precision to float32",
            )
        rate = learning_rate(self.settings, self.steps + self.skipped, self.total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return {"learning_rate": rate, "grad_norm": norm}

    def tensors(self, name: str) -> dict[str, Mapping[str, Tensor]]:
        """Weights and moments, as groups for a checkpoint."""
        state = moments.as_tensors(self._optimizer, self._named)
        state["steps"], state["skipped"] = torch.tensor(self.steps), torch.tensor(self.skipped)
        return {name: dict(self._named), f"{name}-optimizer": state}

    def restore(self, run: Run, name: str) -> None:
        """Take weights, moments and the count of steps from the run's checkpoint, if it has one."""
        if run.resumed_from is None:
            return
        weights = run.resumed_from.tensors(name)
        with torch.no_grad():
            for parameter_name, parameter in self._named.items():
                parameter.copy_(weights[parameter_name])
        del weights  # before the moments are read: both at once would be the most that the stage holds
        state = run.resumed_from.tensors(f"{name}-optimizer")
        self.steps, self.skipped = int(state.pop("steps")), int(state.pop("skipped"))
        moments.restore(self._optimizer, self._named, state, self.steps)


def backward(values: Tensor, gradients: Tensor | None = None) -> None:
    """Add gradients to every weight's `.grad`: of a number, or of values whose gradients are given."""
    with adding_in_place():
        torch.autograd.backward(values, gradients)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question asked between steps; a second Ctrl-C stops at once."""
    pressed = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        progress.say("\n  interrupted: finishing this step, then saving (Ctrl-C again stops at once)")

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set  # signals belong to the main thread; elsewhere nothing can be pressed
        return
    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield pressed.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def steps(
    run: Run, total: int, *, name: str, save: Callable[[int], None], save_every: int
) -> Iterator[tuple[int, progress.Bar]]:
    """The steps that are still to be done, 0-based, with a bar to advance.

    Saves every `save_every` steps, after the last one, and on Ctrl-C.

    Raises:
        Interrupted: after Ctrl-C, once the state is saved; in the last step too, so that nothing else begins.
    """
    with interruptible() as pressed, progress.bar(name, total, done=run.step) as bar:
        for step in range(run.step, total):
            yield step, bar
            done = step + 1
            stop = pressed()  # asked once: what is noticed later waits for a step that is saved
            if stop or done % save_every == 0 or done == total:
                with run.meter.timed("checkpoints"):
                    save(done)
            if stop:
                raise Interrupted(
                    "interrupted; what was done is saved",
                    where=str(run.folder),
                    found=f"{done} of {total} {name} steps done",
                    fix="run the same command with --resume",
                )


def go_through(
    run: Run,
    learner: Learner,
    examples: Sequence[Example],
    settings: EpochSettings,
    *,
    name: str,
    learn: Callable[[list[int]], dict[str, float]],
    watch: Watch = unwatched,
    beside: Callable[[], Mapping[str, Mapping[str, Tensor]]] = nothing_beside,
) -> None:
    """Go through the examples, one optimizer step a batch, from where the run left off.

    Args:
        name: of the checkpoint's tensors and of the bar.
        learn: takes the indices of a batch, moves the learner one step, gives metrics with `loss`.
        beside: groups of tensors that a checkpoint needs beside the learner's.
    """
    batches = list(
        shuffled_batches(
            len(examples), settings.batch, epochs=settings.epochs, seed=seed_for(settings.seed, name, "order")
        )
    )
    for step, bar in steps(
        run,
        len(batches),
        name=name,
        save=lambda done: run.save(done, {**learner.tensors(name), **beside()}),
        save_every=settings.checkpoint_every,
    ):
        with run.meter.timed("training"):
            metrics = learn(batches[step])
        tokens = sum(examples[index].tokens for index in batches[step])
        run.log(step + 1, **metrics, **watch(), tokens=tokens)
        bar.advance(note=f"loss {metrics['loss']:.3f}")


def total_steps(count: int, settings: EpochSettings) -> int:
    """Optimizer steps that `go_through` takes over `count` examples."""
    return settings.epochs * -(-count // settings.batch)


def rows(
    examples: Sequence[Example], row_tokens: int, device: torch.device
) -> Iterator[tuple[list[int], PackedRow]]:
    """The examples as packed rows, with the indices of those in each row."""
    for group in micro_batches(examples, row_tokens):
        yield group, pack([examples[index] for index in group]).to(device)
        give_back()
