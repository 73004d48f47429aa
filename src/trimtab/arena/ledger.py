"""The costs of finished runs, read from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.arena.cost import CostStage, StageCost
from trimtab.runs.run import read_facts, read_metrics


def stage_costs(runs: Mapping[str, str]) -> list[StageCost]:
    """What each run cost; DPO's reference pass stands apart from its training.

    Args:
        runs: stage (sft, reward, judge, dpo, ppo) -> run folder.
    """
    costs: list[StageCost] = []
    for stage, folder in runs.items():
        costs += _costs_of(stage, Path(folder))
    return costs


def _costs_of(stage: str, folder: Path) -> list[StageCost]:
    facts, rows = read_facts(folder), read_metrics(folder)
    spent = facts["cost"]
    reference_s = float((spent.get("parts") or {}).get("reference", 0.0))
    # Processor seconds are not measured by part; the reference gets its share of the wall time.
    share = reference_s / spent["wall_s"] if spent["wall_s"] else 0.0
    parts: list[StageCost] = []
    if reference_s:
        parts.append(_part("reference", folder, facts, share, 0, 0))
    trained, generated = _tokens(stage, folder, rows)
    parts.append(_part(stage, folder, facts, 1.0 - share, trained, generated))
    return parts


def _part(
    stage: str, folder: Path, facts: Mapping[str, Any], share: float, trained: int, generated: int
) -> StageCost:
    kind: CostStage = stage  # type: ignore[assignment]  # the caller's names are those of CostStage
    return StageCost(
        stage=kind,
        run=folder.name,
        wall_s=share * facts["cost"]["wall_s"],
        cpu_s=share * facts["cost"]["cpu_s"],
        peak_memory_bytes=facts["cost"]["peak_memory_bytes"],
        tokens_trained=trained,
        tokens_generated=generated,
        device=str(facts.get("device", "")),
    )


def _tokens(stage: str, folder: Path, rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Tokens trained (each epoch counts) and generated, from the metrics."""
    trained = sum(int(row.get("tokens", 0)) for row in rows)
    if stage != "ppo":
        return trained, 0
    from trimtab.config import read_yaml

    settings = read_yaml(folder / "config.yaml")
    generated = sum(row["length"] * settings["rollouts"] for row in rows if "length" in row)
    return trained * settings["epochs"], round(generated)
