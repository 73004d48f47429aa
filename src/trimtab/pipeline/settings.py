"""A pipeline: what data and model it begins from, and its stages in order.

A stage's settings may name an earlier stage where a model is meant (`model: sft`) and a split where
data are meant (`data: train`); these names become paths below the pipeline's folder. Everything
else is taken as it stands.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from trimtab.arena.settings import CompareSettings
from trimtab.config import Settings, build
from trimtab.errors import ConfigError
from trimtab.train.settings import STAGES

KINDS: dict[str, type[Settings]] = {**STAGES, "compare": CompareSettings}
"""Every kind of stage, by the command that runs it."""

COMMON = ("device", "precision", "seed", "dialogues", "max_prompt", "max_response", "row_tokens")
"""Settings of the pipeline that each stage inherits unless it sets its own."""

_SPLIT_FIELDS = ("data", "dev", "held_out")
_RUN_FIELDS = ("model", "reward_model", "judge", "proxy", "reference")


RESERVED = ("data", "stages", "left_out", "splits")
"""Names that the pipeline's own files have."""


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name} is the name of a part of the pipeline's folder; choose another")
    return name


Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$"), AfterValidator(_not_reserved)]
"""What becomes a file's or folder's name: letters, digits, dots and hyphens."""


class PipelineSettings(Settings):
    """Stages in order, from preferences to a report."""

    name: Name
    """The pipeline's folder below `runs/`, unless --out names another."""
    model: str
    """The model that the first stage begins from."""
    comparisons: str
    """People's comparisons, to be split by prompt: a file or a hub data set."""
    held_out: str | None = None
    """Comparisons kept apart for measuring; none: a share of `comparisons` is."""
    shares: dict[Name, Annotated[float, Field(gt=0, le=1)]]
    """Split -> expected share of the prompts; they sum to 1."""
    seed: int = 0
    """Of the split, and of every stage."""
    device: str = "auto"
    """Of every stage."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of every stage."""
    dialogues: Literal["chat", "raw"] = "chat"
    """How raw HH-RLHF dialogues are read."""
    max_prompt: PositiveInt = 192
    """Tokens of a prompt at most, in every stage."""
    max_response: PositiveInt = 64
    """Tokens of a response at most, in every stage."""
    row_tokens: PositiveInt = 1024
    """Tokens that go through a model at once, in every stage."""
    stages: dict[Name, dict[str, Any]]
    """Name -> its settings; `stage` says its kind where the name is not one, `about` what it is for."""

    @model_validator(mode="after")
    def _splits_are_known(self) -> Self:
        if self.held_out is not None and "held_out" in self.shares:
            raise ConfigError(
                "held_out is a file and a share at once",
                where="shares",
                found=f"held_out = {self.held_out!r} and shares.held_out = {self.shares['held_out']}",
                fix="leave held_out out of the shares",
            )
        return self


class Planned(Settings):
    """One stage, ready to run."""

    name: str
    kind: str
    """The command that runs it."""
    about: str = ""
    """What it is for, in a line for people."""
    folder: Path
    settings: dict[str, Any]
    """All of its settings, with names replaced by paths."""


def plan(pipeline: PipelineSettings, folder: Path, *, where: str) -> list[Planned]:
    """Every stage with its settings complete and checked, before anything runs.

    Raises:
        ConfigError: an unknown kind of stage, or a setting that the stage does not have.
    """
    planned: list[Planned] = []
    for name, given in pipeline.stages.items():
        tree = dict(given)
        kind = str(tree.pop("stage", name))
        about = str(tree.pop("about", ""))
        if kind not in KINDS:
            raise ConfigError(
                "there is no such stage",
                where=f"{where}: stages.{name}",
                found=kind,
                fix=f"set stage to one of {', '.join(KINDS)}",
            )
        known = KINDS[kind].model_fields
        common = {key: getattr(pipeline, key) for key in COMMON if key in known}
        if "model" in known:
            common["model"] = pipeline.model
        runs = {stage.name: str(stage.folder) for stage in planned}
        complete = _with_paths({**common, **tree}, runs, _splits(pipeline, folder), f"{where}: stages.{name}")
        settings = build(KINDS[kind], complete, where=f"{where}: stages.{name}")
        planned.append(
            Planned(
                name=name,
                kind=kind,
                about=about,
                folder=folder / name,
                settings=settings.model_dump(mode="json"),
            )
        )
    return planned


def split_names(pipeline: PipelineSettings) -> list[str]:
    """The files that the data step makes."""
    return [*pipeline.shares, *(["held_out"] if pipeline.held_out else [])]


def split_path(folder: Path, name: str) -> Path:
    """Where the pipeline keeps one split."""
    return folder / "data" / f"{name}.jsonl"


def _splits(pipeline: PipelineSettings, folder: Path) -> dict[str, str]:
    return {name: str(split_path(folder, name)) for name in split_names(pipeline)}


def _with_paths(
    tree: Mapping[str, Any], runs: Mapping[str, str], splits: Mapping[str, str], where: str
) -> dict[str, Any]:
    result = dict(tree)
    for keys, known in ((_SPLIT_FIELDS, splits), (_RUN_FIELDS, runs)):
        for key in keys:
            if isinstance(result.get(key), str):
                result[key] = _path(result[key], known, f"{where}.{key}")
            elif isinstance(result.get(key), list):
                result[key] = [_path(str(name), known, f"{where}.{key}") for name in result[key]]
    for key in ("policies", "costs"):
        if isinstance(result.get(key), Mapping):
            result[key] = {
                name: _path(value, runs, f"{where}.{key}.{name}") for name, value in result[key].items()
            }
    return result


def _path(value: str, known: Mapping[str, str], where: str) -> str:
    """The path of a known name, also after a judge's kind; any other value as it stands, unless it is a
    known name misspelt."""
    kind, colon, name = value.partition(":")
    if colon and name in known:
        return f"{kind}:{known[name]}"
    if value in known:
        return known[value]
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.7)
    if near and not Path(value).exists():
        raise ConfigError(
            "there is no earlier stage or split of this name",
            where=where,
            found=value,
            fix=f"did you mean {near[0]}?",
        )
    return value
