"""Properties 1 to 11: the objective and its optimum.

Dimensions: K = policies, X = prompts, Y = responses, S = tokens of a response at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.lab import exact
from trimtab.lab.properties.measures import SMOOTH, beyond, largest, slope
from trimtab.lab.properties.property import EXACT, Lab, Property
from trimtab.lab.world import World
from trimtab.losses import advantages, kl, pairs

BETAS = (0.2, 0.7, 3.0)
"""Where the optimum moves fast, the lab's own, and where it is near the reference."""
STEP = 1e-3


def all_responses_have_probability_1(lab: Lab) -> float:
    """Catches a wrong shift, a dropped stop token, an inverted mask."""
    return largest(lab.log_policy.exp().sum(-1) - 1)


def optimum_is_the_best_policy(lab: Lab) -> float:
    """Its value is that of a plain sum, no other policy has more, and there is no slope left.

    J is concave, so that a policy without slope is its maximum.
    """
    world, beta, reference = lab.world, lab.world.beta, lab.log_reference
    best = exact.optimum(reference, world.rewards, beta=beta)
    most = exact.objective(best, reference, world.rewards, beta=beta)
    value = beta * exact.log_partition(reference, world.rewards, beta=beta)
    plain = beta * (reference.exp() * (world.rewards / beta).exp()).sum(-1).log()
    others = exact.objective(_policies(lab), reference, world.rewards, beta=beta)
    logits = best.clone().requires_grad_()
    reached = exact.objective(torch.log_softmax(logits, -1), reference, world.rewards, beta=beta)
    (left,) = torch.autograd.grad(reached.sum(), logits)
    return largest(most - value, plain - value, beyond(others, value), left)


def objective_is_the_optimum_less_the_gap(lab: Lab) -> float:
    """The strongest single check: it ties reward, divergence, partition function and optimum together."""
    world, beta = lab.world, lab.world.beta
    policies = _policies(lab)
    reached = exact.objective(policies, lab.log_reference, world.rewards, beta=beta)
    best = beta * exact.log_partition(lab.log_reference, world.rewards, beta=beta)
    gap = exact.gap(policies, lab.log_reference, world.rewards, beta=beta)
    return largest(reached - (best - gap))


def divergence_of_the_optimum(lab: Lab) -> float:
    """What the optimum pays in divergence, from its reward and the partition function alone."""
    errors = []
    for beta in BETAS:
        best = exact.optimum(lab.log_reference, lab.world.rewards, beta=beta)
        partition = exact.log_partition(lab.log_reference, lab.world.rewards, beta=beta)
        rest = exact.expected(best, lab.world.rewards) / beta - partition
        errors.append(exact.divergence(best, lab.log_reference) - rest)
    return largest(*errors)


def value_falls_by_the_divergence(lab: Lab) -> float:
    """The envelope theorem: a dearer nat costs as many nats as the optimum spends."""

    def value(beta: float) -> Tensor:
        return beta * exact.log_partition(lab.log_reference, lab.world.rewards, beta=beta)

    errors = []
    for beta in BETAS:
        best = exact.optimum(lab.log_reference, lab.world.rewards, beta=beta)
        errors.append(slope(value, beta, step=STEP * beta) + exact.divergence(best, lab.log_reference))
    return largest(*errors)


def frontier_has_slope_beta(lab: Lab) -> float:
    """Slopes, shape and beginning; and no policy lies above."""
    parts = (
        _slopes_of_the_frontier,
        _shape_of_the_frontier,
        _beginning_of_the_frontier,
        _policies_above_the_frontier,
    )
    errors = [
        part(reference, rewards, _policies(lab)[:, x])
        for x, (reference, rewards) in enumerate(zip(lab.log_reference, lab.world.rewards, strict=True))
        for part in parts
    ]
    return largest(*errors)


def _slopes_of_the_frontier(reference: Tensor, rewards: Tensor, _: Tensor) -> Tensor:
    """dR*/dKL = beta and dR*/d(1/beta) = Var(r), by finite differences along 1/beta."""

    def point(inverse: float) -> Tensor:
        return torch.cat(exact.frontier(reference, rewards, torch.tensor([1 / inverse], dtype=torch.float64)))

    errors = []
    for beta in BETAS:
        divergence, reward = slope(point, 1 / beta, step=STEP / beta)
        best = exact.optimum(reference, rewards, beta=beta)
        variance = exact.expected(best, rewards.square()) - exact.expected(best, rewards).square()
        errors += [reward - beta * divergence, reward - variance]
    return torch.stack(errors)


def _shape_of_the_frontier(reference: Tensor, rewards: Tensor, _: Tensor) -> Tensor:
    """Each chord is as steep as the betas at its ends allow: it rises, and ever less steeply."""
    betas = torch.logspace(2, -1, 40, dtype=torch.float64)
    divergences, best = exact.frontier(reference, rewards, betas)
    chords = best.diff() / divergences.diff()
    return torch.cat([beyond(chords, betas[:-1]), beyond(betas[1:], chords), beyond(-divergences.diff(), 0)])


def _beginning_of_the_frontier(reference: Tensor, rewards: Tensor, _: Tensor) -> Tensor:
    """R* - R_0 = sqrt(2 Var KL) but for the next order, (third cumulant of r) / (6 beta^2)."""
    beta = 1e3
    (divergence,), (best,) = exact.frontier(reference, rewards, torch.tensor([beta]))
    above = rewards - exact.expected(reference, rewards)
    variance, third = (exact.expected(reference, above**power) for power in (2, 3))
    gained = best - exact.expected(reference, rewards)
    error = (gained - (2 * variance * divergence).sqrt()).abs()
    # In units of 1/beta, in which a wrong factor is of order 1; twice the next order covers those after it.
    return beyond(beta * error, 2 * third.abs() / (6 * beta))


def _policies_above_the_frontier(reference: Tensor, rewards: Tensor, policies: Tensor) -> Tensor:
    """No policy has more reward than the frontier's tangents allow at its divergence."""
    betas = torch.logspace(2, -2, 100, dtype=torch.float64)
    divergences, best = exact.frontier(reference, rewards, betas)
    spent = exact.divergence(policies, reference).unsqueeze(-1)
    allowed = (best + betas * (spent - divergences)).min(-1).values
    return beyond(exact.expected(policies, rewards), allowed)


def extreme_betas_give_the_reference_or_the_best(lab: Lab) -> float:
    """And what the reference rules out stays ruled out, however good it is."""
    rewards, reference = lab.world.rewards, lab.log_reference
    best = rewards.argmax(-1, keepdim=True)
    narrow = reference.scatter(-1, best, -torch.inf).log_softmax(-1)
    excluded = exact.optimum(narrow, rewards, beta=lab.world.beta).exp().gather(-1, best)
    return largest(
        _far_from_the_reference(reference, rewards),
        _far_from_the_best(reference, rewards),
        _far_from_the_best(narrow, rewards),
        excluded,
    )


def _far_from_the_reference(reference: Tensor, rewards: Tensor) -> Tensor:
    """At a large beta log pi* - log reference is (r - E r)/beta, up to range^2 / (8 beta^2).

    Hoeffding's lemma bounds what log Z has beyond its first order so.
    """
    beta = 1e3
    above = rewards - exact.expected(reference, rewards).unsqueeze(-1)
    moved = exact.optimum(reference, rewards, beta=beta) - reference - above / beta
    width = rewards.amax(-1, keepdim=True) - rewards.amin(-1, keepdim=True)
    return beyond(moved.abs(), width.square() / (8 * beta**2))


def _far_from_the_best(reference: Tensor, rewards: Tensor) -> Tensor:
    """At a small beta the others have at most e^(-lead/beta) / reference(best) between them."""
    possible = torch.where(reference.isfinite(), rewards, -torch.inf)
    errors = []
    for log_drawn, worth in zip(reference, possible, strict=True):
        (first, second), (best, _) = worth.topk(2)
        beta = float(first - second) / 40
        others = exact.optimum(log_drawn, worth, beta=beta).exp().sum() - 1
        missing = 1 - exact.optimum(log_drawn, worth, beta=beta)[best].exp()
        errors += [others, beyond(missing, torch.exp(-40 - log_drawn[best]))]
    return torch.stack(errors)


def constants_and_scale_leave_the_optimum(lab: Lab) -> float:
    """r + f(x) changes nothing but Z, and (c r, c beta) is the same problem in other units."""
    world, reference, scale = lab.world, lab.log_reference, 2.5
    constant = torch.tensor([[3.0], [-2.0]], dtype=torch.float64)
    lifted = replace(world, rewards=world.rewards + constant)
    scaled = replace(world, rewards=scale * world.rewards, beta=scale * world.beta)
    partitions = [exact.log_partition(reference, one.rewards, beta=one.beta) for one in (lifted, world)]
    return largest(
        lifted.optimum(reference) - world.optimum(reference),
        _missing(lifted, lab) - _missing(world, lab),
        exact.win_probabilities(lifted.rewards) - exact.win_probabilities(world.rewards),
        partitions[0] - partitions[1] - constant.squeeze(-1) / world.beta,
        scaled.optimum(reference) - world.optimum(reference),
        _missing(scaled, lab) - scale * _missing(world, lab),
    )


def _missing(world: World, lab: Lab) -> Tensor:
    """J* - J of the policy, as the difference that it is: [X]."""
    best, reached = (
        exact.objective(policy, lab.log_reference, world.rewards, beta=world.beta)
        for policy in (world.optimum(lab.log_reference), lab.log_policy)
    )
    return best - reached


def optimum_implies_its_reward(lab: Lab) -> float:
    """Equation 5, as the preference losses compute it, for both places in a pair."""
    world, reference = lab.world, lab.log_reference
    best = world.optimum(reference)
    partition = exact.log_partition(reference, world.rewards, beta=world.beta).unsqueeze(-1)
    expected = world.rewards - world.beta * partition
    implied = pairs.implied_rewards(
        pairs.PairLogprobs(best, best.flip(-1)), pairs.PairLogprobs(reference, reference.flip(-1)), world.beta
    )
    return largest(implied.chosen - expected, implied.rejected - expected.flip(-1))


def returns_at_the_optimum_are_certain(lab: Lab) -> float:
    """With the penalty in the rewards, as PPO shapes them, every response returns the same."""
    world, errors = lab.world, []
    for x, tokens in enumerate(_every_token(lab)):
        penalty = kl.k1(tokens.optimum, tokens.reference)
        shaped = advantages.token_rewards(world.rewards[x], penalty, tokens.mask, kl_weight=world.beta)
        level = world.beta * exact.log_partition(lab.log_reference[x], world.rewards[x], beta=world.beta)
        errors.append(shaped.sum(1) - level)
        for lam in (0.0, 0.6, 1.0):
            found = advantages.gae(shaped, tokens.values, tokens.mask, lam=lam)
            errors += [found.advantages, found.returns - tokens.values]
    return largest(*errors)


def optimum_is_made_token_by_token(lab: Lab) -> float:
    """The recursion against sums over whole responses: V*, each token's pi*, and their product."""
    world, errors = lab.world, []
    sequences, ids = world.optimum(lab.log_reference), [response.ids for response in world.responses]
    for x, (steps, values) in enumerate(_trees(lab)):
        best = exact.optimal_steps(steps, values, beta=world.beta)
        shifted = dict(zip(ids, lab.log_reference[x] + world.rewards[x] / world.beta, strict=True))
        products = [torch.stack([best[one[: count + 1]] for count in range(len(one))]).sum() for one in ids]
        errors.append(torch.stack(products) - sequences[x])
        for written in {one[:-1] for one in steps}:
            # What was written has the reference's probability of its own; it is no part of what follows.
            so_far = sum(steps[written[: count + 1]] for count in range(len(written)))
            after = torch.stack([shifted[one] - so_far for one in ids if one[: len(written)] == written])
            following = torch.stack([best[one] for one in best if one[:-1] == written])
            errors.append(values[written] - world.beta * after.logsumexp(0))
            errors.append(following.exp().sum() - 1)
        level = exact.log_partition(lab.log_reference[x], world.rewards[x], beta=world.beta)
        errors.append(values[()] - world.beta * level)
    return largest(*errors)


class _Tokens(NamedTuple):
    """One prompt's responses token by token, 0 where there is none."""

    reference: Tensor  # [Y, S] nats
    optimum: Tensor  # [Y, S] nats
    values: Tensor  # [Y, S] V* before each token
    mask: Tensor  # [Y, S]


def _every_token(lab: Lab) -> Iterator[_Tokens]:
    """The tokens of all responses to each prompt."""
    ids = [response.ids for response in lab.world.responses]
    for steps, values in _trees(lab):
        best = exact.optimal_steps(steps, values, beta=lab.world.beta)
        table = torch.zeros(3, len(ids), lab.world.limit, dtype=torch.float64)
        for y, one in enumerate(ids):
            for count in range(len(one)):
                upto = one[: count + 1]
                table[:, y, count] = torch.stack([steps[upto], best[upto], values[upto[:-1]]])
        lengths = torch.tensor([len(one) for one in ids])
        reference, optimum, before = table
        yield _Tokens(reference, optimum, before, torch.arange(lab.world.limit) < lengths.unsqueeze(1))


def _trees(lab: Lab) -> Iterator[tuple[dict[exact.Written, Tensor], dict[exact.Written, Tensor]]]:
    """For each prompt: the reference's step at, and V* of, every beginning of a response."""
    ids = [response.ids for response in lab.world.responses]
    listed = lab.world.token_logprobs(lab.reference)
    for logprobs, rewards in zip(listed, lab.world.rewards, strict=True):
        steps = exact.token_steps(ids, logprobs)
        yield steps, exact.optimal_values(ids, steps, rewards, beta=lab.world.beta)


def _policies(lab: Lab) -> Tensor:
    """The lab's two, and others from nearly uniform to nearly certain: [K, X, Y] nats."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(40, *lab.log_policy.shape, generator=generator, dtype=torch.float64)
    spreads = torch.logspace(-2, 1.5, 40, dtype=torch.float64)
    others = torch.log_softmax(logits * spreads.view(-1, 1, 1), -1)
    return torch.cat([torch.stack([lab.log_policy, lab.log_reference]), others])


PROPERTIES = [
    Property(
        1, "all responses together are certain", "Σ_y π(y|x) = 1", EXACT, all_responses_have_probability_1
    ),
    Property(
        2, "no policy is above the optimum", "J(π*) = β log Z = max J", EXACT, optimum_is_the_best_policy
    ),
    Property(
        3,
        "what a policy lacks is its divergence from the optimum",
        "J(π) = β log Z − β KL(π‖π*)",
        EXACT,
        objective_is_the_optimum_less_the_gap,
    ),
    Property(
        4,
        "divergence of the optimum",
        "KL(π*‖π_ref) = E_π* r / β − log Z",
        EXACT,
        divergence_of_the_optimum,
    ),
    Property(
        5,
        "the optimum's value falls with β by its divergence",
        "d(β log Z)/dβ = −KL(π*‖π_ref)",
        SMOOTH,
        value_falls_by_the_divergence,
    ),
    Property(
        6,
        "a nat buys reward β, and no policy is above the frontier",
        "dR*/dKL = β,  dR*/d(1/β) = Var r,  E_π r ≤ R*(KL(π))",
        SMOOTH,
        frontier_has_slope_beta,
    ),
    Property(
        7,
        "a large β gives the reference, a small one the best response it allows",
        "π* → π_ref (β → ∞),  π* → argmax r on the support of π_ref (β → 0)",
        EXACT,
        extreme_betas_give_the_reference_or_the_best,
    ),
    Property(
        8,
        "a constant per prompt and a change of units leave the optimum",
        "π*[r + f(x), β] = π*[r, β] = π*[c r, c β],  Z → Z e^{f/β}",
        EXACT,
        constants_and_scale_leave_the_optimum,
    ),
    Property(
        9,
        "the optimum implies its reward",
        "β log(π*/π_ref) = r − β log Z",
        EXACT,
        optimum_implies_its_reward,
    ),
    Property(
        10,
        "at the optimum every response returns the same",
        "r − β log(π*/π_ref) = β log Z for every y,  A = 0",
        EXACT,
        returns_at_the_optimum_are_certain,
    ),
    Property(
        11,
        "the optimum is made token by token",
        "V*(h) = β log Σ_a π_ref(a|h) e^{V*(ha)/β},  π*(a|h) = π_ref(a|h) e^{(V*(ha) − V*(h))/β}",
        EXACT,
        optimum_is_made_token_by_token,
    ),
]
