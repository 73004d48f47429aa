"""Properties 51 and 52: where exact methods come to rest, on a table with one number for each response.

Dimensions: X = prompts, Y = responses to each. Policies are log-probabilities [X, Y], nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trimtab.lab import exact
from trimtab.lab.properties.gradients import minimum
from trimtab.lab.properties.measures import beyond, largest
from trimtab.lab.properties.property import Lab
from trimtab.losses.advantages import token_rewards
from trimtab.losses.dpo import dpo_loss
from trimtab.losses.kl import k1
from trimtab.losses.pairs import PairLogprobs
from trimtab.losses.policy_gradient import grpo_loss, reinforce_loss


def the_weight_decides_how_far(lab: Lab) -> float:
    """A large beta brings the policy back to the reference, beta 0 to the largest reward.

    From another policy than the reference; each step of ascent as long as it may be, 1/beta.
    """
    reference, rewards = lab.log_reference, lab.world.rewards
    spread = rewards.amax(-1) - rewards.amin(-1)
    errors = []
    for beta in (1.0, 10.0, 1e3, 1e6):
        found = ascend(lab.log_policy, reference, rewards, beta=beta, rate=0.5 / beta, steps=60)
        kl = exact.divergence(found, reference)
        # KL is the integral of s Var(s) over s = 0 .. 1/beta, and a variance is at most range^2 / 4.
        errors.append(beyond(kl, spread.square() / (8 * beta**2) + 1e-14))
    errors.append(kl)
    start, before = lab.log_policy, exact.expected(lab.log_policy, rewards)
    for _ in range(5):
        start = ascend(start, reference, rewards, beta=0.0, rate=5.0, steps=10)
        errors.append(beyond(before, exact.expected(start, rewards)))
        before = exact.expected(start, rewards)
    # Such steps multiply the odds by e^(rate * lead): the path through the optima of ever smaller betas.
    path = exact.optimum(lab.log_policy, rewards, beta=1 / 250)
    return largest(*errors, before - rewards.amax(-1), start.exp() - path.exp())


def ppo_and_dpo_meet(lab: Lab) -> float:
    """Exact policy-gradient ascent and population DPO end at pi*; till then each lacks beta KL(. || pi*)."""
    reference, rewards, beta = lab.log_reference, lab.world.rewards, lab.world.beta
    best = exact.optimum(reference, rewards, beta=beta)
    most = beta * exact.log_partition(reference, rewards, beta=beta)
    # Half of the distance to pi* is left after each step of 0.5/beta, and of Newton's the digits double.
    ends = [ascend(reference, reference, rewards, beta=beta, rate=0.5 / beta, steps=60), _dpo(lab, steps=8)]
    midway = [ascend(reference, reference, rewards, beta=beta, rate=0.5 / beta, steps=2), _dpo(lab, steps=1)]
    lacking = [
        most - exact.objective(one, reference, rewards, beta=beta) - beta * exact.divergence(one, best)
        for one in (*midway, *ends)
    ]
    still_moving = torch.stack([exact.divergence(one, best).min() for one in midway])
    total_variation = [0.5 * (one.exp() - best.exp()).abs().sum(-1) for one in ends]
    return largest(
        *total_variation, *lacking, beyond(1e-3 - still_moving, 0), *_grpo_rests_elsewhere(lab, best)
    )


def ascend(
    start: Tensor, reference: Tensor, rewards: Tensor, *, beta: float, rate: float, steps: int
) -> Tensor:
    """Policy-gradient ascent with k1 in the reward; every expectation is a sum over all responses.

    Each number's gradient is divided by its response's probability (the natural gradient), which takes a
    few dozen steps where the plain one takes thousands: it waits for the least likely responses.
    """
    table = start.detach()
    one_token = torch.ones(rewards.numel(), 1, dtype=torch.bool)
    for _ in range(steps):
        table = table.requires_grad_()
        policy = torch.log_softmax(table, -1)
        share = policy.detach().exp()
        kl = k1(policy.detach(), reference).reshape(-1, 1)
        returns = token_rewards(rewards.flatten(), kl, one_token, kl_weight=beta).view_as(rewards)
        loss = (share * reinforce_loss(policy, returns)).sum()
        downhill = torch.autograd.grad(loss, table)[0]
        # What has underflowed to probability 0 has gradient 0 and stays.
        table = (table - rate * downhill / share.clamp(min=1e-300)).detach()
    return torch.log_softmax(table, -1)


def _dpo(lab: Lab, *, steps: int) -> Tensor:
    """Newton's method on DPO's loss of all pairs, from the reference; pairs count by their labels alone."""
    reference, rewards = lab.log_reference, lab.world.rewards
    wins = exact.win_probabilities(rewards)

    def pairs(logprobs: Tensor) -> PairLogprobs:
        return PairLogprobs(
            logprobs.unsqueeze(-1).expand_as(wins).flatten(), logprobs.unsqueeze(-2).expand_as(wins).flatten()
        )

    def loss(table: Tensor) -> Tensor:
        policy = torch.log_softmax(table.view_as(rewards), -1)
        return (wins.flatten() * dpo_loss(pairs(policy), pairs(reference), beta=lab.world.beta).loss).sum()

    return torch.log_softmax(minimum(loss, reference.flatten(), steps=steps).view_as(rewards), -1)


def _grpo_rests_elsewhere(lab: Lab, best: Tensor) -> list[Tensor]:
    """GRPO's loss is at rest at beta * reference / (constant - reward), and that is not pi*."""
    reference, rewards, beta = lab.log_reference, lab.world.rewards, lab.world.beta
    rest = _forward_optimum(reference, rewards, beta)
    table = rest.log().requires_grad_()
    policy = torch.log_softmax(table, -1)
    advantages = rewards - exact.expected(rest.log(), rewards).unsqueeze(-1)
    found = grpo_loss(policy, policy.detach(), reference, advantages, clip=0.2, kl_weight=beta)
    slopes = torch.autograd.grad((rest * found.loss).sum(), table)[0]
    elsewhere = 0.5 * (rest - best.exp()).abs().sum(-1)
    return [rest.sum(-1) - 1, slopes, beyond(0.02 - elsewhere, 0)]


def _forward_optimum(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """beta * reference / (constant - reward), summing to 1: [X, Y]. The constant by bisection."""
    low = (rewards + beta * reference.exp()).amax(-1, keepdim=True)  # one term alone is already 1
    high = rewards.amax(-1, keepdim=True) + beta  # no term can make up for it
    for _ in range(math.ceil(math.log2(1e18))):
        middle = (low + high) / 2
        above = (beta * reference.exp() / (middle - rewards)).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return beta * reference.exp() / (high - rewards)
