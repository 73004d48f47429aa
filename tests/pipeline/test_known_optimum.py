"""The real stages in a world of seven responses: they come nearer to what is known to be best."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from trimtab.lab.world import World
from trimtab.lab.worlds import random_world
from trimtab.model.device import Numerics
from trimtab.pipeline.known_optimum import (
    Approach,
    dpo_with_samples,
    dpo_with_weights,
    ppo_as_shipped,
    ppo_with_samples,
    ppo_with_weights,
    reference_of,
    reward_with_weights,
    sft_with_weights,
    vocabulary_of,
)

NUMERICS = Numerics(torch.device("cpu"), None)


@pytest.fixture(scope="module")
def world() -> World:
    return random_world(vocabulary=3, limit=2, beta=0.5, seed=5)


@pytest.mark.parametrize(
    ("run", "share"),
    [
        (lambda world: ppo_with_weights(world, NUMERICS, updates=60), 0.1),
        (lambda world: dpo_with_weights(world, NUMERICS, steps=100), 0.1),
        (lambda world: sft_with_weights(world, NUMERICS, steps=40), 0.1),
        (lambda world: reward_with_weights(world, NUMERICS, steps=60), 0.5),
    ],
    ids=["ppo", "dpo", "sft", "reward"],
)
def test_what_is_missing_shrinks(run: Callable[[World], Approach], share: float, world: World) -> None:
    found = run(world)
    assert found.beta == 0.5 and found.gaps[0] == found.range > 0
    assert 0 <= found.final < share * found.range
    assert found.final == found.gaps[-1] < found.gaps[len(found.gaps) // 4]


def test_ppo_and_dpo_begin_at_the_same_distance_and_measure_it_alike(world: World) -> None:
    ppo = ppo_with_weights(world, NUMERICS, updates=1)
    dpo = dpo_with_weights(world, NUMERICS, steps=1)
    reference = world.logprobs(reference_of(world, NUMERICS))
    assert ppo.range == pytest.approx(dpo.range, rel=1e-6)
    assert ppo.range == pytest.approx(world.range(reference), rel=1e-6)
    assert vocabulary_of(world) == 3


def test_with_sampling_the_runs_have_as_many_steps_as_were_asked_for(world: World) -> None:
    sampled = ppo_with_samples(world, NUMERICS, episodes=96, rollouts=32)
    shipped = ppo_as_shipped(world, NUMERICS, episodes=96, rollouts=32)
    pairs = dpo_with_samples(world, NUMERICS, pairs=500, steps=4)
    assert [len(found.gaps) for found in (sampled, shipped, pairs)] == [4, 4, 5]
    other = dpo_with_samples(world, NUMERICS, pairs=500, steps=4, seed=1)
    assert other.gaps[0] == pairs.gaps[0] and other.gaps[1:] != pairs.gaps[1:]
