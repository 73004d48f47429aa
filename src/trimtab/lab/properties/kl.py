"""Properties 34 to 38: the divergence from the reference, its estimators and their gradients, and best-of-n.

Dimensions: X = prompts, Y = responses to each, R = X * Y, N = tokens of all responses, V = vocabulary.
u is the log-ratio of policy to reference, in nats.
"""

from __future__ import annotations

import math
from itertools import groupby, product

import numpy as np
import torch
from torch import Tensor

from trimtab.lab import exact
from trimtab.lab.listing import Listing
from trimtab.lab.properties.gradients import gradient
from trimtab.lab.properties.measures import beyond, largest
from trimtab.lab.properties.property import EXACT, Lab, Property
from trimtab.losses.kl import ESTIMATORS, Estimator, full_kl, k1, k2, k3
from trimtab.losses.policy_gradient import reinforce_loss
from trimtab.model.policy import Policy, head, response_kl, response_states

GAUSSIAN_KL = (0.005, 0.5)


def means_of_the_estimators(lab: Lab) -> float:
    """E k1 = E k3 = KL over whole responses and for Gaussians; k3 >= 0; E k2 is off by E u^3/6 + O(u^4)."""
    policy, reference = lab.log_policy, lab.log_reference
    values = {name: one(policy, reference) for name, one in ESTIMATORS.items()}
    errors = []
    for prompt in range(len(policy)):
        kl = _divergence(policy[prompt].tolist(), reference[prompt].tolist())
        errors += [exact.expected(policy, values[name])[prompt] - kl for name in ("k1", "k3")]
    negative = beyond(-torch.cat([values["k2"], values["k3"]]), 0)
    return largest(*errors, negative, _third_order(policy, reference), *map(_gaussian_errors, GAUSSIAN_KL))


def token_sums_have_the_divergence_as_mean(lab: Lab) -> float:
    """Exact divergences, k1 and k3 of tokens, summed along responses, all mean KL(policy || reference).

    That the first varies less than k1 is a fact of this world, not a theorem: docs/math.md#kl-exact has
    two policies for which it varies more.
    """
    listing = Listing(lab.world)
    policy, reference = (_tokens(lab, one) for one in (lab.policy, lab.reference))
    tokens = {name: ESTIMATORS[name](policy, reference) for name in ("k1", "k3")}
    tokens["exact"] = _token_kl(lab, lab.policy, lab.reference)
    sums = {name: listing.row.sum_by_response(one).view_as(lab.log_policy) for name, one in tokens.items()}
    pairs = zip(lab.log_policy.tolist(), lab.log_reference.tolist(), strict=True)
    sequence = torch.tensor([_divergence(*one) for one in pairs], dtype=torch.float64)
    means = {name: exact.expected(lab.log_policy, one) for name, one in sums.items()}
    spread = {
        name: exact.expected(lab.log_policy, (one - means[name].unsqueeze(-1)).square())
        for name, one in sums.items()
    }
    more = beyond(spread["exact"], spread["k1"])
    return largest(*(mean - sequence for mean in means.values()), more)


def gradients_of_the_estimators(lab: Lab) -> float:
    """The five gradients of docs/math.md#kl in all parameters of the model, and those of token losses."""
    listing, model = Listing(lab.world), lab.policy.model
    policy, reference = listing.logprobs(model), lab.log_reference
    shares = listing.shares(policy).view_as(policy)
    forward = gradient(exact.divergence(policy, reference).mean(), model)
    backward = gradient(exact.divergence(reference, policy).mean(), model)

    def in_reward(one: Estimator) -> Tensor:
        return gradient((shares * reinforce_loss(policy, -one(policy, reference))).sum(), model)

    def as_loss(one: Estimator) -> Tensor:
        return gradient((shares * one(policy, reference)).sum(), model)

    table = [
        in_reward(k1) - forward,
        as_loss(k1),
        as_loss(k2) - forward,
        as_loss(k3) - backward,
        in_reward(k3) - (forward - backward),
    ]
    return largest(*table, *_token_losses(lab, listing))


def equal_policies_are_0_apart(lab: Lab) -> float:
    """Exactly 0 for every sampled token and every response, and over the whole vocabulary."""
    twin = lab.policy_from(1)
    sides = [(_tokens(lab, lab.policy), _tokens(lab, twin)), (lab.log_policy, lab.world.logprobs(twin))]
    sampled = [one(*side) for side in sides for one in ESTIMATORS.values()]
    return largest(*sampled, _token_kl(lab, lab.policy, twin))


def best_of_n(lab: Lab) -> float:
    """Its divergence is at most log n - (n-1)/n, its win rate at most n/(n+1); both equal in the continuum.

    The best of n draws against listing all n draws, with ties and without; a tie in rewards is broken by
    lot, and in a match it counts half.
    """
    errors = []
    tied = lab.world.rewards.round()
    for count, rewards in product((1, 2, 3), (lab.world.rewards, tied)):
        for drawn, reward in zip(lab.log_reference.exp(), rewards, strict=True):
            listed = _best_of_every_draw(drawn.tolist(), reward.tolist(), count)
            errors.append(_best(drawn, reward, count) - listed)
    for count, rewards in product((2, 4, 16), (lab.world.rewards, tied)):
        for drawn, reward in zip(lab.log_reference.exp(), rewards, strict=True):
            best = _best(drawn, reward, count)
            kl = exact.divergence(best.log(), drawn.log())
            errors.append(beyond(kl, math.log(count) - (count - 1) / count))
            rate = _win_rate(best, drawn, reward)
            errors.append(rate - _listed_win_rate(drawn.tolist(), reward.tolist(), count))
            errors.append(beyond(rate, count / (count + 1)))
    return largest(*errors, *(_continuum_errors(count) for count in (2, 4, 16)))


def _divergence(policy: list[float], reference: list[float]) -> float:
    """KL of two lists of log-probabilities, in plain floats."""
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(policy, reference, strict=True))


def _third_order(policy: Tensor, reference: Tensor) -> Tensor:
    """By how much E k2 - KL - E u^3 / 6 exceeds its bound, on the way from the reference to the policy.

    k3 = u^2/2 - u^3/6 + rest with |rest| <= u^4/24 max(1, e^-u), Taylor's remainder, and E k3 = KL.
    """
    found = []
    for share in (0.01, 0.1, 0.5, 1.0):
        between = torch.log_softmax(reference + share * (policy - reference), -1)
        u = between - reference
        bias = exact.expected(between, k2(between, reference)) - exact.divergence(between, reference)
        rest = exact.expected(between, u**4 / 24 * (-u).exp().clamp(min=1))
        found.append(beyond((bias - exact.expected(between, u**3) / 6).abs(), rest + 1e-14))
    return torch.stack(found)


def _gaussian_errors(kl: float) -> Tensor:
    """Means and variances for N(0, 1) against N(mu, 1), u ~ N(kl, 2 kl): quadrature against closed forms.

    In units of the KL the deviations are 20.0, 1.42, 1.42 at 0.005, and 2.00, 1.73, 1.70 at 0.5.
    Source: Schulman 2020, "Approximating KL divergence".
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x, share, square = torch.tensor(nodes), torch.tensor(weights / weights.sum()), 2 * kl
    closed = {
        "k1": (kl, square),
        "k2": (kl * (1 + kl / 2), square**2 / 2 + square**3 / 4),
        "k3": (kl, math.expm1(square) - square),
    }
    errors = []
    for name, (mean, variance) in closed.items():
        values = ESTIMATORS[name](-0.5 * x.square(), -0.5 * (x - math.sqrt(square)).square())
        first, second = (share * values).sum(), (share * values.square()).sum()
        errors += [first - mean, second - first**2 - variance]
    return torch.stack(errors)


def _token_losses(lab: Lab, listing: Listing) -> list[Tensor]:
    """k2 and k3 of tokens as losses: the gradient of each state's own divergence, visits held fixed."""
    model, row = lab.policy.model, listing.row.to(lab.numerics.device)
    policy, reference = listing.token_logprobs(model), _tokens(lab, lab.reference)
    shares = listing.shares(listing.row.sum_by_response(policy))[listing.row.owners]
    states = [
        torch.log_softmax(response_states(one.model, row) @ head(one.model)[0].T, -1).cpu()
        for one in (lab.policy, lab.reference)
    ]
    ours, theirs = states[0], states[1].detach()

    def apart(found: Tensor, expected: Tensor) -> Tensor:
        return gradient((shares * found).sum(), model) - gradient((shares * expected).sum(), model)

    return [
        apart(k2(policy, reference), full_kl(ours, theirs)),
        apart(k3(policy, reference), full_kl(theirs, ours)),
    ]


def _tokens(lab: Lab, policy: Policy) -> Tensor:
    """log p of every token of every response, without gradient: [N]."""
    return Listing(lab.world).token_logprobs(policy.model).detach()


def _token_kl(lab: Lab, policy: Policy, reference: Policy) -> Tensor:
    """KL over the whole vocabulary before every token, by the packed path that PPO reports: [N]."""
    row = Listing(lab.world).row.to(lab.numerics.device)
    return response_kl(policy.model, reference.model, row).cpu()


def _best(drawn: Tensor, rewards: Tensor, count: int) -> Tensor:
    """P(each response is the best of `count` independent draws): [Y], from [Y] of both.

    F^n less F^n of what is below, F the probability of a reward that is not larger; among equals by their
    own probabilities.
    """
    below = (drawn * (rewards < rewards.unsqueeze(1))).sum(1)
    level = (drawn * (rewards == rewards.unsqueeze(1))).sum(1)
    return drawn / level * ((below + level) ** count - below**count)


def _best_of_every_draw(drawn: list[float], rewards: list[float], count: int) -> Tensor:
    """The same by listing all draws in order."""
    found = [0.0] * len(drawn)
    for draws in product(range(len(drawn)), repeat=count):
        top = max(rewards[one] for one in draws)
        winners = [one for one in draws if rewards[one] == top]
        for one in winners:
            found[one] += math.prod(drawn[other] for other in draws) / len(winners)
    return torch.tensor(found, dtype=torch.float64)


def _win_rate(best: Tensor, drawn: Tensor, rewards: Tensor) -> Tensor:
    """P(the best beats a fresh draw), a tie as half."""
    against = rewards.unsqueeze(1) - rewards
    return (best.unsqueeze(1) * drawn * (against.sign() + 1) / 2).sum()


def _listed_win_rate(drawn: list[float], rewards: list[float], count: int) -> float:
    """The same from its complement, reward by reward: all n draws lie below the fresh one, or tie with it."""
    total, below = 0.0, 0.0
    for _, level in groupby(sorted(zip(rewards, drawn, strict=True)), key=lambda one: one[0]):
        share = math.fsum(probability for _, probability in level)
        total += share * ((below + share) ** count + below**count) / 2
        below += share
    return 1 - total


def _continuum_errors(count: int, atoms: int = 1000) -> Tensor:
    """Rewards without ties: KL and win rate by quadrature, and the win rate of many equal atoms.

    The best has density n u^(n-1) over the quantile u. With M atoms the win rate is 1 less the trapezium
    rule for the integral of u^n, which is too large by at most n / 12 M^2.
    """
    nodes, weights = np.polynomial.legendre.leggauss(100)
    root, share = torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
    u, share = root**4, share * 4 * root**3  # smooth enough at 0 for the logarithm
    density = count * u ** (count - 1)
    kl, wins = (share * density * density.log()).sum(), (share * density * u).sum()
    drawn, rewards = torch.full((atoms,), 1 / atoms).double(), torch.arange(atoms).double()
    rate = _win_rate(_best(drawn, rewards, count), drawn, rewards)
    limit = count / (count + 1)
    short = limit - rate
    return torch.stack(
        [
            kl - (math.log(count) - (count - 1) / count),
            wins - limit,
            beyond(short, count / (12 * atoms**2) + 1e-12),
            beyond(-short, 1e-12),
        ]
    )


PROPERTIES = [
    Property(
        34,
        "k1 and k3 are unbiased, k2 nearly",
        "E k1 = E k3 = KL, k3 ≥ 0, E k2 = KL + E u³/6 + O(u⁴)",
        EXACT,
        means_of_the_estimators,
    ),
    Property(
        35,
        "the divergence is that of its tokens",
        "E Σ_t KL_t = E Σ k1_t = E Σ k3_t = KL(π‖π_ref)",
        EXACT,
        token_sums_have_the_divergence_as_mean,
    ),
    Property(
        36,
        "where each estimator may be used",
        "E[k1 g] = E∇k2 = ∇KL(π‖π_ref), E∇k1 = 0, E∇k3 = ∇KL(π_ref‖π), E[k3 g] = their difference",
        EXACT,
        gradients_of_the_estimators,
    ),
    Property(
        37, "equal policies are 0 apart", "π = π_ref: k1 = k2 = k3 = 0", 0.0, equal_policies_are_0_apart
    ),
    Property(
        38,
        "the best of n",
        "KL ≤ log n − (n−1)/n, P(win) ≤ n/(n+1), equal without ties",
        EXACT,
        best_of_n,
    ),
]
