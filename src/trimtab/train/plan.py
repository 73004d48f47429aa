"""What a stage would take: examples, steps, memory, time and disk, before it runs.

    memory  = libraries + weights + gradients + moments + rest + later + a T
    time    = begin + reference + evaluation + steps s + tokens t + checkpoints + samples

T is the largest row that will come, in tokens, and the order of the batches is the run's own, so that steps,
rows and T are counted. a, s and t are measured in a rehearsal (`train.rehearsal`) on a few rows. `rest` is
what the rehearsal held beside the terms that are known: copies in bfloat16, tiles of the head, and what the
allocator lost; `later` is what more rows than the rehearsal's leave behind (`train.allocation`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trimtab.errors import ResourceError, TrimtabError
from trimtab.train.memory import in_words
from trimtab.train.rehearsal import ERROR, RESULT, Counts, Measured, Rehearsal, Sizes
from trimtab.train.settings import DPOSettings, EpochSettings, RewardSettings


@dataclass(frozen=True)
class Plan:
    """What a stage would take."""

    stage: str
    counts: Counts
    memory: dict[str, int]
    """Bytes at the stage's peak, term by term."""
    seconds: dict[str, float]
    """By the part of the work."""
    disk: int
    """Bytes in the run folder at most."""
    first_batch: list[str]

    @property
    def peak(self) -> int:
        """Bytes held at most."""
        return sum(self.memory.values())

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())


def make_plan(stage: str, settings: EpochSettings) -> Plan:
    """Rehearse the stage in a process of its own, and work out what the whole of it takes.

    Raises:
        TrimtabError: what the stage itself would raise when it begins.
    """
    return plan_from(stage, settings, _rehearsed(stage, settings))


def plan_from(stage: str, settings: EpochSettings, rehearsal: Rehearsal) -> Plan:
    """The plan that a rehearsal gives."""
    return Plan(
        stage,
        rehearsal.counts,
        memory_terms(rehearsal),
        seconds(settings, rehearsal),
        disk(settings, rehearsal),
        rehearsal.first_batch,
    )


def memory_terms(rehearsal: Rehearsal) -> dict[str, int]:
    """Bytes at the peak, term by term."""
    sizes, measured, largest = rehearsal.sizes, rehearsal.measured, rehearsal.counts.largest_row
    known = {
        "libraries": sizes.libraries,
        "weights": sizes.weights,
        "gradients": sizes.gradients,
        "moments": sizes.moments,
    }
    seen = round(measured.a_token * measured.peak_row)
    return known | {
        "activations": round(measured.a_token * largest),
        "rest": max(0, measured.peak - sum(known.values()) - seen),
        "later": sizes.later,
    }


def seconds(settings: EpochSettings, rehearsal: Rehearsal) -> dict[str, float]:
    """What each part of the work takes."""
    counts, measured = rehearsal.counts, rehearsal.measured
    followed = isinstance(settings, DPOSettings)
    members = settings.members if isinstance(settings, RewardSettings) else 1
    saved = -(-counts.steps // settings.checkpoint_every)
    once = {
        "begin": measured.begin_s,
        "reference": measured.forward_s * counts.tokens if followed else 0.0,
        "evaluation": measured.forward_s * counts.dev_tokens * (3 if followed else 2),
        "training": measured.step_s * counts.steps + measured.token_s * counts.tokens * settings.epochs,
        "checkpoints": measured.checkpoint_s * saved,
        "samples": measured.sample_s,
    }
    return {name: members * took for name, took in once.items()}


def disk(settings: EpochSettings, rehearsal: Rehearsal) -> int:
    """Bytes in the run folder at most: a checkpoint is written before the older one goes."""
    counts, sizes = rehearsal.counts, rehearsal.sizes
    checkpoint = sizes.trained + sizes.moments
    result = sizes.trained if settings.lora is not None else sizes.weights
    several = counts.steps > settings.checkpoint_every
    logprobs = 4 * (counts.tokens + counts.dev_tokens) if isinstance(settings, DPOSettings) else 0
    members = settings.members if isinstance(settings, RewardSettings) else 1
    return logprobs + checkpoint + max(checkpoint if several else 0, result) + (members - 1) * result


def require_fit(plan: Plan, settings: EpochSettings, room: int) -> None:
    """Refuse a plan that needs more than there is.

    Args:
        room: bytes that this machine can give.

    Raises:
        ResourceError: with the settings that would fit.
    """
    limit = min(room, int(settings.memory_limit or room))
    if plan.peak <= limit:
        return
    raise ResourceError(
        "the stage needs more memory than it may have",
        where="memory_limit" if settings.memory_limit else "this machine",
        found=f"{in_words(plan.peak)} expected, {in_words(limit)} there",
        fix=", or ".join(ways(plan, settings, limit)),
    )


def ways(plan: Plan, settings: EpochSettings, limit: int) -> list[str]:
    """Settings that would bring the plan below the limit, the mildest first."""
    found, over = [], plan.peak - limit
    a_token = plan.memory["activations"] / plan.counts.largest_row
    longest = settings.max_prompt + 2 * settings.max_response
    rows = int(plan.counts.largest_row - over / a_token) if a_token else 0
    if rows >= longest:
        found.append(f"set row_tokens={rows}")
    if over < 0.75 * plan.memory["activations"]:
        found.append(f"set memory_limit={limit >> 20}MiB, which computes blocks twice")
    if settings.optimizer.moments == "float32" and over <= 0.7 * plan.memory["moments"]:
        found.append("set optimizer.moments=8bit")
    if settings.lora is None and over <= plan.memory["moments"] + plan.memory["gradients"]:
        found.append("train adapters (lora.rank=8)")
    return found or ["use a smaller model, or shorter prompts and responses"]


def machine_room() -> int:
    """Bytes that a process could take on this machine as it is."""
    return int(psutil.virtual_memory().available)


def _rehearsed(stage: str, settings: EpochSettings) -> Rehearsal:
    with tempfile.TemporaryDirectory(prefix="trimtab-plan-") as folder:
        process = subprocess.run(
            [sys.executable, "-m", "trimtab.train.rehearsal", stage, folder],
            input=settings.model_dump_json(),
            capture_output=True,
            text=True,
        )
        path = Path(folder) / RESULT
        if process.returncode != 0 or not path.exists():
            raise _said(process, Path(folder))
        return read_rehearsal(json.loads(path.read_text(encoding="utf-8")))


def read_rehearsal(tree: dict[str, Any]) -> Rehearsal:
    """A rehearsal from its JSON."""
    return Rehearsal(
        Counts(**tree["counts"]), Sizes(**tree["sizes"]), Measured(**tree["measured"]), tree["first_batch"]
    )


def _said(process: subprocess.CompletedProcess[str], folder: Path) -> TrimtabError:
    """The error that the rehearsal ended with: its own words for people, else how it was ended."""
    told = folder / ERROR
    if told.exists():
        error = json.loads(told.read_text(encoding="utf-8"))
        return TrimtabError(error["what"], where=error["where"], found=error["found"], fix=error["fix"])
    killed = process.returncode < 0
    return ResourceError(
        "the rehearsal of the stage was killed" if killed else "the rehearsal of the stage failed",
        found=(process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1],
        fix="lower row_tokens, or set a memory_limit" if killed else "run the stage itself to see more",
    )
