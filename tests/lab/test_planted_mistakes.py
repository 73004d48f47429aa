"""Mistakes that others have made, planted one by one: the property that is about each of them sees it.

Covers properties 26 to 52. A mistake is planted where the property finds the function, so that nothing
else changes with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.data import batches
from trimtab.data.batches import PackedRow
from trimtab.lab.properties import kl as kl_properties
from trimtab.lab.properties import policy_gradient, reward_model
from trimtab.lab.properties.property import Lab
from trimtab.losses import advantages, bradley_terry, kl, logprobs, ppo
from trimtab.losses.advantages import Advantages
from trimtab.losses.dpo import dpo_loss
from trimtab.losses.pairs import PairLogprobs, PairLoss
from trimtab.losses.policy_gradient import reinforce_loss
from trimtab.losses.ppo import PolicyLoss, ValueLoss
from trimtab.model import packed, scalar
from trimtab.model.device import Numerics
from trimtab.rollout import sample

PROPERTIES = {
    one.number: one for module in (reward_model, kl_properties, policy_gradient) for one in module.PROPERTIES
}
PLACE = "trimtab.lab.properties."


@dataclass(frozen=True)
class Mistake:
    number: int
    """The property that must see it."""
    name: str
    target: str
    """What it takes the place of."""
    planted: Any


# --- The reward model ---


def reward_of_the_chosen_alone(chosen: Tensor, rejected: Tensor, *, margin: float = 0.0) -> Tensor:
    return -F.logsigmoid(chosen + 0 * rejected)


def hinge(chosen: Tensor, rejected: Tensor, *, margin: float = 0.0) -> Tensor:
    return F.relu(1 - chosen + rejected)


def with_a_margin(chosen: Tensor, rejected: Tensor, *, margin: float = 0.0) -> Tensor:
    return bradley_terry.bradley_terry_loss(chosen, rejected, margin=0.5)


def ties_are_right(chosen: Tensor, rejected: Tensor) -> Tensor:
    return chosen >= rejected


def sum_of_pairs(rewards: Tensor) -> Tensor:
    return bradley_terry.ranking_loss(rewards) * math.comb(rewards.shape[-1], 2)


def bias_is_added(model: Any) -> float:
    return -float(getattr(model.config, "reward_bias", 0.0))


def one_token_too_early(model: Any, row: PackedRow) -> Tensor:
    return scalar._scalars(model, packed.hidden_states(model.base_model, row)[row.last - 1])


def branches_see_each_other(
    self: packed.PackedLayout, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
    )


REWARD_MODEL = [
    Mistake(26, "no difference", PLACE + "reward_model.bradley_terry_loss", reward_of_the_chosen_alone),
    Mistake(27, "ties are right", PLACE + "reward_model.ranked_right", ties_are_right),
    Mistake(28, "a margin is left in", PLACE + "reward_model.bradley_terry_loss", with_a_margin),
    Mistake(29, "ties are right", PLACE + "reward_model.ranked_right", ties_are_right),
    Mistake(30, "sum of pairs, not mean", PLACE + "reward_model.ranking_loss", sum_of_pairs),
    Mistake(31, "the bias is added", "trimtab.model.scalar.reward_bias", bias_is_added),
    Mistake(32, "a hinge reaches 0", PLACE + "reward_model.bradley_terry_loss", hinge),
    Mistake(33, "read one token too early", "trimtab.model.scalar.rewards", one_token_too_early),
    Mistake(33, "branches mix", "trimtab.model.packed.PackedLayout.attend", branches_see_each_other),
]


# --- Divergence ---


def k2_without_half(policy: Tensor, reference: Tensor) -> Tensor:
    return 2 * kl.k2(policy, reference)


def k3_without_minus_one(policy: Tensor, reference: Tensor) -> Tensor:
    return kl.k3(policy, reference) + 1


def turned_round(policy: Tensor, reference: Tensor) -> Tensor:
    return kl.full_kl(reference, policy)


def mean_by_response(self: PackedRow, values: Tensor) -> Tensor:
    sums = values.new_zeros(self.responses).index_add(0, self.owners, values)
    return sums / torch.bincount(self.owners)


def ties_are_wins(best: Tensor, drawn: Tensor, rewards: Tensor) -> Tensor:
    return (best.unsqueeze(1) * drawn * (rewards.unsqueeze(1) >= rewards)).sum()


SWAPPED = {"k1": kl.k3, "k2": kl.k2, "k3": kl.k1}

DIVERGENCE = [
    Mistake(34, "k2 without its half", PLACE + "kl.ESTIMATORS", {**kl.ESTIMATORS, "k2": k2_without_half}),
    Mistake(34, "k1 and k3 swapped", PLACE + "kl.ESTIMATORS", SWAPPED),
    Mistake(35, "the other divergence", "trimtab.losses.logprobs.full_kl", turned_round),
    Mistake(
        35, "mean over tokens, not sum", "trimtab.data.batches.PackedRow.sum_by_response", mean_by_response
    ),
    Mistake(36, "k3 for k1", PLACE + "kl.k1", kl.k3),
    Mistake(36, "k1 for k3", PLACE + "kl.k3", kl.k1),
    Mistake(37, "k3 without its -1", PLACE + "kl.ESTIMATORS", {"k3": k3_without_minus_one}),
    Mistake(38, "ties are wins", PLACE + "kl._win_rate", ties_are_wins),
]


# --- Policy gradients and advantages ---


def penalty_is_a_bonus(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_weight: float) -> Tensor:
    return advantages.token_rewards(scores, kl, mask, kl_weight=-kl_weight)


def no_penalty(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_weight: float) -> Tensor:
    return advantages.token_rewards(scores, kl, mask, kl_weight=0.0)


def score_on_another_step(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_weight: float) -> Tensor:
    """One step late where there is room, as in a padded batch; else on the last step."""
    late = mask.sum(1).clamp(max=mask.shape[1] - 1)
    penalty = torch.where(mask, -kl_weight * kl, 0.0)
    return penalty.scatter_add(1, late.unsqueeze(1), scores.unsqueeze(1))


def descends(logprobs: Tensor, rewards: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    return -reinforce_loss(logprobs, rewards, baseline)


def lambda_is_ignored(rewards: Tensor, values: Tensor, mask: Tensor, *, lam: float) -> Advantages:
    return advantages.gae(rewards, values, mask, lam=1.0)


def episodes_do_not_end(rewards: Tensor, values: Tensor, mask: Tensor, *, lam: float) -> Advantages:
    last = mask.sum(1, keepdim=True) - 1
    return advantages.gae(rewards.scatter_add(1, last, values.gather(1, last)), values, mask, lam=lam)


def unbiased_variance(values: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    tokens = float(mask.sum())
    return advantages.standardize(values, mask, weights) * math.sqrt((tokens - 1) / tokens)


def padding_is_whitened_too(values: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    return advantages.standardize(values, torch.ones_like(mask), weights) * mask


GRADIENTS = [
    Mistake(39, "the penalty is a bonus", PLACE + "policy_gradient.token_rewards", penalty_is_a_bonus),
    Mistake(39, "descent", PLACE + "policy_gradient.reinforce_loss", descends),
    Mistake(40, "lambda is ignored", PLACE + "policy_gradient.gae", lambda_is_ignored),
    Mistake(40, "the score one step late", PLACE + "policy_gradient.token_rewards", score_on_another_step),
    Mistake(41, "episodes do not end", PLACE + "policy_gradient.gae", episodes_do_not_end),
    Mistake(45, "the unbiased variance", PLACE + "ppo_parts.standardize", unbiased_variance),
    Mistake(45, "padding is whitened too", PLACE + "ppo_parts.standardize", padding_is_whitened_too),
    Mistake(46, "the penalty is a bonus", PLACE + "ppo_parts.token_rewards", penalty_is_a_bonus),
    Mistake(46, "the score one step late", PLACE + "ppo_parts.token_rewards", score_on_another_step),
    Mistake(46, "padding is whitened too", PLACE + "ppo_parts.standardize", padding_is_whitened_too),
]


# --- PPO ---


def upside_down(new: Tensor, old: Tensor, advantages: Tensor, *, clip: float) -> PolicyLoss:
    return ppo.policy_loss(old, new, advantages, clip=clip)


def less_of_both_policies(new: Tensor, old: Tensor, advantages: Tensor, *, clip: float) -> PolicyLoss:
    ratio = (new - old).exp()
    plain, limited = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return PolicyLoss(torch.minimum(plain, limited), ratio.detach(), limited < plain)


def no_second_clip(
    new: Tensor, old: Tensor, advantages: Tensor, *, clip: float, dual_clip: float
) -> PolicyLoss:
    return ppo.policy_loss(new, old, advantages, clip=clip)


def less_of_both_values(values: Tensor, old: Tensor, returns: Tensor, *, clip: float) -> ValueLoss:
    plain = (values - returns).square()
    limited = (old + (values - old).clamp(-clip, clip) - returns).square()
    return ValueLoss(0.5 * torch.minimum(plain, limited), limited < plain)


def wrong_way(self: kl.AdaptiveKL, weight: float, *, kl: float, episodes: int) -> float:
    error = max(-0.2, min(0.2, kl / self.target - 1))
    return weight * (1 - error * episodes / self.horizon)


def no_temperature(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    return TEMPERED(hidden, weight, bias, 1.0)


def temperature_in_sampling_only(logits: Tensor, *arguments: Any) -> sample.Drawn:
    tokens = sample.draw(logits, *arguments).tokens
    plain = torch.log_softmax(logits.double(), -1)
    return sample.Drawn(tokens, plain.gather(1, tokens.unsqueeze(1)).squeeze(1))


def the_last_row_is_dropped(examples: Sequence[Any], token_budget: int) -> list[list[int]]:
    return batches.micro_batches(examples, token_budget)[:-1] or [[0]]


def pretraining_is_unlearned(policy_loss: Tensor, pretraining_loss: Tensor, *, weight: float) -> Tensor:
    return policy_loss - weight * pretraining_loss


def without_reference(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> PairLoss:
    nothing = PairLogprobs(torch.zeros_like(reference.chosen), torch.zeros_like(reference.rejected))
    return dpo_loss(policy, nothing, beta=beta)


TEMPERED: Callable[..., tuple[Tensor, Tensor, Tensor | None]] = logprobs._tempered

PPO = [
    Mistake(42, "old over new", PLACE + "policy_gradient.policy_loss", upside_down),
    Mistake(43, "min for max", PLACE + "ppo_parts.policy_loss", less_of_both_policies),
    Mistake(43, "no second clip", PLACE + "ppo_parts.dual_clipped_policy_loss", no_second_clip),
    Mistake(44, "min for max", PLACE + "ppo_parts.value_loss", less_of_both_values),
    Mistake(47, "the wrong way", "trimtab.losses.kl.AdaptiveKL.updated", wrong_way),
    Mistake(48, "no temperature in learning", "trimtab.losses.logprobs._tempered", no_temperature),
    Mistake(48, "plain log-probabilities", "trimtab.rollout.engine.draw", temperature_in_sampling_only),
    Mistake(49, "a row is dropped", PLACE + "policy_gradient.micro_batches", the_last_row_is_dropped),
    Mistake(
        50, "pretraining is unlearned", PLACE + "policy_gradient.with_pretraining", pretraining_is_unlearned
    ),
    Mistake(51, "no penalty", PLACE + "optima.token_rewards", no_penalty),
    Mistake(52, "no penalty", PLACE + "optima.token_rewards", no_penalty),
    Mistake(52, "DPO without its reference", PLACE + "optima.dpo_loss", without_reference),
]

MISTAKES = [*REWARD_MODEL, *DIVERGENCE, *GRADIENTS, *PPO]


@pytest.fixture(scope="module")
def lab() -> Lab:
    """With everything that it keeps worked out before the first mistake."""
    built = Lab(Numerics(torch.device("cpu"), None))
    assert built.log_policy.shape == built.log_reference.shape
    assert built.scorer
    return built


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: f"{one.number}-{one.name}")
def test_is_seen(mistake: Mistake, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PROPERTIES[mistake.number]
    monkeypatch.setattr(mistake.target, mistake.planted)
    assert not broken.measure(lab) <= broken.allowed, broken.formula


def test_every_property_can_fail() -> None:
    assert {mistake.number for mistake in MISTAKES} == set(PROPERTIES) == set(range(26, 53))
