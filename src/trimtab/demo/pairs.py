"""The demo's preferences: answers of the model that training begins from, judged by the gold scorer.

The gold scorer stands for people. Two answers at a time are compared, as people would be asked to.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from trimtab.arena.matches import play_matches
from trimtab.formats import Row
from trimtab.judges.judge import Answer, Unreadable
from trimtab.judges.words import WordJudge
from trimtab.records import Comparison, Preferred, Prompt, Verdict
from trimtab.rollout.types import Sampling

CLOSE = 0.5
"""Nats of log-odds that two answers must lie apart for a verdict without noise: closer ones are a tie."""


def sample_pairs(
    model: str, prompts: Sequence[str], *, pairs: int, max_new: int, seed: int, device: str
) -> list[Comparison]:
    """`pairs` unjudged comparisons a prompt, of answers drawn at temperature 1; equal ones are left out."""
    rows: list[Row[Prompt]] = [
        Row(prompt, "the demo's prompts", line)
        for line, prompt in enumerate(prompts, 1)
        for _ in range(pairs)
    ]
    played = play_matches(model, model, rows, Sampling(max_new=max_new), seed=seed, device=device)
    return [one for one in played if one.a != one.b]


def judge_pairs(
    comparisons: Sequence[Comparison], gold: WordJudge, *, noise: float, seed: int
) -> list[Comparison]:
    """Each comparison with the gold scorer's verdict.

    Args:
        noise: 0 prefers the higher score, and calls close ones a tie; else the Bradley-Terry choice of the
            log-odds over `noise`: 1 is the choice of somebody whose doubt is the scorer's own.
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


def _choice(apart: float, noise: float, draw: random.Random) -> Preferred:
    if noise == 0:
        return "tie" if abs(apart) < CLOSE else "a" if apart > 0 else "b"
    return "a" if draw.random() < 1 / (1 + math.exp(-apart / noise)) else "b"


def _log_odds(score: float) -> float:
    return math.log(score) - math.log1p(-score)
