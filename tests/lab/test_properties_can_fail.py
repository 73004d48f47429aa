"""Mistakes planted one at a time: the property that names them must then measure more than it allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.data import batches
from trimtab.data.batches import PackedRow
from trimtab.lab import exact, world
from trimtab.lab.properties import objective, preference
from trimtab.lab.properties.property import Lab
from trimtab.losses import advantages, bradley_terry, dpo, kl, pairs, pointwise, reference_free
from trimtab.losses import preference as named
from trimtab.losses.pairs import PairLogprobs
from trimtab.model import packed, passes, policy, products
from trimtab.model.device import Numerics

PROPERTIES = {one.number: one for one in [*objective.PROPERTIES, *preference.PROPERTIES]}

Plant = Callable[[pytest.MonkeyPatch], None]


def instead(module: Any, name: str, wrong: Callable[..., Any]) -> Plant:
    """`wrong` takes the place of a function and is given the right one first."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, partial(wrong, getattr(module, name)))

    return plant


def everywhere(*plants: Plant) -> Plant:
    """All of them: for a function that several modules have imported by name."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for one in plants:
            one(patch)

    return plant


# The path to a log-probability.


def with_rows(change: Callable[[PackedRow], PackedRow]) -> Plant:
    def wrong(right: Callable[..., PackedRow], examples: Any) -> PackedRow:
        return change(right(examples))

    return everywhere(instead(batches, "pack", wrong), instead(passes, "pack", wrong))


def with_logprobs(change: Callable[[Tensor, PackedRow], Tensor]) -> Plant:
    def wrong(right: Callable[..., Tensor], model: Any, row: PackedRow, **options: Any) -> Tensor:
        return change(right(model, row, **options), row)

    return everywhere(instead(policy, "response_logprobs", wrong), instead(world, "response_logprobs", wrong))


def moved(row: PackedRow, by: int) -> PackedRow:
    return replace(row, predictors=(row.predictors + by).clamp(0, row.input_ids.numel() - 1))


def without_restart(row: PackedRow) -> PackedRow:
    """Positions go on from branch to branch, as far as the model has any."""
    return replace(row, position_ids=torch.arange(row.input_ids.numel()).unsqueeze(0).clamp(max=15))


def one_target_wrong(row: PackedRow) -> PackedRow:
    """The prompt's last token is the label where the first response token should be."""
    return replace(row, targets=torch.where(torch.arange(len(row.targets)) == 0, 1, row.targets))


def means(patch: pytest.MonkeyPatch) -> None:
    """A mean over tokens in place of the sum, in both places that add up."""

    def mean_by_response(row: PackedRow, values: Tensor) -> Tensor:
        sums = values.new_zeros(row.responses).index_add(0, row.owners, values)
        return sums / torch.bincount(row.owners)

    def mean_of_tokens(lab_world: world.World, one: Any) -> Tensor:
        listed = lab_world.token_logprobs(one)
        return torch.stack([torch.stack([tokens.mean() for tokens in row]) for row in listed])

    patch.setattr(PackedRow, "sum_by_response", mean_by_response)
    patch.setattr(world.World, "logprobs", mean_of_tokens)


def both_ways(_: Any, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Within a branch a token sees what comes after it, too."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~(seen | seen.t()), -torch.inf)


def the_other_way(_: Any, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A token sees itself and what comes after it."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen.t(), -torch.inf)


def branches_together(patch: pytest.MonkeyPatch) -> None:
    """A branch sees the branches before it."""

    def attend(layout: Any, _: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        parts = []
        for span in layout.spans:
            whole = slice(span.start, span.start + span.prompt + sum(span.responses))
            pieces = (tensor[:, :, whole] for tensor in (query, key, value))
            grouped = query.shape[1] != key.shape[1]
            parts.append(
                F.scaled_dot_product_attention(*pieces, is_causal=True, scale=scaling, enable_gqa=grouped)
            )
        return torch.cat(parts, dim=2)

    patch.setattr(packed.PackedLayout, "attend", attend)


def without_stop(logprobs: Tensor, row: PackedRow) -> Tensor:
    return torch.where(row.targets == 0, 0.0, logprobs)


def warmer(right: Callable[..., Tensor], model: Any, row: PackedRow) -> Tensor:
    return right(model, row, temperature=0.9)


PATH: list[tuple[str, tuple[int, ...], Plant]] = [
    ("the stop token is left out", (1, 25), with_logprobs(without_stop)),
    ("predictors one too late", (1, 25), with_rows(partial(moved, by=1))),
    ("predictors one too early", (1, 25), with_rows(partial(moved, by=-1))),
    ("a mean over tokens", (1, 13, 25), means),
    ("no causal mask", (1, 25), instead(products, "_hidden", both_ways)),
    ("an inverted mask", (1, 25), instead(products, "_hidden", the_other_way)),
    ("branches see each other", (25,), branches_together),
    ("positions do not restart", (25,), with_rows(without_restart)),
    ("a prompt token is a label", (25,), with_rows(one_target_wrong)),
    ("a float32 softmax", (25,), with_logprobs(lambda logprobs, _: logprobs.float().double())),
    ("a temperature of its own", (25,), instead(policy, "response_logprobs", warmer)),
]


# The objective, its optimum, and the rewards of tokens.


def beta_on_top(_: Any, reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    return torch.log_softmax(reference + rewards * beta, dim=-1)


def unnormalised(_: Any, reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    return reference + rewards / beta


def of_the_worst(right: Callable[..., Tensor], reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    return right(reference, -rewards, beta=beta)


def without_reference(_: Any, reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    return torch.logsumexp(rewards / beta, dim=-1)


def rewarded_divergence(
    _: Any, log_policy: Tensor, reference: Tensor, rewards: Tensor, *, beta: float
) -> Tensor:
    return exact.expected(log_policy, rewards) + beta * exact.divergence(log_policy, reference)


def reversed_divergence(right: Callable[..., Tensor], log_policy: Tensor, other: Tensor) -> Tensor:
    return right(other, log_policy)


def doubled(right: Callable[..., Tensor], *tables: Tensor) -> Tensor:
    return 2 * right(*tables)


def twice(right: Callable[..., float], *tables: Tensor, **numbers: float) -> float:
    return 2 * right(*tables, **numbers)


def exchanged(right: Callable[..., tuple[Tensor, Tensor]], *tables: Tensor) -> tuple[Tensor, Tensor]:
    divergences, rewards = right(*tables)
    return rewards, divergences


def greedy_values(
    _: Any, responses: Any, reference: dict[exact.Written, Tensor], rewards: Tensor, *, beta: float
) -> dict[exact.Written, Tensor]:
    """The best that can follow in place of the soft maximum."""
    return {
        written: torch.stack(
            [worth for ids, worth in zip(responses, rewards, strict=True) if ids[: len(written)] == written]
        ).max()
        for written in {(), *reference}
    }


def score_first(_: Any, scores: Tensor, penalty: Tensor, mask: Tensor, *, kl_weight: float) -> Tensor:
    """The score on the first token: the sum of a response's rewards stays right."""
    rewards = torch.where(mask, -kl_weight * penalty, 0.0)
    return torch.cat([rewards[:, :1] + scores.unsqueeze(1), rewards[:, 1:]], dim=1)


def inverted(right: Callable[..., Any], rewards: Tensor, values: Tensor, mask: Tensor, *, lam: float) -> Any:
    return right(rewards, values, ~mask, lam=lam)


def without_bootstrap(_: Any, rewards: Tensor, values: Tensor, mask: Tensor, *, lam: float) -> Any:
    found = torch.where(mask, rewards - values, 0.0)
    return advantages.Advantages(found, found + values)


OBJECTIVE: list[tuple[str, tuple[int, ...], Plant]] = [
    ("beta in the numerator", (2, 3, 4, 5, 6, 7, 8, 9), instead(exact, "optimum", beta_on_top)),
    ("an optimum that is not normalised", (2, 3, 8), instead(exact, "optimum", unnormalised)),
    ("the worst for the best", (2, 6, 7, 9), instead(exact, "optimum", of_the_worst)),
    (
        "a partition without the reference",
        (2, 3, 4, 5, 9),
        instead(exact, "log_partition", without_reference),
    ),
    ("divergence rewarded", (2, 3), instead(exact, "objective", rewarded_divergence)),
    ("the other divergence", (3, 4, 5, 6), instead(exact, "divergence", reversed_divergence)),
    ("twice the divergence", (2, 3, 4, 5, 6), instead(exact, "divergence", doubled)),
    ("divergence and reward exchanged", (6,), instead(exact, "frontier", exchanged)),
    (
        "the label for the other response",
        (14,),
        instead(exact, "win_probabilities", lambda right, r: right(-r)),
    ),
    ("a law of twice the sampling error", (14,), instead(exact, "sampling_gap", twice)),
    ("greedy values", (10, 11), instead(exact, "optimal_values", greedy_values)),
    ("the score on the first token", (10,), instead(advantages, "token_rewards", score_first)),
    ("a penalty that is paid out", (10,), instead(kl, "k1", lambda right, p, q: right(q, p))),
    ("an inverted mask of tokens", (10,), instead(advantages, "gae", inverted)),
    ("values that are not followed", (10,), instead(advantages, "gae", without_bootstrap)),
    (
        "twice beta in implied rewards",
        (9,),
        instead(pairs, "implied_rewards", lambda right, p, q, b: right(p, q, 2 * b)),
    ),
]


# Preference losses.


def flipped(right: Callable[..., Any], p: PairLogprobs, q: PairLogprobs, **options: float) -> Any:
    """The labels the wrong way round: the sign of the margin."""
    return right(PairLogprobs(p.rejected, p.chosen), PairLogprobs(q.rejected, q.chosen), **options)


def swapped_models(right: Callable[..., Any], p: PairLogprobs, q: PairLogprobs, beta: float) -> Any:
    return right(q, p, beta)


def twice_beta(right: Callable[..., Any], p: PairLogprobs, q: PairLogprobs, beta: float) -> Any:
    return right(p, q, 2 * beta)


def no_reference(right: Callable[..., Any], p: PairLogprobs, q: PairLogprobs, beta: float) -> Any:
    return right(p, PairLogprobs(torch.zeros_like(q.chosen), torch.zeros_like(q.rejected)), beta)


def smoothed(_: Any, p: PairLogprobs, q: PairLogprobs, *, beta: float = 0.1) -> Any:
    return dpo.cdpo_loss(p, q, beta=beta, label_noise=1e-6)


def likelihood_too(right: Callable[..., Any], p: PairLogprobs, q: PairLogprobs, *, beta: float = 0.1) -> Any:
    found = right(p, q, beta=beta)
    return found._replace(loss=found.loss - 1e-3 * p.chosen)


def lifted(_: Any, policy: PairLogprobs, reference: PairLogprobs, *, beta: float = 0.1) -> Any:
    """For the table of names, whose losses are asked for their parameters."""
    return likelihood_too(dpo.dpo_loss, policy, reference, beta=beta)


def of_beta(factor: float) -> Callable[..., Any]:
    """The loss with another beta than it was given."""

    def wrong(right: Callable[..., Any], p: Any, q: Any, *, beta: float = 0.1, **options: float) -> Any:
        return right(p, q, beta=factor * beta, **options)

    return wrong


def of_beta_and_lengths(
    right: Callable[..., Any], p: Any, lengths: Any, *, beta: float, likelihood: float
) -> Any:
    return right(p, lengths, beta=1.01 * beta, likelihood=likelihood)


def of_noise(factor: float) -> Callable[..., Any]:
    """The loss with another label noise than it was given."""

    def wrong(right: Callable[..., Any], p: Any, q: Any, *, beta: float, label_noise: float) -> Any:
        return right(p, q, beta=beta, label_noise=factor * label_noise)

    return wrong


def halved(right: Callable[..., Any], *inputs: Any, **options: float) -> Any:
    found = right(*inputs, **options)
    return found._replace(loss=0.5 * found.loss)


def ties_count(_: Any, chosen: Tensor, rejected: Tensor) -> Tensor:
    return chosen >= rejected


PREFERENCE: list[tuple[str, tuple[int, ...], Plant]] = [
    ("a sign flip in DPO", (12, 13, 15, 16, 17, 18), instead(dpo, "dpo_loss", flipped)),
    ("beta doubled", (14, 15, 16, 18, 23), instead(dpo, "implied_rewards", twice_beta)),
    ("the reference in the policy's place", (13,), instead(dpo, "implied_rewards", swapped_models)),
    ("the reference forgotten", (12, 16), instead(dpo, "implied_rewards", no_reference)),
    ("a little label smoothing in DPO", (15, 16, 17, 18, 20), instead(dpo, "dpo_loss", smoothed)),
    ("a little likelihood in DPO", (12, 15, 16, 17), instead(dpo, "dpo_loss", likelihood_too)),
    ("ties ranked right", (12,), instead(bradley_terry, "ranked_right", ties_count)),
    ("cDPO's labels flipped", (19,), instead(dpo, "cdpo_loss", flipped)),
    ("half the noise in cDPO", (19,), instead(dpo, "cdpo_loss", of_noise(0.5))),
    ("another noise in robust DPO", (20,), instead(dpo, "robust_loss", of_noise(0.5))),
    ("robust DPO halved", (20,), instead(dpo, "robust_loss", halved)),
    ("IPO's goal of another beta", (18, 21), instead(dpo, "ipo_loss", of_beta(2))),
    ("EXO of another noise", (22,), instead(dpo, "exo_loss", of_noise(0.5))),
    ("EXO's labels flipped", (22,), instead(dpo, "exo_loss", flipped)),
    ("a hinge of another beta", (23,), instead(dpo, "hinge_loss", of_beta(1 - 1e-6))),
    ("KTO halved twice", (24,), instead(pointwise, "kto_loss", halved)),
    ("APO-zero halved", (24,), instead(pointwise, "apo_zero_loss", halved)),
    ("SPPO's goal of another beta", (24,), instead(pointwise, "sppo_loss", of_beta(2))),
    ("the Jensen-Shannon loss flipped", (24,), instead(dpo, "js_dpo_loss", flipped)),
    ("alpha's loss of another beta", (24,), instead(dpo, "alpha_dpo_loss", of_beta(1.01))),
    ("CPO of another beta", (16,), instead(reference_free, "cpo_loss", of_beta_and_lengths)),
    (
        "a named loss that lifts the chosen",
        (15,),
        lambda patch: patch.setitem(named.PREFERENCE_LOSSES, "dpo", partial(lifted, None)),
    ),
]

CASES = [
    pytest.param(number, plant, id=f"{number}-{name}")
    for name, numbers, plant in [*PATH, *OBJECTIVE, *PREFERENCE]
    for number in numbers
]


@pytest.mark.parametrize(("number", "plant"), CASES)
def test_a_planted_mistake_is_measured(number: int, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    one = PROPERTIES[number]
    plant(monkeypatch)
    try:
        measured = one.measure(Lab(Numerics(torch.device("cpu"), None)))
    except RuntimeError as error:  # a policy that takes no gradient is caught before anything is measured
        assert "does not require grad" in str(error)
    else:
        assert not measured <= one.allowed  # NaN is no agreement either


def test_every_property_has_been_seen_to_fail() -> None:
    assert {number for case in CASES for number in case.values[:1]} == PROPERTIES.keys() == set(range(1, 26))
