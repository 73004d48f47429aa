"""trimtab's arm of bench.py: the stage's own steps on given token ids, in a process of its own.

python our_arm.py SPEC RESULT
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from meter import Meter, TokenCount, peak_bytes, wait, write_result
from torch import Tensor

from trimtab.config import build
from trimtab.data.tokens import Example, Response
from trimtab.model import varlen
from trimtab.model.device import Numerics, choose, reuse_freed_memory
from trimtab.model.load import load_tokenizer
from trimtab.model.passes import response_tokens
from trimtab.model.policy import Policy, load_policy
from trimtab.model.scalar import load_scorer
from trimtab.runs import progress
from trimtab.train import dpo, loop, reward, sft
from trimtab.train.allocation import keep_few_kernels
from trimtab.train.reference import over_tokens
from trimtab.train.settings import DPOSettings, EpochSettings, RewardSettings, SFTSettings

Batch = list[Example]
Spec = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A stage ready to step."""

    step: Callable[[int], dict[str, float]]
    """One optimizer step on the batch of this index; gives its metrics."""
    settings: EpochSettings
    executed: TokenCount
    reference_seconds: float = 0.0
    """For the batches behind the warm-up."""


def make_reward(spec: Spec, batches: list[Batch], numerics: Numerics) -> Stage:
    """The reward stage."""
    settings = build(RewardSettings, tree(spec, batches))
    scorer = load_scorer(spec["model"], numerics, bytes_per_parameter=loop.TRAINED_BYTES)
    learner = loop.Learner(scorer.model, settings.optimizer, len(batches))
    count = TokenCount(scorer.model)
    return Stage(lambda index: reward.learn(scorer, learner, batches[index], settings), settings, count)


def make_sft(spec: Spec, batches: list[Batch], numerics: Numerics) -> Stage:
    """The SFT stage."""
    settings = build(SFTSettings, tree(spec, batches))
    policy = load_policy(spec["model"], numerics, bytes_per_parameter=loop.TRAINED_BYTES)
    learner = loop.Learner(policy.model, settings.optimizer, len(batches))
    count = TokenCount(policy.model)
    return Stage(lambda index: sft.learn(policy, learner, batches[index], settings), settings, count)


def make_dpo(spec: Spec, batches: list[Batch], numerics: Numerics) -> Stage:
    """The DPO stage, its reference computed."""
    settings = build(DPOSettings, tree(spec, batches))
    policy = load_policy(spec["model"], numerics, bytes_per_parameter=loop.TRAINED_BYTES)
    before, seconds = references(spec, policy, batches, settings)
    learner = loop.Learner(policy.model, settings.optimizer, len(batches))

    def step(index: int) -> dict[str, float]:
        return {**dpo.learn_by_rows(policy, batches[index], before[index], settings), **learner.step()}

    return Stage(step, settings, TokenCount(policy.model), seconds)


def references(
    spec: Spec, policy: Policy, batches: list[Batch], settings: DPOSettings
) -> tuple[list[list[Tensor]], float]:
    """What each step is given of the reference, and the seconds it took for those behind the warm-up."""
    if spec["reference"] is None:  # what it says changes nothing about the cost of a step
        return [[torch.zeros(response_tokens(one)) for one in batch] for batch in batches], 0.0
    # A stage's reference is the policy as it was given; only the gate has another.
    same = spec["reference"] == spec["model"]
    reference = policy if same else load_policy(spec["reference"], policy.numerics, bytes_per_parameter=4)
    before, _ = reference_of(reference, batches[: spec["warm_up"]], settings)
    behind, seconds = reference_of(reference, batches[spec["warm_up"] :], settings)
    return before + behind, seconds


def reference_of(
    reference: Policy, batches: list[Batch], settings: DPOSettings
) -> tuple[list[list[Tensor]], float]:
    """Log-probabilities for each batch, computed over all of them as the stage does, and the seconds."""
    together = [example for batch in batches for example in batch]
    began = time.perf_counter()
    values = iter(over_tokens(reference, together, "reference", settings, "reference"))
    seconds = time.perf_counter() - began
    return [[next(values) for _ in batch] for batch in batches], seconds


STAGES = {"dpo": make_dpo, "sft": make_sft, "reward": make_reward}


def tree(spec: Spec, batches: list[Batch]) -> dict[str, Any]:
    """Settings that differ from the defaults: those that have to be equal on both sides."""
    optimizer = {"learning_rate": spec["rate"], "warmup": 0.0, "schedule": "constant"}
    found = {"model": "given", "data": "given", "batch": len(batches[0]), "optimizer": optimizer}
    return found if spec["row_tokens"] is None else {**found, "row_tokens": spec["row_tokens"]}


def examples(spec: Spec, rows: list[dict[str, list[int]]]) -> Batch:
    """Rows as the stages read them."""
    stop_id = load_tokenizer(spec["model"]).stop_id
    sides = ("chosen_ids",) if spec["loss"] == "sft" else ("chosen_ids", "rejected_ids")
    return [
        Example(
            tuple(row["prompt_ids"]),
            tuple(Response(tuple(row[side]), row[side][-1] == stop_id) for side in sides),
        )
        for row in rows
    ]


def padding(stage: Stage, batch: Batch, executed: int) -> float:
    """Share of the executed tokens that belong to no example of a row."""
    rows = loop.rows(batch, stage.settings.row_tokens, torch.device("cpu"))
    real = sum(span.prompt + sum(span.responses) for _, row in rows for span in row.spans)
    return 1 - real / executed


def go_through(stage: Stage, batches: list[Batch], warm_up: int, meter: Meter) -> list[dict[str, float]]:
    """A step on every batch, and what it took."""
    found = []
    meter.begin()
    for index, batch in enumerate(batches):
        if index == warm_up:
            meter.begin()
        stage.executed.take()
        began = time.perf_counter()
        metrics = stage.step(index)
        wait()
        seconds, executed = time.perf_counter() - began, stage.executed.take()
        figures = {name: metrics[name] for name in ("loss", "grad_norm")}
        share = padding(stage, batch, executed)
        measured = {"seconds": seconds, "executed": executed, "padding": share, "peak_bytes": peak_bytes()}
        found.append({**figures, **measured})
    return found


def main() -> None:
    """Step through the batches and write what was measured."""
    meter = Meter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    reuse_freed_memory()  # both as every stage does
    keep_few_kernels()
    rows = json.loads(Path(spec["batches"]).read_text())[: spec["warm_up"] + spec["steps"]]
    batches = [examples(spec, batch) for batch in rows]
    with progress.hidden():
        stage = STAGES[spec["loss"]](spec, batches, choose(spec["device"], spec["precision"]))
        steps = go_through(stage, batches, spec["warm_up"], meter)
    result = {
        "steps": steps,
        "warm_up": spec["warm_up"],
        "reference_seconds": stage.reference_seconds,
        **meter.shares(),
        **meter.memory(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__},
        "attention": {str(tuple(kind)): form for kind, form in varlen.chosen().items()},
    }
    write_result(Path(sys.argv[2]), result)


if __name__ == "__main__":
    main()
