"""What is exactly true, against sums of plain floats over three or four responses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trimtab.lab import exact

REFERENCE = [0.5, 0.3, 0.15, 0.05]
POLICY = [0.1, 0.2, 0.3, 0.4]
REWARDS = [1.0, -0.5, 0.25, 2.0]
BETAS = [0.3, 0.7, 2.0]


def row(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def best(beta: float) -> list[float]:
    """pi* in plain floats."""
    weights = [p * math.exp(r / beta) for p, r in zip(REFERENCE, REWARDS, strict=True)]
    return [weight / sum(weights) for weight in weights]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(p: list[float], values: list[float]) -> float:
    return sum(a * value for a, value in zip(p, values, strict=True))


@pytest.mark.parametrize("beta", BETAS)
def test_the_optimum_is_the_tilted_reference(beta: float) -> None:
    found = exact.optimum(row(REFERENCE).log(), row(REWARDS), beta=beta)
    assert found.exp().tolist() == pytest.approx(best(beta), rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_the_partition_is_the_sum_of_the_weights(beta: float) -> None:
    expected = math.log(mean(REFERENCE, [math.exp(reward / beta) for reward in REWARDS]))
    found = exact.log_partition(row(REFERENCE).log(), row(REWARDS), beta=beta)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_the_objective_and_what_it_lacks(beta: float) -> None:
    policy, reference, rewards = row(POLICY).log(), row(REFERENCE).log(), row(REWARDS)
    reached = mean(POLICY, REWARDS) - beta * kl(POLICY, REFERENCE)
    most = mean(best(beta), REWARDS) - beta * kl(best(beta), REFERENCE)
    assert exact.objective(policy, reference, rewards, beta=beta).item() == pytest.approx(reached, rel=1e-12)
    assert exact.gap(policy, reference, rewards, beta=beta).item() == pytest.approx(most - reached, rel=1e-12)


def test_a_divergence_is_the_sum_of_its_definition() -> None:
    policy, reference = row(POLICY).log(), row(REFERENCE).log()
    assert exact.divergence(policy, reference).item() == pytest.approx(kl(POLICY, REFERENCE), rel=1e-12)
    assert exact.divergence(reference, policy).item() == pytest.approx(kl(REFERENCE, POLICY), rel=1e-12)
    assert exact.divergence(policy, policy).item() == 0


def test_what_cannot_occur_counts_nothing() -> None:
    policy = row([0.25, 0.75, 0.0, 0.0]).log()
    values = row([2.0, 4.0, math.inf, math.nan])
    assert exact.expected(policy, values).item() == pytest.approx(3.5, rel=1e-12)


def test_a_divergence_is_infinite_where_only_the_other_rules_out() -> None:
    some, all_four = row([0.25, 0.75, 0.0, 0.0]).log(), row(REFERENCE).log()
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.3)
    assert exact.divergence(some, all_four).item() == pytest.approx(expected, rel=1e-12)
    assert exact.divergence(all_four, some).item() == math.inf
    assert exact.objective(all_four, some, row(REWARDS), beta=0.7).item() == -math.inf


def test_leading_dimensions_are_prompts_of_their_own() -> None:
    reference = torch.stack([row(REFERENCE), row(POLICY)]).log()
    rewards = torch.stack([row(REWARDS), row(REWARDS[::-1])])
    policies = torch.stack([reference.flip(0), reference, reference.flip(-1)])
    together = exact.gap(policies, reference, rewards, beta=0.7)
    assert together.shape == (3, 2)
    for k in range(3):
        for x in range(2):
            alone = exact.gap(policies[k, x], reference[x], rewards[x], beta=0.7)
            assert together[k, x].item() == pytest.approx(alone.item(), rel=1e-12, abs=1e-15)


def test_the_row_beats_the_column() -> None:
    found = exact.win_probabilities(row(REWARDS))
    for first, better in enumerate(REWARDS):
        for second, worse in enumerate(REWARDS):
            expected = math.exp(better) / (math.exp(better) + math.exp(worse))
            assert found[first, second].item() == pytest.approx(expected, rel=1e-12)


def test_the_frontier_of_a_coin() -> None:
    """Rewards 0 and 1, both sides as likely: pi* is sigma(1/beta) on the second."""
    betas = row([0.1, 0.5, 1.0, 5.0])
    divergences, rewards = exact.frontier(row([0.5, 0.5]).log(), row([0.0, 1.0]), betas)
    for beta, divergence, reward in zip(betas.tolist(), divergences, rewards, strict=True):
        heads = 1 / (1 + math.exp(-1 / beta))
        assert reward.item() == pytest.approx(heads, rel=1e-12)
        assert divergence.item() == pytest.approx(kl([1 - heads, heads], [0.5, 0.5]), rel=1e-12)


def test_the_frontier_rises_less_and_less() -> None:
    betas = torch.logspace(1.5, -1, 30, dtype=torch.float64)
    divergences, rewards = exact.frontier(row(REFERENCE).log(), row(REWARDS), betas)
    assert (divergences.diff() > 0).all()
    assert (rewards.diff() > 0).all()
    assert ((rewards.diff() / divergences.diff()).diff() < 0).all()


@pytest.mark.parametrize("prompts", [1, 3])
def test_the_sampling_gap_of_two_responses(prompts: int) -> None:
    """One number per prompt is learned, r1 - r2, with variance 1 / (n p (1 - p)) from n labels."""
    beta, count, lead = 0.7, 1000, 0.8
    win = 1 / (1 + math.exp(-lead))
    share = torch.tensor([[0.0, win], [1 - win, 0.0]], dtype=torch.float64) / prompts
    likely = share.expand(prompts, 2, 2)
    chosen = [0.9, 0.1]
    found = exact.sampling_gap(row(chosen).log().expand(prompts, 2), likely, beta=beta, pairs=count)
    # beta KL = beta/2 q (1 - q) (d logit)^2, and the logit of the policy is (r1 - r2) / beta.
    variance = prompts / (count * win * (1 - win)) / beta**2
    assert found == pytest.approx(beta / 2 * chosen[0] * chosen[1] * variance, rel=1e-9)


RESPONSES = [(0,), (1, 0), (1, 1)]
"""Token 0 stops; two tokens at most."""
STEPS = {(0,): 0.6, (1,): 0.4, (1, 0): 0.3, (1, 1): 0.7}
WORTH = [0.5, -1.0, 2.0]


def steps() -> dict[exact.Written, Tensor]:
    logprobs = [[STEPS[ids[: count + 1]] for count in range(len(ids))] for ids in RESPONSES]
    return exact.token_steps(RESPONSES, [row(one).log() for one in logprobs])


def test_steps_are_those_of_every_beginning() -> None:
    found = steps()
    assert found.keys() == STEPS.keys()
    for ids, probability in STEPS.items():
        assert found[ids].exp().item() == pytest.approx(probability, rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_values_come_from_the_ends(beta: float) -> None:
    found = exact.optimal_values(RESPONSES, steps(), row(WORTH), beta=beta)
    later = beta * math.log(0.3 * math.exp(WORTH[1] / beta) + 0.7 * math.exp(WORTH[2] / beta))
    start = beta * math.log(0.6 * math.exp(WORTH[0] / beta) + 0.4 * math.exp(later / beta))
    expected = {(): start, (1,): later, **dict(zip(RESPONSES, WORTH, strict=True))}
    assert {ids: value.item() for ids, value in found.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_the_steps_of_the_optimum_multiply_to_it(beta: float) -> None:
    values = exact.optimal_values(RESPONSES, steps(), row(WORTH), beta=beta)
    found = {ids: step.exp().item() for ids, step in exact.optimal_steps(steps(), values, beta=beta).items()}
    weights = [
        probability * math.exp(worth / beta)
        for probability, worth in zip([0.6, 0.4 * 0.3, 0.4 * 0.7], WORTH, strict=True)
    ]
    products = [found[(0,)], found[(1,)] * found[(1, 0)], found[(1,)] * found[(1, 1)]]
    assert products == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-12)
    assert found[(0,)] + found[(1,)] == pytest.approx(1, rel=1e-12)
    assert found[(1, 0)] + found[(1, 1)] == pytest.approx(1, rel=1e-12)
