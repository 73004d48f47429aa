"""What is exactly true of a distribution over a finite list of responses.

Dimensions: X = prompts, Y = responses; leading dimensions are free. Distributions are given as
log-probabilities in nats, [..., Y], normalised; -inf is a response that cannot occur. Everything is
float64 if its arguments are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Written = tuple[int, ...]
"""The tokens of a response so far: () at the prompt, all of them at its end."""


def optimum(reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """log pi*(y) = log reference(y) + r(y)/beta - log Z: [..., Y].

    Source: equation 4 of the method. Derived in docs/math.md#objective.
    """
    return torch.log_softmax(reference + rewards / beta, dim=-1)


def log_partition(reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """log Z = log sum_y reference(y) e^(r(y)/beta): [...].

    Source: equation 4 of the method.
    """
    return torch.logsumexp(reference + rewards / beta, dim=-1)


def expected(policy: Tensor, values: Tensor) -> Tensor:
    """The mean of values [..., Y] under the policy: [...]. What cannot occur counts 0, whatever its value."""
    probabilities = policy.exp()
    return torch.where(probabilities > 0, probabilities * values, 0.0).sum(-1)


def divergence(policy: Tensor, other: Tensor) -> Tensor:
    """KL(policy || other) in nats: [...]."""
    return expected(policy, policy - other)


def objective(policy: Tensor, reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """J = E[r] - beta KL(policy || reference): [...].

    Source: equation 3 of the method.
    """
    return expected(policy, rewards) - beta * divergence(policy, reference)


def gap(policy: Tensor, reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """J* - J = beta KL(policy || pi*), what the policy still lacks: [...], >= 0.

    Source: docs/math.md#objective.
    """
    return beta * divergence(policy, optimum(reference, rewards, beta=beta))


def win_probabilities(rewards: Tensor) -> Tensor:
    """p(y_1 beats y_2) of the Bradley-Terry model: [..., Y, Y], row against column.

    Source: equation 1 of the method.
    """
    return torch.sigmoid(rewards.unsqueeze(-1) - rewards.unsqueeze(-2))


def sampling_gap(best: Tensor, pair_probabilities: Tensor, *, beta: float, pairs: int) -> float:
    """The gap that DPO is expected to be left with after learning from `pairs` judged pairs, in reward.

    Judgments are the data of a Bradley-Terry model whose rewards DPO fits, so its error has the
    covariance of maximum likelihood, I^-1 / pairs, I being the Fisher information of one pair; to second
    order the gap is tr(C I^+) / (2 beta pairs) with C the covariance of one draw from pi*. The law of
    large numbers of pairs: for few, some responses are never compared.

    Args:
        best: [X, Y] log pi*.
        pair_probabilities: [X, Y, Y] of `World.pair_probabilities`.
    Source: docs/math.md#sampling-error.
    """
    total = 0.0
    for log_best, likely in zip(best, pair_probabilities, strict=True):
        drawn = likely + likely.T
        win = torch.where(drawn > 0, likely / drawn, 0.5)
        coupling = drawn * win * (1 - win) / 2
        information = torch.diag((coupling + coupling.T).sum(0)) - (coupling + coupling.T)
        chosen = log_best.exp()
        spread = torch.diag(chosen) - torch.outer(chosen, chosen)
        total += float(torch.trace(spread @ torch.linalg.pinv(information)))
    return total / len(best) / (2 * beta * pairs)


def frontier(reference: Tensor, rewards: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """The best reward that each divergence can buy: (KL, E[r]) of pi* for each beta, [B] each.

    Args:
        reference, rewards: [Y].
        betas: [B], > 0.
    Source: docs/math.md#objective.
    """
    best = torch.stack([optimum(reference, rewards, beta=float(beta)) for beta in betas])
    return divergence(best, reference), expected(best, rewards)


def token_steps(responses: Sequence[Written], token_logprobs: Sequence[Tensor]) -> dict[Written, Tensor]:
    """log p of the last token of every beginning of a response, given the tokens before it.

    Args:
        responses: [Y] all responses to one prompt.
        token_logprobs: [Y][tokens] nats.
    """
    return {
        ids[: count + 1]: values[count]
        for ids, values in zip(responses, token_logprobs, strict=True)
        for count in range(len(ids))
    }


def optimal_values(
    responses: Sequence[Written], reference: Mapping[Written, Tensor], rewards: Tensor, *, beta: float
) -> dict[Written, Tensor]:
    """V* of every beginning of a response, from the ends backwards; of () it is beta log Z.

    Args:
        responses: [Y] all responses to one prompt.
        reference: the `token_steps` of the reference.
        rewards: [Y]; V* of a whole response is its reward.
    Source: docs/math.md#token-optimum.
    """
    values = dict(zip(responses, rewards, strict=True))
    for written in sorted({ids[:-1] for ids in reference}, key=len, reverse=True):
        following = [ids for ids in reference if ids[:-1] == written]
        logits = torch.stack([reference[ids] + values[ids] / beta for ids in following])
        values[written] = beta * torch.logsumexp(logits, dim=0)
    return values


def optimal_steps(
    reference: Mapping[Written, Tensor], values: Mapping[Written, Tensor], *, beta: float
) -> dict[Written, Tensor]:
    """log pi* of the last token of every beginning of a response, given the tokens before it.

    Args:
        reference: the `token_steps` of the reference.
        values: V* of `optimal_values`.
    Source: docs/math.md#token-optimum.
    """
    return {ids: step + (values[ids] - values[ids[:-1]]) / beta for ids, step in reference.items()}
