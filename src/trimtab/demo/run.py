"""The demo's story: sample pairs, let the gold scorer judge them, then train, compare and report.

The stages are those of any pipeline, with settings from `demo.yaml`; only the pairs are made here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.config import build, differences, override, read_yaml
from trimtab.demo.assets import GOLD, MODEL, WITNESS, prompts
from trimtab.errors import RunError
from trimtab.pipeline.run import run_pipeline
from trimtab.pipeline.settings import PipelineSettings, Planned, plan
from trimtab.runs import progress
from trimtab.runs.files import write_json

SETTINGS = Path(__file__).with_name("demo.yaml")
MAX_NEW = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What can be chosen."""

    seed: int = 0
    """Of the pairs, of every stage and of the comparison."""
    noise: float = 0.0
    """How much the gold scorer doubts: 0 never; 1 as the Bradley-Terry choice of its own log-odds."""
    pairs: int = 2
    """Judged pairs a training prompt."""
    device: str = "auto"


def run_demo(settings: DemoSettings, folder: Path, changes: list[str]) -> Path:
    """Run or go on with the demo in `folder`, and return the report's path.

    Args:
        changes: `key=value` of the pipeline's settings, as --set takes them.
    Raises:
        RunError: the folder holds a demo with other settings.
    """
    stages = _planned(settings, folder, changes)
    progress.say(
        f"The demo, in {folder}: a small model learns to praise films, from "
        f"{settings.pairs * len(prompts('train')):,} judged pairs."
    )
    make_pairs(settings, folder)
    pipeline = _pipeline(settings, folder, changes)
    run_pipeline(pipeline, stages, folder)
    return folder / "compare" / "report.html"


def make_pairs(settings: DemoSettings, folder: Path) -> None:
    """The three files of judged pairs, unless they are there; their account is written last."""
    account = {**asdict(settings), "device": "", "prompts": {part: len(prompts(part)) for part in _PARTS}}
    done = folder / "pairs" / "pairs.json"
    if done.exists():
        _require_same(done, account)
        progress.say("pairs: done before")
        return
    from trimtab.demo.pairs import judge_pairs, sample_pairs, write_pairs
    from trimtab.judges.words import load_word_judge

    progress.say(
        "pairs: the model writes answers two at a time; the gold scorer says which is the kinder review"
    )
    gold = load_word_judge(str(GOLD))
    for number, (part, pairs) in enumerate(_PARTS.items()):
        seed = 10 * settings.seed + number
        drawn = sample_pairs(
            str(MODEL), prompts(part), pairs=pairs or settings.pairs, max_new=MAX_NEW, seed=seed,
            device=settings.device,
        )  # fmt: skip
        write_pairs(_path(folder, part), judge_pairs(drawn, gold, noise=settings.noise, seed=seed))
    write_json(done, account)


_PARTS: dict[Any, int] = {"train": 0, "dev": 1, "test": 1}
"""Pairs a prompt in each part; 0 for as many as the settings say."""


def _path(folder: Path, part: str) -> Path:
    return folder / "pairs" / f"{part}.jsonl"


def _pipeline(settings: DemoSettings, folder: Path, changes: list[str]) -> PipelineSettings:
    tree = override(_filled(read_yaml(SETTINGS), folder), [f"seed={settings.seed}", *changes])
    return build(PipelineSettings, tree, where=SETTINGS.name)


def _planned(settings: DemoSettings, folder: Path, changes: list[str]) -> list[Planned]:
    return plan(_pipeline(settings, folder, changes), folder, where=SETTINGS.name)


def _filled(tree: Any, folder: Path) -> Any:
    """The settings with the places that only an installation knows."""
    places = {
        "MODEL": str(MODEL),
        "words:GOLD": f"words:{GOLD}",
        "probe:WITNESS": f"probe:{WITNESS}",
        "PAIRS": str(_path(folder, "train")),
        "DEV": str(_path(folder, "dev")),
        "HELD_OUT": str(_path(folder, "test")),
    }
    if isinstance(tree, dict):
        return {key: _filled(value, folder) for key, value in tree.items()}
    return places.get(tree, tree) if isinstance(tree, str) else tree


def _require_same(done: Path, account: dict[str, Any]) -> None:
    changed = differences(json.loads(done.read_text(encoding="utf-8")), account)
    if changed:
        raise RunError(
            "this folder holds a demo with other settings",
            where=str(done.parent.parent),
            found="; ".join(changed[:4]),
            fix="choose another --out, or delete the folder",
        )
