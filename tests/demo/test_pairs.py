"""The demo's preferences: drawn two at a time, and judged as the gold scorer scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from trimtab.demo.pairs import judge_pairs, sample_pairs
from trimtab.judges.judge import Answer
from trimtab.judges.words import WordJudge
from trimtab.records import Comparison


def log_odds(score: float) -> float:
    return math.log(score / (1 - score))


@pytest.fixture
def gold() -> WordJudge:
    places = {"good": 0, "bad": 1, "film": 2}
    return WordJudge("words:test", places, np.ones(3), np.array([2.0, -2.0, 0.5]), 0.1)


def comparisons(*texts: tuple[str, str]) -> list[Comparison]:
    return [Comparison(prompt="The film", a=a, b=b) for a, b in texts]


def preferred(judged: Sequence[Comparison]) -> list[str]:
    return [one.verdict.preferred for one in judged if one.verdict]


def test_without_noise_the_higher_score_wins(gold: WordJudge) -> None:
    pairs = comparisons(
        (" is good", " is bad"), (" is bad", " is so"), (" is x", " is y"), (" is good", " good good")
    )
    judged = judge_pairs(pairs, gold, noise=0, seed=0)
    assert preferred(judged) == ["a", "b", "tie", "tie"]
    assert judge_pairs(pairs, gold, noise=0, seed=1) == judged
    assert [one.judged(one.verdict) for one in judged if one.verdict] == judged


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_with_noise_it_is_the_bradley_terry_choice(gold: WordJudge, noise: float) -> None:
    pair = comparisons((" is good", " is so"))
    a, b = (gold.score([Answer("The film", text)])[0] for text in (pair[0].a, pair[0].b))
    assert isinstance(a, float) and isinstance(b, float)
    count = 4_000
    judged = judge_pairs(pair * count, gold, noise=noise, seed=3)
    share = preferred(judged).count("a") / count
    expected = 1 / (1 + math.exp(-(log_odds(a) - log_odds(b)) / noise))
    assert 0.55 < expected < 0.95
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))
    assert judge_pairs(pair * count, gold, noise=noise, seed=3) == judged
    assert judge_pairs(pair * count, gold, noise=noise, seed=4) != judged


def test_pairs_are_two_different_answers_of_one_model(model_folder: Path) -> None:
    def drawn(seed: int) -> list[Comparison]:
        return sample_pairs(str(model_folder), ["the", "one"], pairs=3, max_new=6, seed=seed, device="cpu")

    pairs = drawn(0)
    assert [one.prompt for one in pairs] == ["the"] * 3 + ["one"] * 3
    assert all(one.a != one.b and one.verdict is None for one in pairs)
    assert len({text for one in pairs for text in (one.a, one.b)}) == 12, "every answer has a seed of its own"
    assert pairs == drawn(0) != drawn(2)
