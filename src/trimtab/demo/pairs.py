"""The demo's preferences: answers of the model that training begins from, judged by the gold scorer.

The gold scorer stands for people. Two answers at a time are compared, as people would be asked to.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from trimtab import formats
from trimtab.arena.matches import answer_texts
from trimtab.formats import Row
from trimtab.judges.judge import Answer, Unreadable
from trimtab.judges.words import WordJudge
from trimtab.records import Comparison, Preferred, Prompt, Verdict
from trimtab.rollout.types import Sampling


def sample_pairs(
    model: str, prompts: Sequence[str], *, pairs: int, max_new: int, seed: int, device: str
) -> list[Comparison]:
    """`pairs` unjudged comparisons a prompt, of different answers drawn at temperature 1."""
    rows: list[Row[Prompt]] = [
        Row(prompt, "the demo's prompts", line) for line, prompt in enumerate(prompts, 1)
    ]
    repeated = [row for row in rows for _ in range(2 * pairs)]
    answers = answer_texts(model, repeated, Sampling(max_new=max_new), seed=seed, device=device)
    halves = zip(repeated[::2], answers[::2], answers[1::2], strict=True)
    return [
        Comparison(
            prompt=row.record,
            a=str(a["response"]),
            b=str(b["response"]),
            source_a=model,
            source_b=model,
            stopped_a=bool(a["stopped"]),
            stopped_b=bool(b["stopped"]),
        )
        for row, a, b in halves
        if a["response"] != b["response"]
    ]


def judge_pairs(
    comparisons: Sequence[Comparison], gold: WordJudge, *, noise: float, seed: int
) -> list[Comparison]:
    """Each comparison with the gold scorer's verdict.

    Args:
        noise: 0 prefers the higher score always; else the Bradley-Terry choice of the log-odds over `noise`:
            1 is the choice of somebody whose doubt is the scorer's own.
    """
    scores = gold.score([Answer(one.prompt, text) for one in comparisons for text in (one.a, one.b)])
    draw = random.Random(seed)
    judged = []
    for one, a, b in zip(comparisons, scores[::2], scores[1::2], strict=True):
        assert not isinstance(a, Unreadable) and not isinstance(b, Unreadable), "it reads any text"
        verdict = Verdict(
            preferred=_choice(_log_odds(a) - _log_odds(b), noise, draw), judge="the gold scorer"
        )
        judged.append(one.judged(verdict))
    return judged


def write_pairs(path: Path, comparisons: Sequence[Comparison]) -> None:
    """As trimtab's own comparisons."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.write_comparisons(path, comparisons)


def _choice(apart: float, noise: float, draw: random.Random) -> Preferred:
    if noise == 0:
        return "tie" if apart == 0 else "a" if apart > 0 else "b"
    return "a" if draw.random() < 1 / (1 + math.exp(-apart / noise)) else "b"


def _log_odds(score: float) -> float:
    return math.log(score) - math.log1p(-score)
