"""Properties 43 to 47: the parts of PPO one by one, each against its definition case by case.

Dimensions: N = cases; R = responses, L = longest of them, right-padded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from trimtab.lab import exact
from trimtab.lab.listing import Listing
from trimtab.lab.properties.measures import beyond, largest
from trimtab.lab.properties.property import Lab
from trimtab.losses.advantages import (
    EPSILON,
    centre,
    gae,
    scale_to_unit_variance,
    standardize,
    token_rewards,
    unchanged,
)
from trimtab.losses.kl import AdaptiveKL, k1
from trimtab.losses.policy_gradient import mean_over_responses, mean_over_slots
from trimtab.losses.ppo import PolicyLoss, dual_clipped_policy_loss, policy_loss, value_loss

CLIP, DUAL_CLIP, VALUE_CLIP = 0.2, 3.0, 0.5
PUBLISHED = (0.0508, 0.4381, 0.8254, 1.2127, 1.6, 1.9873, 2.3746, 2.7619, 3.1492)
"""[[1.2 .. 2.0]] with its variance scaled to 1, to four digits, in "The N implementation details of RLHF"."""


def where_the_policy_clip_takes_the_gradient(lab: Lab) -> float:
    """Loss, slope and flag of both clips for all ratios and signs; the clip only ever adds loss."""
    ratios, signs = (0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 2.9, 3.1, 8.0), (-2.0, -0.5, 0.0, 0.7, 3.0)
    cases = torch.tensor(list(product(ratios, signs)), dtype=torch.float64)
    errors = []
    for dual in (math.inf, DUAL_CLIP):
        moved = cases[:, 0].log().requires_grad_()
        old = torch.linspace(-3, -0.1, len(cases), dtype=torch.float64)
        found = _policy_loss(old + moved, old, cases[:, 1], dual)
        slopes = torch.autograd.grad(found.loss.sum(), moved)[0]
        for index, (ratio, advantage) in enumerate(cases.tolist()):
            dead = _dead(ratio, advantage, dual)
            errors.append(slopes[index] - (0.0 if dead else -advantage * ratio))
            errors.append(found.ratio[index] - ratio)
            errors.append((found.clipped[index] != dead).double())
            errors.append(found.loss[index] - _policy_cost(ratio, advantage, dual))
        if dual == math.inf:
            errors.append(beyond(-cases[:, 1] * cases[:, 0], found.loss))
    return largest(*errors)


def where_the_value_clip_takes_the_gradient(lab: Lab) -> float:
    """No slope beyond the clip where the clipped error is the larger, and only there; never below plain."""
    cases = list(product((-2.0, -0.6, -0.4, 0.1, 0.4, 0.6, 2.0), (-1.0, 0.03, 1.17), (-3.0, -0.2, 0.25, 4.0)))
    values, old, returns = torch.tensor(cases, dtype=torch.float64).unbind(1)
    values = values.requires_grad_()
    found = value_loss(values, old, returns, clip=VALUE_CLIP)
    slopes = torch.autograd.grad(found.loss.sum(), values)[0]
    errors = [beyond(0.5 * (values - returns).square(), found.loss)]
    for index, (value, before, target) in enumerate(cases):
        near = min(max(value, before - VALUE_CLIP), before + VALUE_CLIP)
        dead = abs(value - before) > VALUE_CLIP and abs(near - target) > abs(value - target)
        cost = 0.5 * (near - target if dead else value - target) ** 2
        errors.append(found.loss[index] - cost)
        errors.append(slopes[index] - (0.0 if dead else value - target))
        errors.append((found.clipped[index] != dead).double())
    return largest(*errors)


def whitening(lab: Lab) -> float:
    """Mean 0 and biased variance v / (v + 1e-8) over real tokens, signs kept; a published vector."""
    mask, values = Listing(lab.world).mask, _noise(Listing(lab.world).mask, seed=1) * 4 + 9
    weights = torch.linspace(0.1, 2, len(mask), dtype=torch.float64)
    errors = [_off_whitened(values, mask, None), _off_whitened(values, mask, weights)]
    found = standardize(values, mask)
    real = values[mask]
    variance = real.var(correction=0)
    kept = scale_to_unit_variance(values, mask)
    scaled = (real - real.mean()) / (variance + EPSILON).sqrt() + real.mean()
    # 1e-8 beside the variance is the one thing that an affine map changes: half of 1e-8 / v, relatively.
    affine = standardize(3 * values - 40, mask) - found
    limit = found.abs().max() * EPSILON / variance
    signs = torch.where(mask, found.sign() - (values - real.mean()).sign(), 0.0)
    vector = torch.linspace(1.2, 2, 9, dtype=torch.float64).view(3, 3)
    published = scale_to_unit_variance(vector, torch.ones(3, 3, dtype=torch.bool)).flatten()
    off = (published - torch.tensor(PUBLISHED, dtype=torch.float64)).abs()
    untouched = [found[~mask], kept[~mask]]
    return largest(
        *errors, *untouched, kept[mask] - scaled, beyond(affine.abs(), limit), signs, beyond(off, 5e-5)
    )


def rewards_of_tokens_add_up(lab: Lab) -> float:
    """Their sum is score - beta * log-ratio, only the last token has the score, padding counts nowhere."""
    listing, beta = Listing(lab.world), lab.world.beta
    mask, scores = listing.mask, listing.scores
    policy, reference = (
        listing.padded(listing.token_logprobs(one.model).detach()) for one in (lab.policy, lab.reference)
    )
    rewards = token_rewards(scores, k1(policy, reference), mask, kl_weight=beta)
    whole = lab.world.rewards - beta * (lab.log_policy - lab.log_reference)
    without = token_rewards(torch.zeros_like(scores), k1(policy, reference), mask, kl_weight=beta)
    carried = torch.zeros_like(rewards)
    for index, response in enumerate(lab.world.responses * len(lab.world.prompts)):
        carried[index, len(response.ids) - 1] = scores[index]
    # The mean that PPO descends and reports, of whole responses, is that of single tokens.
    mean = (
        exact.expected(lab.log_policy, whole).mean()
        - (listing.shares(lab.log_policy).unsqueeze(1) * rewards)[mask].sum()
    )
    return largest(
        rewards.sum(1) - whole.flatten(), rewards - without - carried, mean, *_padding_errors(mask)
    )


def the_adaptive_weight(lab: Lab) -> float:
    """It rests at the target, moves by 0.2 min(n/horizon, 1) at most, stays positive, steers pi* there."""
    controller = AdaptiveKL(target=3.0, horizon=1000)
    errors = [controller.updated(0.4, kl=3.0, episodes=episodes) - 0.4 for episodes in (1, 64, 100_000)]
    for episodes, kl in product((1, 64, 1000, 4999), (-1.0, 0.0, 2.7, 3.1, 50.0)):
        factor = controller.updated(0.4, kl=kl, episodes=episodes) / 0.4
        expected = 1 + min(0.2, max(-0.2, (kl - 3) / 3)) * min(episodes / 1000, 1)
        errors.append(factor - expected)
        errors.append(max(0.0, abs(factor - 1) - 0.2 * min(episodes / 1000, 1) - 1e-15))
        errors.append(float(factor <= 0))
    steered, weight = AdaptiveKL(target=0.5, horizon=1000), 5.0

    def divergence() -> float:
        best = exact.optimum(lab.log_reference, lab.world.rewards, beta=weight)
        return float(exact.divergence(best, lab.log_reference).mean())

    for _ in range(300):
        weight = steered.updated(weight, kl=divergence(), episodes=250)
    return largest(*(torch.tensor(one, dtype=torch.float64) for one in (*errors, divergence() - 0.5)))


def _policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, dual: float) -> PolicyLoss:
    if dual == math.inf:
        return policy_loss(logprobs, old, advantages, clip=CLIP)
    return dual_clipped_policy_loss(logprobs, old, advantages, clip=CLIP, dual_clip=dual)


def _dead(ratio: float, advantage: float, dual: float) -> bool:
    """Whether the token has already moved as far as it may."""
    if advantage > 0:
        return ratio > 1 + CLIP
    return advantage < 0 and (ratio < 1 - CLIP or ratio > dual)


def _policy_cost(ratio: float, advantage: float, dual: float) -> float:
    """The loss of one token, case by case."""
    if advantage > 0:
        return -advantage * min(ratio, 1 + CLIP)
    return -advantage * min(max(ratio, 1 - CLIP), dual)


def _off_whitened(values: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """Mean and variance of what `standardize` and `centre` give, less what they should be."""
    counts = mask.double() if weights is None else mask * weights.unsqueeze(1)
    share = counts / counts.sum()
    found, centred = standardize(values, mask, weights), centre(values, mask, weights)
    variance = (share * (values - (share * values).sum()).square()).sum()
    return torch.stack(
        [
            (share * found).sum(),
            (share * found.square()).sum() - variance / (variance + EPSILON),
            (share * centred).sum(),
            (share * centred.square()).sum() - variance,
        ]
    )


def _padding_errors(mask: Tensor) -> list[Tensor]:
    """What junk in the padding, and three more columns of it, change, and what is not 0 there afterwards."""
    wide = torch.cat([mask, torch.zeros(len(mask), 3, dtype=torch.bool)], 1)
    scores = _noise(mask, seed=2)[:, 0]
    width = mask.shape[1]

    def of_all(seed: int, shape: Tensor) -> list[Tensor]:
        first, second = (
            torch.where(shape, _widened(_noise(mask, seed=one), shape), _noise(shape, seed=seed + one))
            for one in (3, 4)
        )
        estimated = gae(first, second, shape, lam=0.95)
        rewards = token_rewards(scores, first, shape, kl_weight=0.7)
        shifted = [one(first, shape) for one in (standardize, centre, unchanged, scale_to_unit_variance)]
        return [rewards, *estimated, *shifted]

    plain, junk = of_all(10, mask), of_all(20, wide)
    changed = [one[:, :width] - other for one, other in zip(junk, plain, strict=True)]
    return [*changed, *(one[~wide] for one in junk), *_changes_of_means(mask, wide)]


def _changes_of_means(mask: Tensor, wide: Tensor) -> list[Tensor]:
    """What more padding, with junk in it, changes in the means over tokens."""
    values, slots = _noise(mask, seed=5), wide.shape[1]
    junk = torch.where(wide, _widened(values, wide), _noise(wide, seed=6))
    means: list[Callable[[Tensor, Tensor], Tensor]] = [
        mean_over_responses,
        lambda each, real: mean_over_slots(each, real, slots=slots),
    ]
    return [mean(values, mask) - mean(junk, wide) for mean in means]


def _widened(values: Tensor, mask: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, mask.shape[1] - values.shape[1]))


def _noise(mask: Tensor, *, seed: int) -> Tensor:
    """Numbers everywhere, also where masked."""
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
