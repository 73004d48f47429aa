"""A stage in small, in a process of its own: what a few rows of its data cost in memory and time.

    python -m trimtab.train.rehearsal STAGE FOLDER < settings.json

begins the stage as it would be begun (model, data, adapters, memory limit), takes six optimizer steps on
rows of three sizes, and writes FOLDER/rehearsal.json
(or error.json, what it was refused for). A process of its own, because the largest size that a
process has had is never forgotten. Nothing of it reaches the run that is planned.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import psutil
from safetensors.torch import save_file

from trimtab.data.batches import micro_batches, shuffled_batches
from trimtab.data.tokens import Example
from trimtab.errors import DataError, TrimtabError
from trimtab.model import scalar
from trimtab.model.passes import over_rows, response_count, response_tokens
from trimtab.model.policy import Policy, response_logprobs
from trimtab.model.recompute import blocks
from trimtab.model.scalar import Scorer
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling
from trimtab.runs import progress
from trimtab.runs.cost import peak_device_memory, peak_host_memory
from trimtab.runs.files import write_json
from trimtab.runs.run import Run, open_run
from trimtab.train import dpo, loop, memory, reward, sft
from trimtab.train.allocation import HOLES, LATER, beside_tensors
from trimtab.train.moments import moment_bytes
from trimtab.train.settings import STAGES, DPOSettings, EpochSettings

STORIES: dict[str, ModuleType] = {"sft": sft, "reward": reward, "dpo": dpo}
"""The stages that can be planned."""
RESULT = "rehearsal.json"
ERROR = "error.json"
GROUPS = 6
"""Steps that are taken, each on one row: three sizes, twice."""
SAMPLED = 16
"""Tokens of each answer that is sampled to measure what sampling costs."""
SHOWN = 2
"""Examples of the first batch that are decoded."""

AnySettings = TypeVar("AnySettings", bound=EpochSettings)


@dataclass(frozen=True)
class Counts:
    """What the stage has before it, counted and not estimated."""

    examples: int
    tokens: int
    dev_examples: int
    dev_tokens: int
    steps: int
    rows: int
    """Of optimizer steps."""
    all_rows: int
    """Of evaluation and reference passes too."""
    largest_row: int
    """Tokens."""
    row_tokens: int
    recomputed: int
    blocks: int


@dataclass(frozen=True)
class Sizes:
    """Terms of the memory of a step that need no row to be known, in bytes."""

    weights: int
    moments: int
    gradients: int
    trained: int
    """Of the weights that learn: what a checkpoint holds beside the moments."""
    libraries: int = 0
    """The process before the model."""
    later: int = 0
    """What rows beyond the rehearsal's leave behind beside tensors, and modules that it does not need."""


@dataclass(frozen=True)
class Measured:
    """What the rehearsal took."""

    peak: int
    """Bytes at most, after rows of up to `peak_row` tokens."""
    peak_row: int
    a_token: float
    """Bytes that a token of a row takes."""
    begin_s: float
    step_s: float
    """Of an optimizer step, whatever its rows."""
    token_s: float
    """Of a token in training."""
    forward_s: float
    """Of a token without gradients."""
    sample_s: float
    """Of the answers that are sampled, all tokens of them."""
    checkpoint_s: float


@dataclass(frozen=True)
class Rehearsal:
    """All that a plan is made from."""

    counts: Counts
    sizes: Sizes
    measured: Measured
    first_batch: list[str]
    """The beginning of the first batch as the model sees it."""


def rehearse(stage: str, settings: EpochSettings, folder: Path) -> Rehearsal:
    """Begin the stage, take a few steps, count and measure."""
    story, libraries = STORIES[stage], int(psutil.Process().memory_info().rss)
    with progress.hidden(), open_run(folder / "run", stage, settings, resume=False) as run:
        trained, train_set, dev_set = story.begin(settings, run)
        if not train_set:
            raise DataError("no example can be used", where=settings.data, fix="trimtab data check")
        settings = memory.within_limit(trained, train_set, settings, run)
        begin_s = time.time() - psutil.Process().create_time()
        order = list(_batches(stage, len(train_set), settings))
        counts = _counts(trained, train_set, dev_set, order, settings, run)
        holes = 0 if run.facts.get("memory", {}).get("given_back") else HOLES
        beside = beside_tensors(trained.numerics, counts.all_rows, holes=holes)
        measured = _measure(stage, trained, train_set, dev_set, settings, run)
        shown = [_as_seen(trained, train_set[index]) for index in order[0][:SHOWN]]
    seen = beside_tensors(trained.numerics, _rows_seen(stage), holes=holes)
    later = LATER if trained.numerics.device.type == "cpu" else 0
    sizes = replace(_sizes(trained, settings), libraries=libraries, later=later + beside - seen)
    return Rehearsal(counts, sizes, replace(measured, begin_s=begin_s), shown)


def _rows_seen(stage: str) -> int:
    """Rows that the rehearsal has put through the model when its peak is read."""
    return GROUPS * (2 if stage == "dpo" else 1)


def _batches(stage: str, count: int, settings: EpochSettings) -> Sequence[list[int]]:
    seed = loop.seed_for(settings.seed, stage, "order")
    return list(shuffled_batches(count, settings.batch, epochs=settings.epochs, seed=seed))


def _counts(
    trained: Policy | Scorer,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    batches: Sequence[list[int]],
    settings: EpochSettings,
    run: Run,
) -> Counts:
    rows = [
        sum(batch[index].tokens for index in group)
        for batch in ([train_set[index] for index in indices] for indices in batches)
        for group in micro_batches(batch, settings.row_tokens)
    ]
    tokens, dev_tokens = (sum(e.tokens for e in examples) for examples in (train_set, dev_set))
    passed = 2 * dev_tokens + (tokens + dev_tokens) * isinstance(settings, DPOSettings)
    return Counts(
        examples=len(train_set),
        tokens=tokens,
        dev_examples=len(dev_set),
        dev_tokens=dev_tokens,
        steps=len(batches),
        rows=len(rows),
        all_rows=len(rows) + -(-passed // settings.row_tokens),
        largest_row=max(rows),
        row_tokens=settings.row_tokens,
        recomputed=run.facts.get("memory", {}).get("recomputed", 0),
        blocks=len(blocks(trained.model)),
    )


def _sizes(trained: Policy | Scorer, settings: Any) -> Sizes:
    learning = memory.learning(trained.model)
    count = sum(parameter.numel() for parameter in learning)
    return Sizes(
        weights=sum(p.numel() * p.element_size() for p in trained.model.parameters()),
        moments=moment_bytes(learning, settings.optimizer),
        gradients=4 * count,
        trained=4 * count,
    )


def _measure(
    stage: str,
    trained: Policy | Scorer,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: EpochSettings,
    run: Run,
) -> Measured:
    groups = probe_groups(train_set, settings)
    step_s, token_s = _train(stage, trained, groups, settings, run)
    on_device = peak_device_memory()
    peak = peak_host_memory() if on_device is None else on_device
    cost = memory.row_cost(trained, train_set, settings)
    return Measured(
        peak=peak,
        peak_row=max(sum(example.tokens for example in group) for group in groups),
        a_token=cost.a_token,
        begin_s=0.0,
        step_s=step_s,
        token_s=token_s,
        forward_s=_forward_s(trained, groups, settings),
        sample_s=_sample_s(trained, dev_set, settings),
        checkpoint_s=_checkpoint_s(trained, settings, run.folder),
    )


def probe_groups(examples: Sequence[Example], settings: EpochSettings) -> list[list[Example]]:
    """Six groups of as many examples each: short, middling, long, and the same again with others.

    The long ones make a row about as large as the stage's largest.
    """
    ordered = sorted(examples, key=lambda example: example.tokens)
    longest = ordered[-1].tokens
    size = max(1, min(settings.batch, settings.row_tokens // longest, len(ordered) // 3))
    last, middle = len(ordered) - size, (len(ordered) - size) // 2
    firsts = [0, middle, last, min(size, last), min(middle + size, last), max(last - size, 0)]
    return [ordered[first : first + size] for first in firsts]


def _train(
    stage: str,
    trained: Policy | Scorer,
    groups: Sequence[Sequence[Example]],
    settings: EpochSettings,
    run: Run,
) -> tuple[float, float]:
    """Seconds of an optimizer step and of each token in it, over one step a group."""
    small: dict[str, Any] = {"batch": len(groups[0]), "epochs": 1, "dev": None, "checkpoint_every": 10**6}
    wanted = [example for group in groups for example in group]
    settings = _without_cache(settings.model_copy(update=small))
    placed = list(wanted)
    for place, index in enumerate(i for batch in _batches(stage, len(wanted), settings) for i in batch):
        placed[index] = wanted[place]
    moments: list[float] = []

    def watch() -> dict[str, float]:
        moments.append(time.perf_counter())
        return {}

    STORIES[stage].optimize(trained, placed, [], settings, run, watch=watch)
    taken = np.diff(moments)
    tokens = [sum(example.tokens for example in group) for group in groups[1:]]
    return line(tokens[2:], taken[2:].tolist())


def _without_cache(settings: AnySettings) -> AnySettings:
    reference = getattr(settings, "reference", None)
    if reference is None:
        return settings
    return settings.model_copy(update={"reference": reference.model_copy(update={"cache": 0.0})})


def line(tokens: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Constant and slope of seconds over tokens, neither below 0."""
    slope, constant = np.polyfit(tokens, seconds, 1) if len(set(tokens)) > 1 else (0.0, 0.0)
    if slope <= 0 or constant < 0:
        return 0.0, sum(seconds) / sum(tokens)
    return float(constant), float(slope)


def _forward_s(
    trained: Policy | Scorer, groups: Sequence[Sequence[Example]], settings: EpochSettings
) -> float:
    examples = [example for group in groups[3:] for example in group]
    if isinstance(trained, Policy):
        compute, count = partial(response_logprobs, trained.model), response_tokens
    else:
        compute, count = partial(scalar.rewards, trained.model), response_count
    before = time.perf_counter()
    over_rows(
        examples,
        compute,
        count,
        row_tokens=settings.row_tokens,
        numerics=trained.numerics,
        name="rows",
    )
    return (time.perf_counter() - before) / sum(example.tokens for example in examples)


def _sample_s(trained: Policy | Scorer, dev_set: Sequence[Example], settings: EpochSettings) -> float:
    prompts = list({example.prompt: example for example in dev_set}.values())[: settings.samples]
    if not prompts or not isinstance(trained, Policy):
        return 0.0
    tokens = min(SAMPLED, settings.max_response)
    before = time.perf_counter()
    answer(trained, prompts, Sampling(max_new=tokens, stop_ids=()), range(len(prompts)), name="samples")
    return (time.perf_counter() - before) * settings.max_response / tokens


def _checkpoint_s(trained: Policy | Scorer, settings: Any, folder: Path) -> float:
    """Seconds that a checkpoint takes, from writing the weights once."""
    learning = [parameter.detach() for parameter in memory.learning(trained.model)]
    sizes = _sizes(trained, settings)
    before = time.perf_counter()
    save_file({str(place): tensor.cpu() for place, tensor in enumerate(learning)}, folder / "weights")
    return (time.perf_counter() - before) * (sizes.trained + sizes.moments) / sizes.trained


def _as_seen(trained: Policy | Scorer, example: Example) -> str:
    """Prompt and responses, decoded with their control tokens."""
    decode = trained.codec.tokenizer.decode
    responses = [f"    -> {decode(list(response.ids))}" for response in example.responses]
    return "\n".join([str(decode(list(example.prompt))), *responses])


def main() -> None:
    """The process."""
    stage, folder = sys.argv[1], Path(sys.argv[2])
    settings = STAGES[stage].model_validate_json(sys.stdin.read())
    assert isinstance(settings, EpochSettings)
    try:
        write_json(folder / RESULT, asdict(rehearse(stage, settings, folder)))
    except TrimtabError as error:
        told = {"what": error.what, "where": error.where, "found": error.found, "fix": error.fix}
        write_json(folder / ERROR, told)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
