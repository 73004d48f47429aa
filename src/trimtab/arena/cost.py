"""What each stage cost, and what each method cost in sum.

A method is charged all that it could not have done without: PPO the training of its reward model,
DPO the reference pass, both the SFT that they start from. The judge is charged to neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trimtab.statistics.intervals import PERCENT, number

CostStage = Literal["sft", "reward", "ppo", "reference", "dpo", "judge", "measuring"]
"""`reference` is DPO's pass over the pairs before training; `judge` trains the judge's own reward
model; `measuring` is evaluation on dev data and checkpoints, which no method is charged with."""

CHARGED: dict[str, tuple[CostStage, ...]] = {
    "sft": ("sft",),
    "ppo": ("sft", "reward", "ppo"),
    "dpo": ("sft", "reference", "dpo"),
}
"""Which stages each method pays for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What one stage of one run used. No second or token is counted in two stages."""

    stage: CostStage
    run: str
    wall_s: float
    """Seconds by the clock."""
    cpu_s: float
    """Seconds of processor time, summed over cores."""
    peak_memory_bytes: int
    """The most that was held at once, on the device that did the work."""
    tokens_trained: int = 0
    """Tokens that went through a backward pass, counted again in each epoch."""
    tokens_generated: int = 0
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCost:
    """The stages that one method is charged with, and their sum."""

    method: str
    stages: tuple[StageCost, ...]

    @property
    def wall_s(self) -> float:
        """Seconds, one stage after the other."""
        return sum(stage.wall_s for stage in self.stages)

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time."""
        return sum(stage.cpu_s for stage in self.stages)

    @property
    def peak_memory_bytes(self) -> int:
        """The hungriest stage decides which machine is needed; stages do not add up."""
        return max((stage.peak_memory_bytes for stage in self.stages), default=0)

    @property
    def tokens_trained(self) -> int:
        """Tokens that went through a backward pass."""
        return sum(stage.tokens_trained for stage in self.stages)

    @property
    def tokens_generated(self) -> int:
        """Tokens sampled while training."""
        return sum(stage.tokens_generated for stage in self.stages)


def method_costs(stages: Iterable[StageCost]) -> tuple[MethodCost, ...]:
    """One sum for each method whose own stage is among `stages`, SFT first."""
    spent = tuple(stages)
    return tuple(
        MethodCost(method=method, stages=tuple(cost for cost in spent if cost.stage in charged))
        for method, charged in CHARGED.items()
        if any(cost.stage == method for cost in spent)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanWork:
    """What people did for the comparison; every method is charged with it alike."""

    training_pairs: int
    """Judged pairs that the reward model and DPO learned from."""
    judge_pairs: int
    """Judged pairs that the judge learned from."""
    held_out_pairs: int
    """Judged pairs that test the judge."""


def cost_phrase(stages: Iterable[StageCost], method: str, other: str) -> str:
    """`at 34 % of PPO's training time`; empty where either method's cost is not known."""
    spent = {cost.method: cost.wall_s for cost in method_costs(stages)}
    if method == other or not spent.get(method) or not spent.get(other):
        return ""
    ratio = spent[method] / spent[other]
    if 0.95 <= ratio <= 1.05:
        return f"at the same training time as {other.upper()}"
    share = f"{100 * ratio:.0f}{PERCENT} of" if ratio < 1 else f"{number(ratio, 1)} times"
    return f"at {share} {other.upper()}'s training time"


def human_rows(work: HumanWork, methods: Iterable[str]) -> list[tuple[str, ...]]:
    """Human judgments by method as a table of text, its head first; they are the same for all."""
    head = ("method", "pairs to learn from", "pairs for the judge", "pairs that test the judge")
    counts = (f"{work.training_pairs:,}", f"{work.judge_pairs:,}", f"{work.held_out_pairs:,}")
    return [head, *((method.upper(), *counts) for method in methods)]


def stage_rows(stages: Iterable[StageCost]) -> list[tuple[str, ...]]:
    """The stages as a table of text, its head first."""
    head = (
        "stage",
        "run",
        "wall time",
        "CPU time",
        "peak memory",
        "tokens trained",
        "tokens generated",
        "device",
    )
    return [head, *((cost.stage, cost.run, *_amounts(cost), cost.device) for cost in stages)]


def method_rows(stages: Iterable[StageCost]) -> list[tuple[str, ...]]:
    """The methods' sums as a table of text, its head first."""
    head = (
        "method",
        "charged with",
        "wall time",
        "CPU time",
        "peak memory",
        "tokens trained",
        "tokens generated",
    )
    return [
        head,
        *(
            (cost.method.upper(), " + ".join(stage.stage for stage in cost.stages), *_amounts(cost))
            for cost in method_costs(stages)
        ),
    ]


def _amounts(cost: StageCost | MethodCost) -> tuple[str, ...]:
    return (
        duration(cost.wall_s),
        duration(cost.cpu_s),
        memory(cost.peak_memory_bytes),
        f"{cost.tokens_trained:,}",
        f"{cost.tokens_generated:,}",
    )


def duration(seconds: float) -> str:
    """`48.3 s`, `12 min 05 s` or `1 h 40 min`."""
    if seconds < 59.95:
        return f"{number(seconds, 1)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: int) -> str:
    """Bytes as `3.42 GB`, with 1 GB = 10^9 bytes."""
    return f"{number(size / 1e9, 2)} GB"
