"""Splits that share no prompt, and the search for prompts that two files share.

A model that saw a prompt in training is not tested by it, whichever responses stood beside it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TypeVar

from trimtab.errors import ConfigError
from trimtab.formats.rows import Defect, Reading, Record, Row, RowError, excerpt, prompt_of
from trimtab.records import Prompt, prompt_text

R = TypeVar("R", bound=Record)
A = TypeVar("A", bound=Record)
B = TypeVar("B", bound=Record)


def prompt_key(prompt: Prompt) -> str:
    """Equal for prompts that count as the same: white space does not tell prompts apart."""
    return " ".join(prompt_text(prompt).split())


def split_by_prompt(
    rows: Sequence[Row[R]], shares: Mapping[str, float], seed: int
) -> dict[str, list[Row[R]]]:
    """Rows into named splits; every conversation falls into one split with all its rows.

    The split follows from a hash of its first user turn and the seed alone: it does not depend on the
    other rows, so rows added later never move a prompt. The price is that shares are met on average, not
    exactly.

    Args:
        shares: split name -> expected share of the prompts; they sum to 1.
    Raises:
        ConfigError: shares that are not positive or do not sum to 1.
    """
    if any(not share > 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1):
        raise ConfigError(
            "the shares of the splits must be positive and sum to 1",
            where="shares",
            found=", ".join(f"{name} = {share}" for name, share in shares.items()) or "none",
            fix="for example train = 0.8, held_out = 0.2",
        )
    names = list(shares)
    ends = list(itertools.accumulate(shares.values()))[:-1]
    splits: dict[str, list[Row[R]]] = {name: [] for name in names}
    for row in rows:
        splits[names[bisect_right(ends, _place(prompt_of(row.record), seed))]].append(row)
    return splits


def conversation_key(prompt: Prompt) -> str:
    """Equal for prompts that are turns of one conversation: those that begin with the same user turn.

    HH-RLHF has several rows of many conversations; the later ones hold the replies of the earlier.
    """
    if isinstance(prompt, str):
        return prompt_key(prompt)
    first = next((index for index, turn in enumerate(prompt) if turn.role == "user"), len(prompt) - 1)
    return prompt_key(prompt[: first + 1])


def _place(prompt: Prompt, seed: int) -> float:
    """Uniform over [0, 1)."""
    digest = hashlib.sha256(f"{seed}\n{conversation_key(prompt)}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def leakage(first: Reading[A], second: Reading[B]) -> list[Defect]:
    """One defect for every row of `second` whose prompt stands in `first` too; it names both places."""
    places: dict[str, str] = {}
    for row in first.rows:
        places.setdefault(prompt_key(prompt_of(row.record)), row.where)
    defects = []
    for other in second.rows:
        prompt = prompt_of(other.record)
        if (where := places.get(prompt_key(prompt))) is not None:
            defects.append(_leak(prompt, where).at(second.source, other.line))
    return defects


def _leak(prompt: Prompt, where: str) -> RowError:
    return RowError(
        "prompt leakage",
        f"the same prompt is in {where}",
        field="prompt",
        found=excerpt(prompt_text(prompt)),
        fix="keep each prompt in one of the files, or split by prompt",
    )
