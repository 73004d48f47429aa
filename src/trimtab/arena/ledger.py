"""The costs of finished runs, read from their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from trimtab.arena.cost import CostStage, StageCost
from trimtab.config import read_yaml
from trimtab.errors import ConfigError, RunError
from trimtab.runs.cost import Cost, Part
from trimtab.runs.run import is_done, read_facts, read_metrics


def stage_costs(runs: Mapping[str, str]) -> list[StageCost]:
    """What each run cost; DPO's reference pass, and evaluation with checkpoints, stand apart.

    Args:
        runs: stage (sft, reward, judge, dpo, ppo) -> run folder.

    Raises:
        RunError: a folder holds no run, or one that is not finished.
    """
    costs: list[StageCost] = []
    for stage, folder in runs.items():
        costs += _costs_of(stage, Path(folder))
    return costs


def _costs_of(stage: str, folder: Path) -> list[StageCost]:
    facts, rows = read_facts(folder), read_metrics(folder)
    if not is_done(folder):
        raise RunError(
            "the run is not finished, so its cost is not known",
            where=str(folder),
            found=f"costs.{stage}",
            fix="finish it with --resume, or leave it out of costs",
        )
    spent = Cost.from_json(facts["cost"])
    # Measuring and saving are this program's habits, not the method's needs: they stand apart.
    aside = _sum(spent, ("evaluation", "checkpoints"))
    reference = _sum(spent, ("reference",))
    own = Part(spent.wall_s - aside.wall_s - reference.wall_s, spent.cpu_s - aside.cpu_s - reference.cpu_s)
    trained, generated = _tokens(stage, folder, rows)
    device = str(facts.get("device", ""))

    def part(kind: str, time: Part, trained: int = 0, generated: int = 0) -> StageCost:
        return StageCost(
            stage=_kind(kind),
            run=folder.name,
            wall_s=time.wall_s,
            cpu_s=time.cpu_s,
            peak_memory_bytes=spent.peak_memory_bytes,
            tokens_trained=trained,
            tokens_generated=generated,
            device=device,
        )

    costs = [part(stage, own, trained, generated)]
    if reference.wall_s:
        costs.insert(0, part("reference", reference))
    return [*costs, part("measuring", aside)]


def _sum(spent: Cost, names: Sequence[str]) -> Part:
    found = [spent.parts[name] for name in names if name in spent.parts]
    return Part(sum(part.wall_s for part in found), sum(part.cpu_s for part in found))


def _kind(stage: str) -> CostStage:
    for kind in get_args(CostStage):
        if kind == stage:
            return cast(CostStage, kind)
    raise ConfigError(
        "there is no such stage to count the cost of",
        where=f"costs.{stage}",
        fix=f"one of {', '.join(get_args(CostStage))}",
    )


def _tokens(stage: str, folder: Path, rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Tokens trained (every epoch and every trained model counts) and generated, from the metrics."""
    trained = sum(int(row.get("tokens", 0)) for row in rows)
    if stage != "ppo":
        return trained, 0
    settings = read_yaml(folder / "config.yaml")
    generated = sum(row["length"] * settings["rollouts"] for row in rows if "length" in row)
    models = 2  # the policy and the value model
    return trained * settings["epochs"] * models, round(generated)
