"""The costs of finished runs, read from their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from trimtab.arena.ancestry import identity, lineage, parents, stage_of
from trimtab.arena.cost import CostStage, StageCost
from trimtab.arena.settings import CompareSettings
from trimtab.config import read_yaml
from trimtab.errors import ConfigError, RunError
from trimtab.runs.cost import Cost, Part
from trimtab.runs.run import is_done, read_facts, read_metrics

MADE_BY = {"sft": "sft", "reward": "reward", "judge": "reward", "dpo": "dpo", "ppo": "ppo"}
"""What `costs` names -> the stage that its run must be of."""


def stage_costs(runs: Mapping[str, str]) -> list[StageCost]:
    """What each run cost; DPO's reference pass, and evaluation with checkpoints, stand apart.

    Args:
        runs: stage (sft, reward, judge, dpo, ppo) -> run folder.

    Raises:
        ConfigError: no such stage, or a run of another one.
        RunError: a folder holds no run, or one that is not finished.
    """
    costs: list[StageCost] = []
    for stage, folder in runs.items():
        costs += _costs_of(stage, Path(folder), runs)
    return costs


def require_costs_of_the_compared(settings: CompareSettings) -> None:
    """Refuse the cost of a run that has no part in the comparison: the ratio would speak of other runs.

    Raises:
        ConfigError: `costs.ppo` or `costs.dpo` is no policy, `costs.sft` or `costs.reward` is nothing that a
            policy was made from, or `costs.judge` is no judge.
    """
    policies = list(settings.policies.values())
    behind = {one: name for source in policies for one, name in lineage(source).items()}
    compared = {identity(source): source for source in policies}
    judges = {identity(source): source for source in settings.judge_models.values()}
    told = any(parents(source) for source in policies)
    for stage, allowed, what in (
        ("ppo", compared, "this run is not one of the policies"),
        ("dpo", compared, "this run is not one of the policies"),
        ("judge", judges, "this run is not one of the judges"),
        ("sft", behind, "no policy was made from this run"),
        ("reward", behind, "no policy was made from this run"),
    ):
        if stage in ("sft", "reward") and not told:
            continue
        if stage in settings.costs and identity(settings.costs[stage]) not in allowed:
            fitting = [name for one, name in allowed.items() if stage_of(one) == MADE_BY[stage]]
            raise ConfigError(
                what,
                where=f"costs.{stage}",
                found=settings.costs[stage],
                fix=f"name {' or '.join(fitting)}, or leave it out" if fitting else "leave it out",
            )


def _costs_of(stage: str, folder: Path, runs: Mapping[str, str]) -> list[StageCost]:
    kind = _kind(stage)
    facts, rows = read_facts(folder), read_metrics(folder)
    if not is_done(folder):
        raise RunError(
            "the run is not finished, so its cost is not known",
            where=str(folder),
            found=f"costs.{stage}",
            fix="finish it with --resume, or leave it out of costs",
        )
    _require_stage(stage, folder, facts)
    spent = Cost.from_json(facts["cost"])
    # Measuring and saving are this program's habits, not the method's needs: they stand apart.
    aside = _sum(spent, ("evaluation", "checkpoints"))
    timed = _sum(spent, ("reference",))
    reference = _with_borrowed(timed, facts)
    trained, generated = _tokens(stage, folder, rows)
    needs = _needs(facts, runs)
    own = StageCost(
        stage=kind,
        run=folder.name,
        wall_s=spent.wall_s - aside.wall_s - timed.wall_s,
        cpu_s=spent.cpu_s - aside.cpu_s - timed.cpu_s,
        peak_memory_bytes=_device_memory(spent, facts),
        host_memory_bytes=spent.host_memory_bytes,
        tokens_trained=trained,
        tokens_generated=generated,
        device=_device(facts),
        needs=needs if needs is None or not reference.wall_s else (*needs, "reference"),
    )
    measuring = _aside("measuring", aside, own, generated=None)
    if not reference.wall_s:
        return [own, measuring]
    return [_aside("reference", reference, own, generated=0), own, measuring]


def _aside(kind: CostStage, time: Part, own: StageCost, *, generated: int | None) -> StageCost:
    """A part of a run; the peak of its memory is the run's alone."""
    return StageCost(
        stage=kind,
        run=own.run,
        wall_s=time.wall_s,
        cpu_s=time.cpu_s,
        peak_memory_bytes=None,
        tokens_generated=generated,
        device=own.device,
        needs=(),
    )


def _with_borrowed(timed: Part, facts: Mapping[str, Any]) -> Part:
    """A reference pass that another run had made is charged too: the method could not have done without."""
    said = facts.get("reference_passes", {}).get("reference") or {}
    if said.get("from") != "the cache":
        return timed
    return Part(timed.wall_s + said["wall_s"], timed.cpu_s + said["cpu_s"])


def _sum(spent: Cost, names: Sequence[str]) -> Part:
    found = [spent.parts[name] for name in names if name in spent.parts]
    return Part(sum(part.wall_s for part in found), sum(part.cpu_s for part in found))


def _kind(stage: str) -> CostStage:
    if stage not in MADE_BY:
        raise ConfigError(
            "there is no such stage to count the cost of",
            where=f"costs.{stage}",
            fix=f"one of {', '.join(MADE_BY)}",
        )
    return cast(CostStage, stage)


def _require_stage(stage: str, folder: Path, facts: Mapping[str, Any]) -> None:
    made_by = facts.get("stage", "none that is named")
    if made_by != MADE_BY[stage]:
        raise ConfigError(
            f"the cost of {stage} is that of a run of the stage {MADE_BY[stage]}",
            where=f"costs.{stage}",
            found=f"{folder}, a run of the stage {made_by}",
            fix=f"name a run of the stage {MADE_BY[stage]}, or leave it out",
        )


def _needs(facts: Mapping[str, Any], runs: Mapping[str, str]) -> tuple[str, ...] | None:
    """The stages of the runs that a run was made from; None where run.json does not say."""
    if "parents" not in facts:
        return None
    found = []
    for parent in facts["parents"].values():
        source, stage = str(parent["source"]), stage_of(parent["source"])
        if stage and (stage not in runs or identity(runs[stage]) == identity(source)):
            found.append(stage)
        elif stage or parent.get("finished"):  # another run than is named, or one that is gone
            found.append(f"{stage or 'the run'} {Path(source).name}")
    return tuple(dict.fromkeys(found))


def _device_memory(spent: Cost, facts: Mapping[str, Any]) -> int | None:
    """The peak on the device that computed; None for one that has memory of its own and was not asked."""
    on_the_host = str(facts.get("device", "cpu")).startswith("cpu")
    return (
        spent.peak_memory_bytes if on_the_host or spent.peak_memory_bytes != spent.host_memory_bytes else None
    )


def _device(facts: Mapping[str, Any]) -> str:
    """`cpu, bfloat16, AMD EPYC, 2 threads`: times of runs that differ in one of them are of two machines."""
    parts = [str(facts.get("device", "")), str(facts.get("hardware", {}).get("processor", ""))]
    if threads := facts.get("threads"):
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    return ", ".join(filter(None, parts))


def _tokens(stage: str, folder: Path, rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Tokens trained (every epoch and every trained model counts) and generated, from the metrics."""
    trained = sum(int(row.get("tokens", 0)) for row in rows)
    if stage != "ppo":
        return trained, 0
    settings = read_yaml(folder / "config.yaml")
    generated = sum(row["length"] * settings["rollouts"] for row in rows if "length" in row)
    models = 2  # the policy and the value model
    return trained * settings["epochs"] * models, round(generated)
