"""What the runs behind a comparison say of themselves: settings, hashes, methods, seeds, curves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.arena.ancestry import identity, lineage, parents, stage_of
from trimtab.arena.findings import Curve, Fact, curve
from trimtab.arena.settings import CompareSettings
from trimtab.config import read_yaml
from trimtab.runs.run import Run, is_done, read_facts, read_metrics

_OF_A_RUN = (
    "trimtab", "commit", "python", "device", "threads", "seed", "started", "finished", "parents", "data",
    "chat_template",
)  # fmt: skip


def facts_of(settings: CompareSettings, run: Run) -> tuple[Fact, ...]:
    """The comparison's settings and surroundings, then settings, parents and data of every run behind it."""
    found = [
        Fact(group="comparison", name=name, value=value)
        for name, value in _flat(settings.model_dump(mode="json"))
    ]
    held_out = Path(settings.held_out)
    if held_out.is_file():
        digest = hashlib.sha256(held_out.read_bytes()).hexdigest()
        found.append(Fact(group="comparison", name="held_out.sha256", value=digest))
    for group, folder in _runs_behind(settings).items():
        facts = {name: value for name, value in read_facts(folder).items() if name in _OF_A_RUN}
        tree = {**read_yaml(folder / "config.yaml"), **facts}
        found += [Fact(group=group, name=name, value=value) for name, value in _flat(tree)]
    own = {name: run.facts[name] for name in ("trimtab", "commit", "python", "packages", "hardware")}
    return (*found, *(Fact(group="versions", name=name, value=value) for name, value in _flat(own)))


def _runs_behind(settings: CompareSettings) -> dict[str, Path]:
    """Each finished run that is named, with all runs behind it, by `run PLACE (STAGE)`; each once."""
    named = [
        *settings.policies.values(),
        settings.reference,
        *settings.costs.values(),
        *([settings.proxy] if settings.proxy else []),
        *settings.judge_models.values(),
    ]
    behind = {one: place for source in named for one, place in lineage(source).items()}
    return {
        f"run {place} ({stage_of(place)})": Path(one) for one, place in behind.items() if is_done(Path(one))
    }


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """`optimizer.learning_rate`, `1e-05`: the leaves of nested settings as text."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield (
                f"{before}{name}",
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
            )


def method_of(source: str) -> str:
    """The stage that made a policy; `model` for one that no run made."""
    return stage_of(source) or "model"


def seed_of(source: str) -> int | None:
    """The seed of a policy's training; None for one that no run made."""
    folder = Path(source)
    return read_facts(folder).get("seed") if is_done(folder) else None


_CURVES = {
    "sft": ("loss",),
    "reward": ("loss", "accuracy"),
    "dpo": ("loss", "margin", "accuracy"),
    "ppo": (
        "score", "kl", "length", "stopped", "clip_fraction", "approximate_kl", "explained_variance",
        "first_ratio_error",
    ),
}  # fmt: skip


def curves_of(runs: Mapping[str, str]) -> tuple[Curve, ...]:
    """The learning curves of stage -> run."""
    return tuple(
        curve(stage, metric, read_metrics(Path(runs[stage])), loss=_loss(Path(runs[stage])))
        for stage, metrics in _CURVES.items()
        if stage in runs
        for metric in metrics
    )


def _loss(folder: Path) -> str:
    """The name of a run's preference loss; empty for a stage that has but one."""
    loss = read_yaml(folder / "config.yaml").get("loss", {})
    return str(loss.get("name", ""))


def runs_of_a_method(settings: CompareSettings) -> int:
    """Training runs of the method that has most of them."""
    methods = Counter(
        method for source in settings.policies.values() if (method := method_of(source)) != "model"
    )
    return max(methods.values(), default=1)


def common_origin(settings: CompareSettings) -> tuple[str, ...]:
    """A caveat where the judge was trained from the model that the policies were trained from."""
    judges = {parent for source in settings.judge_models.values() for parent in _trained_from(source)}
    policies = {parent for source in settings.policies.values() for parent in _trained_from(source)}
    if not judges & policies:
        return ()
    return (
        "The judge was trained from the same model as the policies, so their errors are not independent.",
    )


def _trained_from(source: str) -> set[str]:
    return {identity(parent["source"]) for parent in parents(source).values()}
