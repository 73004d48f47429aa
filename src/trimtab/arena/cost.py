"""What each stage cost, and what each method cost in sum.

A method is charged all that it could not have done without: PPO the training of its reward model,
DPO the reference pass, both the SFT that they start from. The judge is charged to neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
"""Which stages each method pays for, where a run does not say what it was made from."""
_ALWAYS = {"ppo": ("reward",)}
"""What a method cannot go without, whatever its run was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What one stage of one run used. No second or token is counted in two stages."""

    stage: CostStage
    run: str
    wall_s: float
    """Seconds by the clock."""
    cpu_s: float
    """Seconds of processor time, summed over cores."""
    peak_memory_bytes: int | None
    """The most that was held at once, on the device that did the work; None where it was not measured."""
    host_memory_bytes: int | None = None
    """The most that the process held of the host's memory; None where it was not measured."""
    tokens_trained: int = 0
    """Tokens that went through a backward pass, counted again in each epoch."""
    tokens_generated: int | None = 0
    """Tokens sampled; None where they were not counted."""
    device: str = ""
    needs: tuple[str, ...] | None = None
    """Stages that it was made from: one of the others here by its name, another run as `STAGE RUN`. None
    where the run does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCost:
    """The stages that one method is charged with, and their sum."""

    method: str
    stages: tuple[StageCost, ...]
    missing: tuple[str, ...] = ()
    """Stages that it should be charged with, and whose cost is not known: the sums are too small."""

    @property
    def wall_s(self) -> float:
        """Seconds, one stage after the other."""
        return sum(stage.wall_s for stage in self.stages)

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time."""
        return sum(stage.cpu_s for stage in self.stages)

    @property
    def peak_memory_bytes(self) -> int | None:
        """The hungriest stage decides which machine is needed; stages do not add up."""
        return _largest(stage.peak_memory_bytes for stage in self.stages)

    @property
    def host_memory_bytes(self) -> int | None:
        """Of the stage that needed most of it."""
        return _largest(stage.host_memory_bytes for stage in self.stages)

    @property
    def tokens_trained(self) -> int:
        """Tokens that went through a backward pass."""
        return sum(stage.tokens_trained for stage in self.stages)

    @property
    def tokens_generated(self) -> int:
        """Tokens sampled while training."""
        return sum(stage.tokens_generated or 0 for stage in self.stages)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that its stages ran on, each once."""
        return tuple(dict.fromkeys(stage.device for stage in self.stages))


def _largest(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def method_costs(stages: Iterable[StageCost]) -> tuple[MethodCost, ...]:
    """One sum for each method whose own stage is among `stages`, SFT first.

    A method pays for its own stage and for all that this was made from, and so on; what of it is not among
    `stages` is listed as missing.
    """
    spent = tuple(stages)
    known: dict[str, StageCost] = {cost.stage: cost for cost in spent}
    costs = []
    for method in CHARGED:
        if method in known:
            needed = _needed(method, known)
            costs.append(
                MethodCost(
                    method=method,
                    stages=tuple(cost for cost in spent if cost.stage in needed),
                    missing=tuple(stage for stage in needed if stage not in known),
                )
            )
    return tuple(costs)


def _needed(method: str, known: Mapping[str, StageCost]) -> list[str]:
    needed = [method, *_ALWAYS.get(method, ())]
    for stage in needed:  # grows on the way, until nobody needs anything else
        if stage not in known:
            continue
        needs = known[stage].needs
        if needs is None:
            needs = tuple(one for one in CHARGED.get(stage, ()) if one in known)
        needed += [one for one in needs if one not in needed]
    return needed


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanWork:
    """What people did for the comparison: judgments of pairs. Demonstrations for SFT are not among them."""

    pairs: tuple[tuple[str, int], ...]
    """(who, judged pairs that it learned from): ppo by way of its reward model, dpo, judge."""
    shared: tuple[tuple[str, ...], ...] = ()
    """Those of `pairs` that learned from the very same file, each group once."""
    held_out_pairs: int
    """Judged pairs that tested the judge."""


def cost_phrase(stages: Iterable[StageCost], method: str, other: str) -> str:
    """`at 34 % of PPO's training time`; empty where the two times are not known whole, or of one machine."""
    spent = {cost.method: cost for cost in method_costs(stages)}
    mine, its = spent.get(method), spent.get(other)
    if method == other or mine is None or its is None or mine.missing or its.missing:
        return ""
    if len({*mine.devices, *its.devices}) > 1 or not mine.wall_s or not its.wall_s:
        return ""  # on two devices the ratio would compare machines
    ratio = mine.wall_s / its.wall_s
    if 0.95 <= ratio <= 1.05:
        return f"at the same training time as {other.upper()}"
    share = f"{100 * ratio:.0f}{PERCENT} of" if ratio < 1 else f"{number(ratio, 1)} times"
    return f"at {share} {other.upper()}'s training time"


def is_cost_of(stages: Iterable[StageCost], method: str, run: str) -> bool:
    """Whether a method's own stage among `stages` is this run, and not another one of the same method."""
    return any(cost.stage == method and Path(cost.run).name == Path(run).name for cost in stages)


def human_rows(work: HumanWork, methods: Iterable[str]) -> list[tuple[str, ...]]:
    """Judgments of people by who learned from them, as a table of text, its head first.

    Args:
        methods: those to list, beside the judge; `sft` learns from no judgment and is passed over.
    """
    known = dict(work.pairs)
    learners = [*(method for method in methods if method != "sft"), *(["judge"] if "judge" in known else [])]
    return [
        ("for", "judged pairs", "the same file as"),
        *(
            (
                _title(learner),
                f"{known[learner]:,}" if learner in known else "not known",
                ", ".join(_title(one) for one in _sharing(work, learner)),
            )
            for learner in learners
        ),
        ("the test of the judge", f"{work.held_out_pairs:,}", ""),
    ]


def _sharing(work: HumanWork, learner: str) -> list[str]:
    return [one for group in work.shared if learner in group for one in group if one != learner]


def _title(learner: str) -> str:
    return "the judge" if learner == "judge" else learner.upper()


_AMOUNTS = ("wall time", "CPU time", "peak memory", "peak host memory", "tokens trained", "tokens generated")


def stage_rows(stages: Iterable[StageCost]) -> list[tuple[str, ...]]:
    """The stages as a table of text, its head first; a cell is empty where nothing was measured."""
    head = ("stage", "run", *_AMOUNTS, "device")
    return [head, *((cost.stage, cost.run, *_amounts(cost), cost.device) for cost in stages)]


def method_rows(stages: Iterable[StageCost]) -> list[tuple[str, ...]]:
    """The methods' sums as a table of text, its head first."""
    head = ("method", "charged with", *_AMOUNTS, "device")
    return [
        head,
        *(
            (cost.method.upper(), _charges(cost), *_amounts(cost), "; ".join(filter(None, cost.devices)))
            for cost in method_costs(stages)
        ),
    ]


def _charges(cost: MethodCost) -> str:
    """`sft + ppo, incomplete: without reward`."""
    said = " + ".join(stage.stage for stage in cost.stages)
    return f"{said}, incomplete: without {' and '.join(cost.missing)}" if cost.missing else said


def _amounts(cost: StageCost | MethodCost) -> tuple[str, ...]:
    return (
        duration(cost.wall_s),
        duration(cost.cpu_s),
        _known(cost.peak_memory_bytes, memory),
        _known(cost.host_memory_bytes, memory),
        f"{cost.tokens_trained:,}",
        _known(cost.tokens_generated, "{:,}".format),
    )


def _known(amount: int | None, text: Callable[[int], str]) -> str:
    return "" if amount is None else text(amount)


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
