"""Whether a comparison is what it says: nobody was trained on what tests them, nor with the judge.

What a model was made from counts as its own training. Only what all are meant to share is excepted between
the judge and the contestants: SFT, and the reference with what is behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from trimtab import formats
from trimtab.arena.ancestry import identity, lineage, stage_of
from trimtab.arena.settings import CompareSettings
from trimtab.errors import ConfigError, DataError
from trimtab.runs.run import is_done, read_facts


class _Seen(NamedTuple):
    """The prompts that one model's own training read; None where they are not known, with the reason."""

    prompts: frozenset[str] | None
    reason: str = ""


_Models = Mapping[str, Mapping[str, str]]
"""Name in the comparison -> the model and all behind it, as `lineage` gives them."""


def require_independence(settings: CompareSettings) -> tuple[str, ...]:
    """Refuse a judge that shares training prompts with a contestant, and held-out prompts that someone saw.

    Prompts are compared, not files, of each model and of all that it was made from. A model that no run
    made, or whose data are gone or no longer what they were, cannot be checked.

    Returns:
        One sentence for each model that could not be checked or is compared with itself, for the report.
    Raises:
        ConfigError: the judge is the proxy, or rests on what a contestant learned from; or two policies
            are the same by name.
        DataError: prompts are shared.
    """
    _refuse_twins(settings)
    contestants = {**settings.policies, **({"proxy": settings.proxy} if settings.proxy else {})}
    judges = {f"the judge {name}": source for name, source in settings.judge_models.items()}
    named = {**contestants, "the reference": settings.reference, **judges}
    models = {name: lineage(source) for name, source in named.items()}
    seen = _seen_by(models, settings)
    _refuse_held_out(models, seen, settings)
    for judge, name in itertools.product(judges, contestants):
        _refuse_common_training(judge, name, models, seen)
    return (*_same_models(settings.policies), *_unchecked(models, seen))


def _refuse_twins(settings: CompareSettings) -> None:
    judges = {identity(source) for source in settings.judge_models.values()}
    if settings.proxy and identity(settings.proxy) in judges:
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


def _refuse_held_out(models: _Models, seen: Mapping[str, _Seen], settings: CompareSettings) -> None:
    held_out, _ = _prompts(settings.held_out, settings)
    for one, (prompts, _) in seen.items():
        what = f"{_title(one, models)} was trained on held-out prompts"
        _refuse_shared(held_out & (prompts or frozenset()), what, settings.held_out)


def _refuse_common_training(judge: str, name: str, models: _Models, seen: Mapping[str, _Seen]) -> None:
    own = list(_own_training(models[judge], models["the reference"]))
    for one in own:
        if one in models[name]:
            raise ConfigError(
                f"{judge} and {name} rest on the same training",
                where="judge",
                found=models[name][one],
                fix="train another judge on pairs that nobody else sees",
            )
    for mine, its in itertools.product(own, models[name]):
        shared = (seen[mine].prompts or frozenset()) & (seen[its].prompts or frozenset())
        what = f"{_title(mine, models)} and {_title(its, models)} were trained on the same prompts"
        _refuse_shared(shared, what, name)


def _own_training(judge: Mapping[str, str], reference: Mapping[str, str]) -> Iterator[str]:
    """The judge, and what is behind it, less what the contestants are meant to share with it."""
    for index, (one, source) in enumerate(judge.items()):
        if index == 0 or (stage_of(source) not in ("", "sft") and one not in reference):
            yield one


def _same_models(policies: Mapping[str, str]) -> Iterator[str]:
    for (left, first), (right, second) in itertools.combinations(policies.items(), 2):
        if identity(first) == identity(second):
            yield f"{left} and {right} are one and the same model: what differs between them is chance."


def _unchecked(models: _Models, seen: Mapping[str, _Seen]) -> Iterator[str]:
    for one, (prompts, reason) in seen.items():
        if prompts is None:
            what = f"What {_title(one, models)} was trained on could not be checked"
            yield f"{what} against the held-out prompts{reason}."


def _title(one: str, models: _Models) -> str:
    """Its name in the comparison, or `runs/sft, from which ppo and dpo come,`."""
    for name, behind in models.items():
        if next(iter(behind)) == one:
            return name
    heirs = [name for name, behind in models.items() if one in behind]
    return f"{models[heirs[0]][one]}, from which {_listed(heirs)} come{'s' if len(heirs) == 1 else ''},"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _seen_by(models: _Models, settings: CompareSettings) -> dict[str, _Seen]:
    """Identity -> what it saw in its own training. Files that several read are read once."""

    @cache
    def read(source: str) -> tuple[frozenset[str], str]:
        return _prompts(source, settings)

    def look(source: str) -> _Seen:
        folder = Path(identity(source))
        data = read_facts(folder).get("data", {}).get("train", {}) if is_done(folder) else {}
        if not data or not Path(data["source"]).is_file():
            return _Seen(None)
        prompts, sha256 = read(data["source"])
        if data.get("sha256", sha256) != sha256:
            return _Seen(None, f": {data['source']} is no longer the file that was trained on")
        return _Seen(prompts)

    return {one: look(source) for behind in models.values() for one, source in behind.items()}


def _prompts(source: str, settings: CompareSettings) -> tuple[frozenset[str], str]:
    """Prompts of a file, and its hash."""
    reading = formats.read_prompts(source, dialogues=settings.dialogues)
    return frozenset(formats.prompt_key(prompt) for prompt in reading.records), reading.sha256


def _refuse_shared(shared: frozenset[str], what: str, where: str) -> None:
    if shared:
        raise DataError(
            what,
            where=where,
            found=f"{len(shared)} shared prompts, such as {sorted(shared)[0][:80]!r}",
            fix="split by prompt, as pipelines do, and train or compare on the parts",
        )
