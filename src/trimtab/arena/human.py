"""How many judgments of people each method, and the judge, learned from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.arena.cost import HumanWork
from trimtab.runs.run import read_facts

_LEARNED_BY = {"ppo": "reward", "dpo": "dpo", "judge": "judge"}
"""Who pays for judgments -> the stage that reads them: PPO has its reward model read them."""


def human_work(costs: Mapping[str, str], judged: int) -> HumanWork | None:
    """Judged pairs by who learned from them, as the runs' own accounts say.

    Args:
        costs: stage -> run folder, as `stage_costs` takes them.
        judged: held-out pairs that really tested the judge.

    Returns:
        None where no run is named that learned from pairs. A run that does not say how many is passed over.
    Raises:
        RunError: a folder holds no run.
    """
    data: dict[str, Mapping[str, Any]] = {}
    for who, stage in _LEARNED_BY.items():
        fact = read_facts(Path(costs[stage])).get("data", {}).get("train", {}) if stage in costs else {}
        if "examples" in fact:
            data[who] = fact
    if not data:
        return None
    by_file: dict[str, list[str]] = {}
    for who, fact in data.items():
        if fact.get("sha256"):
            by_file.setdefault(fact["sha256"], []).append(who)
    return HumanWork(
        pairs=tuple((who, int(fact["examples"])) for who, fact in data.items()),
        shared=tuple(tuple(group) for group in by_file.values() if len(group) > 1),
        held_out_pairs=judged,
    )
