"""Whether a comparison is what it says: nobody was trained on what tests them, nor with the judge."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from trimtab import formats
from trimtab.arena.settings import CompareSettings
from trimtab.errors import ConfigError, DataError
from trimtab.runs.run import is_done, read_facts


def require_independence(settings: CompareSettings) -> tuple[str, ...]:
    """Refuse a judge that shares training prompts with a contestant, and held-out prompts that someone saw.

    Prompts are compared, not files. A model that no run made, or whose data are gone, cannot be checked.

    Returns:
        One sentence for each model that could not be checked, for the report.
    Raises:
        ConfigError: the judge is the proxy, or two policies are the same model.
        DataError: prompts are shared.
    """
    _refuse_twins(settings)
    contestants = {**settings.policies, **({"proxy": settings.proxy} if settings.proxy else {})}
    judges = {f"the judge {name}": source for name in settings.judges if (source := _model_of(name))}
    seen = {name: _training_prompts(source, settings) for name, source in {**contestants, **judges}.items()}
    held_out = _keys(settings.held_out, settings)
    for name, prompts in seen.items():
        if prompts is not None:
            _refuse_shared(prompts & held_out, f"{name} was trained on held-out prompts", settings.held_out)
    for judge, name in itertools.product(judges, contestants):
        shared = (seen[judge] or set()) & (seen[name] or set())
        _refuse_shared(shared, f"{judge} and {name} were trained on the same prompts", name)
    return tuple(
        f"What {name} was trained on could not be checked against the held-out prompts."
        for name, prompts in seen.items()
        if prompts is None
    )


def _refuse_twins(settings: CompareSettings) -> None:
    if settings.proxy in [_model_of(name) for name in settings.judges]:
        raise ConfigError(
            "the judge is the reward model that PPO was trained on",
            where="judge",
            found=settings.proxy,
            fix="train another reward model on pairs that nobody else sees",
        )
    names: dict[str, str] = {}
    for name, source in settings.policies.items():
        if source in names:
            raise ConfigError(
                "two policies are the same model",
                where=f"policies.{name}",
                found=f"{names[source]} and {name} are {source}",
                fix="leave one of them out",
            )
        names[source] = name


def _model_of(judge: str) -> str:
    """The model that a judge's name speaks of; empty for one that was not trained here (`llm:`)."""
    kind, colon, what = judge.partition(":")
    if not colon or kind not in ("reward", "implicit", "llm"):
        return judge
    return "" if kind == "llm" else what.partition(",")[0]


def _training_prompts(source: str, settings: CompareSettings) -> set[str] | None:
    folder = Path(source)
    if not is_done(folder):
        return None
    data: Mapping[str, str] = read_facts(folder).get("data", {}).get("train", {})
    if not data or not Path(data["source"]).is_file():
        return None
    return _keys(data["source"], settings)


def _keys(source: str, settings: CompareSettings) -> set[str]:
    reading = formats.read_prompts(source, dialogues=settings.dialogues)
    return {formats.prompt_key(prompt) for prompt in reading.records}


def _refuse_shared(shared: set[str], what: str, where: str) -> None:
    if shared:
        raise DataError(
            what,
            where=where,
            found=f"{len(shared)} shared prompts, such as {sorted(shared)[0][:80]!r}",
            fix="split by prompt, as pipelines do, and train or compare on the parts",
        )
