"""Comparisons with a winner as TRL's preference and unpaired preference, and as RewardBench's rows.

Source: TRL's docs/source/dataset_formats.md and trl/trainer/reward_trainer.py; RewardBench's data set card
(allenai/reward-bench) and `load_preference_dataset` in its rewardbench/utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimtab.formats.exports.left_out import check_pair, verdict_of
from trimtab.formats.exports.shape import ColumnKind
from trimtab.formats.own_record import answer_json, prompt_json
from trimtab.formats.rewardbench import WHOLE
from trimtab.formats.rows import RawRow
from trimtab.records import Comparison

PREFERENCE: Mapping[str, ColumnKind] = {
    "prompt": "prompt",
    "chosen": "answer",
    "rejected": "answer",
    "margin": "number",
    "group": "text",
    "judge": "text",
}
# TRL's collator reads `margin` in every row as soon as the first one has it, and fails on null. 0 leaves the
# loss as it is without a margin.
PREFERENCE_UNKNOWN: Mapping[str, object] = {"margin": 0.0, "group": "", "judge": ""}

UNPAIRED: Mapping[str, ColumnKind] = {
    "prompt": "prompt",
    "completion": "answer",
    "label": "truth",
    "group": "text",
    "judge": "text",
}
UNPAIRED_UNKNOWN: Mapping[str, object] = {"group": "", "judge": ""}

REWARDBENCH: Mapping[str, ColumnKind] = {
    "prompt": "prompt",
    "chosen": "text",
    "chosen_model": "text",
    "rejected": "text",
    "rejected_model": "text",
    "subset": "text",
    "id": "whole",
}


def preference(comparison: Comparison, number: int) -> list[RawRow]:
    """`prompt`, `chosen`, `rejected`, with `margin` 1, 2 or 3 where a strength is known.

    The margin is in units of reward: Llama 2 (Touvron et al. 2023, arXiv:2307.09288, its larger scale) asks
    for a lead of 1 where a response is slightly better, 2 where it is better, 3 where it is much better.
    """
    check_pair(comparison)
    verdict, prompt = verdict_of(comparison), comparison.prompt
    margin = {} if verdict.strength is None else {"margin": float(verdict.strength)}
    row = {
        "prompt": prompt_json(prompt),
        "chosen": answer_json(prompt, comparison.chosen),
        "rejected": answer_json(prompt, comparison.rejected),
        **margin,
    }
    return [row | _known(group=comparison.group, judge=verdict.judge)]


def unpaired_from_pairs(comparison: Comparison, number: int) -> list[RawRow]:
    """The preferred response as a good one and the other as a bad one, though the judge only ranked them."""
    check_pair(comparison)
    prompt = comparison.prompt
    extra = _known(group=comparison.group, judge=verdict_of(comparison).judge)
    labels = ((comparison.chosen, True), (comparison.rejected, False))
    return [
        {"prompt": prompt_json(prompt), "completion": answer_json(prompt, response), "label": label, **extra}
        for response, label in labels
    ]


def rewardbench(comparison: Comparison, number: int) -> list[RawRow]:
    """Text prompts as in its own set, chats as a list of the turns before the replies."""
    check_pair(comparison)
    sources = (comparison.source_a, comparison.source_b)
    won, lost = sources if verdict_of(comparison).preferred == "a" else sources[::-1]
    return [
        {
            "prompt": prompt_json(comparison.prompt),
            "chosen": comparison.chosen,
            "chosen_model": won,
            "rejected": comparison.rejected,
            "rejected_model": lost,
            "subset": WHOLE,
            "id": number,
        }
    ]


def _known(**texts: str) -> dict[str, object]:
    return {name: text for name, text in texts.items() if text}
