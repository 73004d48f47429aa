"""Properties 12 to 17: what DPO is and where it leads; with those of `relatives` and `forward`, 12 to 25.

Dimensions: P = pairs, X = prompts, Y = responses. Losses are called by the module that they live in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.lab import exact
from trimtab.lab.properties import forward, relatives
from trimtab.lab.properties.forward import apart, ordinary_model, packed_pairs
from trimtab.lab.properties.gradients import ALONG, directions, gradient, minimum, slope_along
from trimtab.lab.properties.measures import beyond, largest
from trimtab.lab.properties.property import EXACT, Lab, Property
from trimtab.lab.properties.relatives import every_pair, swapped
from trimtab.losses import bradley_terry, dpo, preference, reference_free
from trimtab.losses.pairs import PairLengths, PairLogprobs
from trimtab.model.policy import Policy

NEWTON_STEPS = 12
"""From the reference to the optimum of every population loss here, to the last digit."""
MARGIN_LOSSES = ("dpo", "cdpo", "robust", "hinge", "ipo", "exo", "discopop")
"""What these say of a pair depends on its margin alone."""


def reference_pays_log_2(lab: Lab) -> float:
    """Before the first step: log 2, nothing ranked right, no margin; and beta / 2 pulls each pair apart."""
    beta, policy, examples = lab.world.beta, lab.policy_from(2), _some_pairs(lab)
    now = packed_pairs(policy, examples)
    before = PairLogprobs(now.chosen.detach(), now.rejected.detach())
    found = dpo.dpo_loss(now, before, beta=beta)
    listed = dpo.dpo_loss(now, _of_examples(lab.log_reference, lab, examples), beta=beta)
    ordinary = ordinary_model(policy)
    margins = torch.stack([apart(ordinary, example) for example in examples])
    return largest(
        found.loss - math.log(2),
        listed.loss - math.log(2),
        bradley_terry.ranked_right(found.chosen_reward, found.rejected_reward).double(),
        found.chosen_reward - found.rejected_reward,
        gradient(found.loss.mean(), policy.model) - gradient(-beta / 2 * margins.mean(), ordinary),
    )


def gradient_weighs_pairs_by_error(lab: Lab) -> float:
    """By the model's weights: against the identity, one response at a time, and finite differences."""
    beta, policy, examples = lab.world.beta, lab.policy_from(1), _some_pairs(lab)
    reference = _of_examples(lab.log_reference, lab, examples)

    def loss() -> Tensor:
        return dpo.dpo_loss(packed_pairs(policy, examples), reference, beta=beta).loss.mean()

    found, ordinary = gradient(loss(), policy.model), ordinary_model(policy)
    margins = torch.stack([apart(ordinary, example) for example in examples])
    lead = beta * (margins.detach() - (reference.chosen - reference.rejected))
    identity = gradient(-beta * (margins / (1 + lead.exp())).mean(), ordinary)
    slopes = [
        found @ direction - slope_along(direction, loss, policy.model)
        for direction in directions(found, count=2)
    ]
    return largest(found - identity, *slopes)


def population_optimum_is_the_optimum(lab: Lab) -> float:
    """With every pair and its weight: no slope at pi*, the labels' entropy as loss, and Newton ends there.

    For pairs drawn from the reference and from a uniform pool: what is reached does not depend on it.
    """
    world, goal = lab.world, lab.world.optimum(lab.log_reference)
    wins = exact.win_probabilities(world.rewards)
    entropies = -wins * wins.log() - (1 - wins) * (1 - wins).log()
    errors = []
    for pool in (lab.log_reference, _uniform(lab)):
        loss = partial(_tabular_dpo, lab, _judged(lab, world.pairs(pool)))
        at_goal = goal.flatten().requires_grad_()
        (left,) = torch.autograd.grad(loss(at_goal), at_goal)
        met = (
            pool.exp().unsqueeze(-1) * pool.exp().unsqueeze(-2) * ~torch.eye(pool.shape[1], dtype=torch.bool)
        )
        share = met / met.sum((1, 2), keepdim=True) / len(met)
        reached = _normalised(lab, minimum(loss, lab.log_reference.flatten(), steps=NEWTON_STEPS))
        distance = 0.5 * (reached.exp() - goal.exp()).abs().sum(-1)
        errors += [left, loss(at_goal) - (share * entropies).sum(), distance]
    return largest(*errors, _sampling_error_beyond_its_law(lab))


def _sampling_error_beyond_its_law(lab: Lab) -> Tensor:
    """Finite data: at 10,000 pairs a prompt the mean gap is below 2 % of the range, and as its law says.

    A run's gap is a weighted sum of squared normals: its standard deviation is 0.82 of the law here, that
    of the mean of 64 runs 0.10, and four of these are allowed.
    """
    world, pool, goal = lab.world, _uniform(lab), lab.world.optimum(lab.log_reference)
    count, gaps = 10_000 * len(world.prompts), []
    for seed in range(64):
        drawn = world.sampled_pairs(pool, count, torch.Generator().manual_seed(seed))
        # The loss is convex: from pi*, which is near, Newton comes to the same minimum sooner.
        reached = minimum(partial(_tabular_dpo, lab, _judged(lab, drawn)), goal.flatten(), steps=2)
        gaps.append(world.gap(_normalised(lab, reached), lab.log_reference))
    mean = torch.tensor(gaps, dtype=torch.float64).mean()
    law = exact.sampling_gap(goal, world.pair_probabilities(pool), beta=world.beta, pairs=count)
    too_far = beyond(mean, 0.02 * world.range(lab.log_reference))
    return torch.stack([too_far, beyond((mean / law - 1).abs(), 4 * 0.82 / 8)])


class _Judged(NamedTuple):
    """Where each pair lies in a table [X, Y], and its share of all."""

    prompt: Tensor  # [P]
    chosen: Tensor  # [P]
    rejected: Tensor  # [P]
    share: Tensor  # [P] float64


def _judged(lab: Lab, examples: Sequence[Example]) -> _Judged:
    places = {response: y for y, response in enumerate(lab.world.responses)}
    weights = torch.tensor([example.weight for example in examples], dtype=torch.float64)
    return _Judged(
        torch.tensor([lab.world.prompts.index(example.prompt) for example in examples]),
        torch.tensor([places[example.responses[0]] for example in examples]),
        torch.tensor([places[example.responses[1]] for example in examples]),
        weights / weights.sum(),
    )


def _of_judged(table: Tensor, judged: _Judged) -> PairLogprobs:
    """Both sides of each pair from a table [X, Y] of log-probabilities."""
    return PairLogprobs(table[judged.prompt, judged.chosen], table[judged.prompt, judged.rejected])


def _of_examples(table: Tensor, lab: Lab, examples: Sequence[Example]) -> PairLogprobs:
    return _of_judged(table, _judged(lab, examples))


def _normalised(lab: Lab, logits: Tensor) -> Tensor:
    """[X * Y] numbers as log-probabilities: [X, Y]."""
    return torch.log_softmax(logits.view_as(lab.log_reference), -1)


def _tabular_dpo(lab: Lab, judged: _Judged, logits: Tensor) -> Tensor:
    """The stage's loss of a policy that is free for every response: a mean by weight."""
    policy = _of_judged(_normalised(lab, logits), judged)
    found = dpo.dpo_loss(policy, _of_judged(lab.log_reference, judged), beta=lab.world.beta)
    return (judged.share * found.loss).sum()


def _uniform(lab: Lab) -> Tensor:
    """A pool in which every response is as likely."""
    return torch.log_softmax(torch.zeros_like(lab.log_reference), -1)


def margin_is_all_that_counts(lab: Lab) -> float:
    """A number for each pair, added to both of the policy's or the reference's log-probabilities, is nothing.

    And swapping the labels costs z, here from probabilities: log sigma(-z) - log sigma(z) = -z.
    """
    policy, reference = (every_pair(table) for table in (lab.log_policy, lab.log_reference))
    amounts = torch.linspace(-7, 7, len(policy.chosen), dtype=torch.float64)
    errors = []
    for name in MARGIN_LOSSES:
        loss = preference.preference_loss(name, {})
        before = loss(policy=policy, reference=reference).loss
        for lifted in (
            loss(policy=_lifted(policy, amounts), reference=reference),
            loss(policy=policy, reference=_lifted(reference, amounts)),
        ):
            # Relative where it is large: exp(-z) of a pair that is far apart.
            errors.append((lifted.loss - before) / before.abs().clamp(min=1))
    odds = (policy.chosen.exp() / reference.chosen.exp()) / (policy.rejected.exp() / reference.rejected.exp())
    right = dpo.dpo_loss(policy, reference, beta=lab.world.beta).loss
    wrong = dpo.dpo_loss(swapped(policy), swapped(reference), beta=lab.world.beta).loss
    return largest(*errors, right - wrong + odds.pow(lab.world.beta).log())


def beta_multiplies_the_margin(lab: Lab) -> float:
    """Against odds to the power of beta; without a reference it is the uniform one, for equal lengths."""
    policy, reference = (every_pair(table) for table in (lab.log_policy, lab.log_reference))
    odds = (policy.rejected.exp() / reference.rejected.exp()) / (policy.chosen.exp() / reference.chosen.exp())
    found = dpo.dpo_loss(policy, reference, beta=lab.world.beta).loss
    scaled = (PairLogprobs(*(lab.world.beta * side for side in one)) for one in (policy, reference))
    counts = torch.tensor([float(len(response.ids)) for response in lab.world.responses]).double()
    lengths = PairLengths(*every_pair(counts.expand_as(lab.log_policy)))
    equal = lengths.chosen == lengths.rejected
    uniform = every_pair(lab.world.logprobs(_without_preferences(lab)))
    free = reference_free.cpo_loss(policy, lengths, beta=lab.world.beta, likelihood=0.0).loss
    against_uniform = dpo.dpo_loss(policy, uniform, beta=lab.world.beta).loss
    return largest(
        found - torch.log1p(odds.pow(lab.world.beta)),
        found - dpo.dpo_loss(*scaled, beta=1.0).loss,
        (free - against_uniform)[equal],
    )


def uncovered_responses_are_free(lab: Lab) -> float:
    """Reference (1/2, 1/2, 0) and one pair, y1 over y2: DPO lets y3 have all the rest, the objective nothing.

    Source: Xu et al. 2024, arXiv:2404.10719, table 1.
    """
    beta, errors = lab.world.beta, []
    reference = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log()
    for first, second in ((0.6, 0.4), (0.5, 0.1), (0.1, 0.05), (0.1, 1e-300), (1.0, 1e-300)):
        shares = torch.tensor([first, second, 1 - first - second], dtype=torch.float64)
        logits = shares.clamp(min=1e-300).log().requires_grad_()
        loss = _one_pair_of_three(torch.log_softmax(logits, -1), reference, beta)
        errors += [loss - math.log1p((second / first) ** beta), torch.autograd.grad(loss, logits)[0][2]]
    rewards = torch.tensor([0.3, -1.0, 100.0], dtype=torch.float64)
    kept = exact.optimum(reference, rewards, beta=beta).exp()[2]
    astray = torch.tensor([0.1, 0.0, 0.9], dtype=torch.float64).log()
    worst = exact.objective(astray, reference, rewards, beta=beta) == -torch.inf
    least = _one_pair_of_three(astray, reference, beta)
    return largest(*errors, kept, least, 1 - worst.double())


def _one_pair_of_three(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO's loss of y1 over y2 from log-probabilities of three responses: a scalar."""
    return dpo.dpo_loss(PairLogprobs(*policy[:2]), PairLogprobs(*reference[:2]), beta=beta).loss


def _without_preferences(lab: Lab) -> Policy:
    """A model to which all tokens are alike."""
    policy = lab.policy_from(1)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.zero_()
    return policy


def _some_pairs(lab: Lab) -> list[Example]:
    """Every 20th pair: of both prompts, and of all lengths."""
    return lab.world.pairs(lab.log_reference)[::20]


def _lifted(pair: PairLogprobs, amounts: Tensor) -> PairLogprobs:
    return PairLogprobs(pair.chosen + amounts, pair.rejected + amounts)


PROPERTIES = [
    Property(
        12,
        "at the reference DPO pays log 2 and ranks nothing",
        "L = log 2,  z = 0,  ∇L = −β/2 (∇log π_w − ∇log π_l)",
        EXACT,
        reference_pays_log_2,
    ),
    Property(
        13,
        "DPO's gradient weighs pairs by how wrong they are",
        "∇L = −β σ(−z) (∇log π_w − ∇log π_l)",
        ALONG,
        gradient_weighs_pairs_by_error,
    ),
    Property(
        14,
        "endless labels lead DPO to the optimum",
        "∇E ℓ(z) = 0 at π*,  min E ℓ = E H(p),  E gap ≈ tr(C I⁺) / 2βN",
        EXACT,
        population_optimum_is_the_optimum,
    ),
    Property(
        15,
        "a pair's margin is all that counts",
        "L(s + c) = L(s),  ℓ(z) − ℓ(−z) = −z",
        EXACT,
        margin_is_all_that_counts,
    ),
    Property(
        16,
        "β multiplies the margin, and no reference is a uniform one",
        "L(β, Δ) = L(1, βΔ) = log(1 + odds^β)",
        EXACT,
        beta_multiplies_the_margin,
    ),
    Property(
        17,
        "what no pair covers is free in DPO, not in the objective",
        "π_ref = (½, ½, 0):  L = log(1 + (b/a)^β),  π*(y₃) = 0",
        EXACT,
        uncovered_responses_are_free,
    ),
    *relatives.PROPERTIES,
    *forward.PROPERTIES,
]
