"""The demo's story: sample pairs, let the gold scorer judge them, then train, compare and report.

The stages are those of any pipeline, with settings from `demo.yaml`; only the pairs are made here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab import formats
from trimtab.config import build, differences, override, read_yaml
from trimtab.demo.assets import GOLD, MODEL, PARTS, Part, prompts
from trimtab.errors import Interrupted, RunError
from trimtab.pipeline.run import run_pipeline
from trimtab.pipeline.settings import PipelineSettings, plan
from trimtab.runs import progress
from trimtab.runs.files import write_json

SETTINGS = Path(__file__).with_name("demo.yaml")
ASKED: dict[Part, slice] = {"train": slice(None), "dev": slice(256), "test": slice(420, None)}
"""The prompts that are answered: all to train on; to measure, as many as seconds allow. The first 420 of the
test part were seen while the settings were chosen, so the report keeps to the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What can be chosen besides the settings of the stages."""

    seed: int = 0
    """Of the pairs, of every stage and of the comparison."""
    noise: float = 0.0
    """How much the gold scorer doubts: 0 never; 1 as the Bradley-Terry choice of its own log-odds."""
    pairs: int = 5
    """Judged pairs a training prompt; of dev and test prompts there is one each."""
    device: str = "auto"


def run_demo(settings: DemoSettings, folder: Path, changes: Sequence[str]) -> Path:
    """Run or go on with the demo in `folder`, and return the report's path.

    Args:
        changes: `key=value` of the pipeline's settings, as --set takes them.

    Raises:
        ConfigError: a setting that there is not.
        RunError: the folder holds a demo with other settings.
        StageFailed: a stage showed an error and ended.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    pipeline = _pipeline(settings, folder, changes)
    stages = plan(pipeline, folder, where=SETTINGS.name)
    count = settings.pairs * len(_asked("train"))
    progress.say(
        f"A small model learns to write kinder film reviews from {count:,} judged pairs, in {folder}"
    )
    try:
        make_pairs(settings, folder, max_new=pipeline.max_response)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted", where=str(folder), fix="run the same command again to go on"
        ) from None
    run_pipeline(pipeline, stages, folder)
    return folder / "compare" / "report.html"


def make_pairs(settings: DemoSettings, folder: Path, *, max_new: int) -> None:
    """The files of judged pairs that are not there yet.

    Raises:
        RunError: the folder's pairs were made with other settings.
    """
    account = {**asdict(settings), "max_new": max_new, "prompts": {part: len(_asked(part)) for part in PARTS}}
    _require_same(folder / "pairs" / "pairs.json", account)
    missing = [part for part in PARTS if not _path(folder, part).exists()]
    if not missing:
        progress.say("pairs: done before")
        return
    progress.say("pairs: the model answers, two answers at a time; a judge says which is kinder")
    # Imported here: it needs torch, and a mistake in the settings is to be told before that has loaded.
    from trimtab.demo.pairs import judge_pairs, sample_pairs
    from trimtab.judges.words import load_word_judge

    gold = load_word_judge(GOLD)
    for part in missing:
        seed = 10 * settings.seed + 2 * PARTS.index(part)  # two sides, each with seeds of its own
        pairs = settings.pairs if part == "train" else 1
        drawn = sample_pairs(
            MODEL, _asked(part), pairs=pairs, max_new=max_new, seed=seed, device=settings.device
        )
        judged = judge_pairs(drawn, gold, noise=settings.noise, seed=seed)
        formats.write_comparisons(_path(folder, part), judged)


def _asked(part: Part) -> list[str]:
    return prompts(part)[ASKED[part]]


def _path(folder: Path, part: Part) -> Path:
    return folder / "pairs" / f"{part}.jsonl"


def _pipeline(settings: DemoSettings, folder: Path, changes: Sequence[str]) -> PipelineSettings:
    places = {
        "PAIRS": str(_path(folder, "train")),
        "DEV": str(_path(folder, "dev")),
        "HELD_OUT": str(_path(folder, "test")),
    }
    chosen = [f"seed={settings.seed}", f"device={settings.device}", *changes]
    tree = override(_with_places(read_yaml(SETTINGS), places), chosen)
    return build(PipelineSettings, tree, where=SETTINGS.name)


def _with_places(tree: Any, places: dict[str, str]) -> Any:
    """The settings with the paths of this demo's pairs."""
    if isinstance(tree, dict):
        return {key: _with_places(value, places) for key, value in tree.items()}
    return places.get(tree, tree) if isinstance(tree, str) else tree


def _require_same(path: Path, account: dict[str, Any]) -> None:
    """Write the account where there is none yet; else it has to be this one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, account)
        return
    changed = differences(json.loads(path.read_text(encoding="utf-8")), account)
    if changed:
        raise RunError(
            "this folder holds a demo with other settings",
            where=str(path.parent.parent),
            found="; ".join(changed[:4]),
            fix="choose another --out, or delete the folder",
        )
