"""An ensemble of reward models: the same stage several times, each with a seed of its own.

    RUN/members/1 .. RUN/members/K   finished runs of the reward stage, any of which can be used alone
    RUN/metrics.jsonl                the mean of their margins on the dev pairs, and how far they disagree

A resumed ensemble passes over the members that are done. Heads and orders of the pairs differ, the
backbone and the pairs do not, so the disagreement is that of training, not that of other data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from trimtab.runs import progress
from trimtab.runs.card import write_card
from trimtab.runs.run import MEMBERS, Run, is_done, open_run, read_facts, read_metrics
from trimtab.train.measures import Mean
from trimtab.train.reward_measures import DevPairs, report
from trimtab.train.settings import RewardSettings


def train(settings: RewardSettings, run: Run, train_one: Callable[[RewardSettings, Run], None]) -> None:
    """Train each member in a run folder of its own, and measure them together."""
    run.describe(seed=settings.seed)
    folders = [run.folder / MEMBERS / str(number) for number in range(1, settings.members + 1)]
    for index, folder in enumerate(folders):
        progress.say(f"  member {index + 1} of {settings.members} -> {folder}")
        if not is_done(folder):
            _train_member(run, folder, member_settings(settings, index), train_one)
        _take_over(run, folder)
    if settings.dev is not None:
        _measure(run, settings, folders)
    run.describe(cost=run.meter.total().as_json())
    write_card(run.folder)
    run.finish()


def _train_member(
    run: Run, folder: Path, settings: RewardSettings, train_one: Callable[[RewardSettings, Run], None]
) -> None:
    try:
        with open_run(folder, run.stage, settings, resume=True) as member:
            train_one(settings, member)
    finally:
        run.save(run.step + 1, {})  # what was spent so far; the members keep their own state


def member_settings(settings: RewardSettings, index: int) -> RewardSettings:
    """Of member `index`, from 0: the run that `--set seed=...` alone would give."""
    return settings.model_copy(update={"members": 1, "seed": settings.seed + index})


def _take_over(run: Run, folder: Path) -> None:
    """What the member was made from is what the ensemble is made from, and must be so for all."""
    facts = read_facts(folder)
    for kind in ("parents", "data"):
        for name, fact in facts[kind].items():
            run.describe_input(kind, name, fact)
    run.describe(device=facts["device"], chat_template=facts["chat_template"])


def _measure(run: Run, settings: RewardSettings, folders: list[Path]) -> None:
    """The dev pairs by the mean margin, and the deviation of members' margins around it."""
    found = [DevPairs.read(folder) for folder in folders]
    margins = np.stack([one.margins for one in found])  # [members, P]
    together = replace(found[0], margins=margins.mean(axis=0))
    deviations = together.by_example(margins.std(axis=0, ddof=1))
    step = int(read_metrics(folders[0])[-1]["step"])
    report(run, step, settings.seed, together, disagreement=Mean(deviations.tolist()))
