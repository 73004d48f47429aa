"""Worlds against their definition: every response once, probabilities, pairs, demonstrations, rollouts."""

from __future__ import annotations

import copy
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.lab import exact
from trimtab.lab.world import Enumeration, World, every_response
from trimtab.lab.worlds import random_world
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy
from trimtab.model.tiny import STOP_ID, tiny_policy, tiny_scorer
from trimtab.rollout.types import Sampling

CPU = Numerics(torch.device("cpu"), None)
SHAPES = [(2, 1), (2, 4), (3, 2), (3, 3), (4, 3), (5, 2)]


@pytest.fixture(scope="module")
def world() -> World:
    return random_world(vocabulary=3, limit=3, prompts=2, beta=0.7, seed=11)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(3, seed=1, numerics=CPU, dtype=torch.float64)


@pytest.fixture(scope="module")
def logprobs(world: World, policy: Policy) -> Tensor:
    return world.logprobs(policy)


@pytest.mark.parametrize(("vocabulary", "limit"), SHAPES)
def test_there_are_as_many_responses_as_the_tree_has_ends(vocabulary: int, limit: int) -> None:
    responses = every_response(vocabulary, limit, STOP_ID)
    words = vocabulary - 1
    stopped = Counter(len(response.ids) for response in responses if response.stopped)
    assert stopped == {length + 1: words**length for length in range(limit)}
    assert sum(not response.stopped for response in responses) == words**limit
    assert len({response.ids for response in responses}) == len(responses)


@pytest.mark.parametrize("stop_id", [0, 2])
def test_a_response_ends_with_the_stop_token_or_at_the_limit(stop_id: int) -> None:
    for response in every_response(4, 3, stop_id):
        assert set(response.ids) <= {0, 1, 2, 3}
        assert stop_id not in response.ids[:-1]
        assert response.stopped == (response.ids[-1] == stop_id)
        assert len(response.ids) == 3 if not response.stopped else 1 <= len(response.ids) <= 3


def test_responses_come_shortest_first() -> None:
    lengths = [len(response.ids) for response in every_response(3, 3, 0)]
    assert lengths == sorted(lengths)


def test_a_seed_gives_a_world() -> None:
    first, again, other = (
        random_world(vocabulary=4, limit=2, prompts=3, beta=0.5, seed=seed) for seed in (1, 1, 2)
    )
    assert first.prompts == ((1,), (2,), (3,))
    assert first.responses == every_response(4, 2, STOP_ID)
    assert first.rewards.shape == (3, len(first.responses)) and first.rewards.dtype == torch.float64
    assert first.limit == 2 and first.beta == 0.5
    assert torch.equal(first.rewards, again.rewards)
    assert not torch.equal(first.rewards, other.rewards)


@pytest.mark.parametrize("prompts", [0, 3])
def test_a_prompt_is_a_token_that_does_not_stop(prompts: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 2 prompts.*got {prompts}"):
        random_world(vocabulary=3, limit=2, prompts=prompts, beta=1.0, seed=0)


@pytest.mark.parametrize(("vocabulary", "limit"), SHAPES)
def test_all_responses_together_are_certain(vocabulary: int, limit: int) -> None:
    one = random_world(vocabulary=vocabulary, limit=limit, prompts=1, beta=1.0, seed=0)
    found = one.logprobs(tiny_policy(vocabulary, seed=4, numerics=CPU, dtype=torch.float64))
    assert found.shape == (1, len(one.responses))
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_a_response_has_the_sum_of_its_tokens(world: World, policy: Policy, logprobs: Tensor) -> None:
    """Tokens by the model's ordinary forward, one response at a time."""
    model = copy.deepcopy(policy.model)
    model.set_attn_implementation("eager")
    tokens = world.token_logprobs(policy)
    for x, prompt in enumerate(world.prompts):
        for y, response in enumerate(world.responses):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *response.ids]]), use_cache=False).logits[0]
            expected = [
                torch.log_softmax(logits[len(prompt) - 1 + t], -1)[token].item()
                for t, token in enumerate(response.ids)
            ]
            assert tokens[x][y].tolist() == pytest.approx(expected, abs=1e-12)
            assert logprobs[x, y].item() == pytest.approx(math.fsum(expected), abs=1e-12)


def test_a_score_is_the_reward_of_the_place(world: World) -> None:
    places = [(1, 4), (0, 0), (1, 14), (0, 4)]
    examples = [Example(world.prompts[x], (world.responses[y],)) for x, y in places]
    assert world.score(examples).tolist() == [world.rewards[place].item() for place in places]


def test_prompts_alone_have_no_response(world: World) -> None:
    assert world.prompt_examples() == [Example((1,), ()), Example((2,), ())]


def test_scores_are_the_head_at_the_last_token(world: World) -> None:
    scorer = tiny_scorer(3, seed=3, numerics=CPU, dtype=torch.float64)
    model = copy.deepcopy(scorer.model)
    model.set_attn_implementation("eager")
    found = world.scores(scorer)
    for x, prompt in enumerate(world.prompts):
        for y, response in enumerate(world.responses):
            with torch.no_grad():
                ids = torch.tensor([[*prompt, *response.ids]])
                states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            expected = (states[-1] @ model.score.weight[0]).item()
            assert found[x, y].item() == pytest.approx(expected, abs=1e-12)


def test_the_gap_is_the_mean_over_prompts(world: World, policy: Policy, logprobs: Tensor) -> None:
    reference = world.logprobs(tiny_policy(3, seed=2, numerics=CPU, dtype=torch.float64))
    missing = []
    for x in range(2):
        drawn, rewards = reference[x].exp(), world.rewards[x]
        best = drawn * (rewards / 0.7).exp() / (drawn * (rewards / 0.7).exp()).sum()
        assert world.optimum(reference)[x].exp().tolist() == pytest.approx(best.tolist(), rel=1e-12)
        missing.append(0.7 * (logprobs[x].exp() * (logprobs[x].exp() / best).log()).sum().item())
    assert world.gap(logprobs, reference) == pytest.approx(sum(missing) / 2, rel=1e-12)
    assert world.gap(world.optimum(reference), reference) == pytest.approx(0, abs=1e-14)
    assert world.range(reference) == world.gap(reference, reference) > 0


def likelihoods(world: World, drawn: Tensor) -> dict[tuple[int, int, int], float]:
    """p(prompt, chosen, rejected) in plain floats: two draws that differ, then the judge."""
    found = {}
    for x in range(len(world.prompts)):
        p, r = drawn[x].tolist(), world.rewards[x].tolist()
        differ = 1 - sum(one**2 for one in p)
        for a in range(len(p)):
            for b in range(len(p)):
                if a != b:
                    wins = math.exp(r[a]) / (math.exp(r[a]) + math.exp(r[b]))
                    # Drawn in either order, of which each is half of the ordered pairs.
                    found[x, a, b] = 2 * p[a] * p[b] / differ * wins / len(world.prompts)
    return found


def test_pairs_are_as_likely_as_two_draws_and_a_judge_make_them(world: World, logprobs: Tensor) -> None:
    expected = likelihoods(world, logprobs.exp())
    assert math.fsum(expected.values()) == pytest.approx(1, rel=1e-12)
    found = world.pair_probabilities(logprobs)
    assert found.sum().item() == pytest.approx(1, rel=1e-12)
    assert torch.diagonal(found, dim1=1, dim2=2).abs().max() == 0
    for place, likely in expected.items():
        assert found[place].item() == pytest.approx(likely, rel=1e-9)


def test_every_ordered_pair_is_there_with_its_weight(world: World, logprobs: Tensor) -> None:
    expected = {
        (world.prompts[x], world.responses[a].ids, world.responses[b].ids): likely
        for (x, a, b), likely in likelihoods(world, logprobs.exp()).items()
    }
    pairs = world.pairs(logprobs)
    found = {(one.prompt, one.responses[0].ids, one.responses[1].ids): one.weight for one in pairs}
    assert len(pairs) == 2 * 15 * 14 == len(found)
    assert found == pytest.approx(expected, rel=1e-9)


def test_pairs_with_given_weights(world: World, logprobs: Tensor) -> None:
    weights = torch.zeros(2, 15, 15)
    weights[0, 3, 5], weights[1, 5, 3] = 2.0, 0.5
    assert world.pairs(logprobs, weights) == [
        Example((1,), (world.responses[3], world.responses[5]), 2.0),
        Example((2,), (world.responses[5], world.responses[3]), 0.5),
    ]


def test_sampled_pairs_are_counts_of_judged_draws(world: World, logprobs: Tensor) -> None:
    count = 40_000
    found = world.sampled_pairs(logprobs, count, torch.Generator().manual_seed(0))
    assert sum(one.weight for one in found) == count
    assert all(one.weight == int(one.weight) > 0 for one in found)
    places = {response: y for y, response in enumerate(world.responses)}
    weights = {
        (world.prompts.index(one.prompt), places[one.responses[0]], places[one.responses[1]]): one.weight
        for one in found
    }
    assert len(weights) == len(found)
    for place, likely in likelihoods(world, logprobs.exp()).items():
        # Five standard deviations of a count; 420 of them are looked at.
        assert abs(weights.get(place, 0) - count * likely) < 5 * math.sqrt(count * likely) + 5


def test_sampled_pairs_depend_on_the_generator_alone(world: World, logprobs: Tensor) -> None:
    first, again, other = (
        world.sampled_pairs(logprobs, 100, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_demonstrations_weigh_as_their_source(world: World, logprobs: Tensor) -> None:
    found = world.demonstrations(logprobs)
    assert [(one.prompt, one.responses) for one in found] == [
        (prompt, (response,)) for prompt in world.prompts for response in world.responses
    ]
    assert [one.weight for one in found] == pytest.approx(logprobs.exp().flatten().tolist(), rel=1e-12)


SAMPLING = Sampling(max_new=3, stop_ids=(STOP_ID,))


def test_enumeration_answers_with_every_response_and_its_probability(
    world: World, policy: Policy, logprobs: Tensor
) -> None:
    prompts = [Example(world.prompts[x], ()) for x in (1, 0, 1)]
    found = Enumeration(world, policy)(prompts, SAMPLING, [0, 1, 2], name="all")
    assert len(found) == 3 * 15
    for place, x in enumerate((1, 0, 1)):
        group = found[15 * place : 15 * (place + 1)]
        assert {one.prompt for one in group} == {world.prompts[x]}
        assert [one.response for one in group] == list(world.responses)
        assert sum(one.weight for one in group) == pytest.approx(1, abs=1e-12)
        assert [one.weight for one in group] == pytest.approx(logprobs[x].exp().tolist(), rel=1e-12)
        for one in group:
            assert len(one.logprobs) == len(one.response.ids)
            assert math.exp(sum(one.logprobs)) == pytest.approx(one.weight, rel=1e-12)


def test_a_weighted_mean_of_its_rollouts_is_the_expectation(
    world: World, policy: Policy, logprobs: Tensor
) -> None:
    found = Enumeration(world, policy)(world.prompt_examples(), SAMPLING, [0, 1], name="all")
    scores = world.score([one.example for one in found])
    weights = torch.tensor([one.weight for one in found], dtype=torch.float64)
    expected = exact.expected(logprobs, world.rewards).mean().item()
    assert ((weights * scores).sum() / weights.sum()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sampling", [Sampling(max_new=3, temperature=0.5), Sampling(max_new=2)])
def test_enumeration_knows_one_distribution(world: World, policy: Policy, sampling: Sampling) -> None:
    with pytest.raises(AssertionError):
        Enumeration(world, policy)(world.prompt_examples(), sampling, [0, 1], name="all")
