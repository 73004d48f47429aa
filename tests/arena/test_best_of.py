"""The best of n: chosen by the proxy among the first n, with the KL that is known of it."""

from __future__ import annotations

import math

import pytest

from trimtab.arena.best_of import best_of_kl, choose_best
from trimtab.arena.play import Played
from trimtab.arena.settings import CompareSettings
from trimtab.config import build
from trimtab.data.tokens import Response
from trimtab.errors import ConfigError
from trimtab.rollout.types import Rollout


def candidate(place: int, *texts: str) -> Played:
    rollouts = [Rollout((1,), Response((place, index), True), (0.0,)) for index in range(len(texts))]
    return Played(f"candidate {place + 1}", rollouts, list(texts), [0.0] * len(texts))


CANDIDATES = [candidate(0, "a0", "a1"), candidate(1, "b0", "b1"), candidate(2, "c0", "c1")]
SCORES = {"candidate 1": [0.1, None], "candidate 2": [0.3, -5.0], "candidate 3": [9.0, 9.0]}


def test_the_highest_score_of_the_first_n_is_chosen() -> None:
    best, scores = choose_best(2, CANDIDATES, SCORES, source="runs/sft")
    assert best.texts == ["b0", "b1"] and scores == [0.3, -5.0]  # no score never beats a score
    assert [rollout.response.ids for rollout in best.rollouts] == [(1, 0), (1, 1)]
    assert (best.policy, best.source, best.method) == ("best of 2", "runs/sft", "best of n")
    every, scores = choose_best(3, CANDIDATES, SCORES, source="runs/sft")
    assert every.texts == ["c0", "c1"] and scores == [9.0, 9.0]


@pytest.mark.parametrize("count", [2, 4, 16])
def test_its_kl_is_that_of_the_largest_of_n_uniform_draws(count: int) -> None:
    """With distinct scores the chosen one's rank u has density n u^(n-1): the KL is its mean log."""
    steps = 200_000
    points = ((index + 0.5) / steps for index in range(steps))
    kl = sum(count * u ** (count - 1) * math.log(count * u ** (count - 1)) for u in points) / steps
    assert best_of_kl(count) == pytest.approx(kl, abs=1e-4)
    best, _ = choose_best(min(count, 3), CANDIDATES, SCORES, source="s")
    assert best.kl == [best_of_kl(min(count, 3))] * 2


SETTINGS = {"policies": {"a": "x", "b": "y"}, "reference": "x", "judge": "j", "held_out": "h.jsonl"}


def test_it_needs_the_proxy_that_chooses() -> None:
    with pytest.raises(ConfigError, match="chosen by the proxy"):
        build(CompareSettings, {**SETTINGS, "best_of": [4]})
    assert build(CompareSettings, {**SETTINGS, "best_of": [4, 16], "proxy": "p"}).best_of == (4, 16)


@pytest.mark.parametrize("name", ["tie", "best of 4"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    policies = {"a": "x", name: "y"}
    with pytest.raises(ConfigError, match="means something else"):
        build(CompareSettings, {**SETTINGS, "policies": policies, "best_of": [4], "proxy": "p"})
