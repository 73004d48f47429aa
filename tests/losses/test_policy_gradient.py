"""REINFORCE, RLOO and GRPO against exact policy gradients of five outcomes, and GRPO's own optimum."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.losses.policy_gradient import (
    group_centre,
    group_standardize,
    grpo_loss,
    leave_one_out,
    mean_over_responses,
    mean_over_slots,
    reinforce_loss,
)
from trimtab.losses.ppo import policy_loss

POLICY = [0.9, -0.4, 0.3, -1.2, 0.1]  # logits
REFERENCE = [0.15, 0.3, 0.2, 0.1, 0.25]  # probabilities
REWARDS = [1.0, -0.5, 0.2, 2.0, 0.7]
NAN = float("nan")


def numbers(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softmax(logits: list[float]) -> list[float]:
    odds = [math.exp(logit) for logit in logits]
    return [one / math.fsum(odds) for one in odds]


def slopes(function: Callable[[list[float]], float], at: list[float], step: float = 1e-5) -> list[float]:
    found = []
    for index in range(len(at)):
        up, down = list(at), list(at)
        up[index] += step
        down[index] -= step
        found.append((function(up) - function(down)) / (2 * step))
    return found


def expected_reward(logits: list[float]) -> float:
    return math.fsum(p * r for p, r in zip(softmax(logits), REWARDS, strict=True))


def exact_gradient() -> list[float]:
    """Of the expected reward: p * (r - E r); of a loss, its negative."""
    mean = expected_reward(POLICY)
    return [p * (r - mean) for p, r in zip(softmax(POLICY), REWARDS, strict=True)]


def test_the_exact_gradient_is_that_of_the_expected_reward() -> None:
    assert exact_gradient() == pytest.approx(slopes(expected_reward, POLICY), abs=1e-9)


def policy_logprobs() -> tuple[Tensor, Tensor]:
    logits = numbers(POLICY).requires_grad_()
    return logits, torch.log_softmax(logits, 0)


# --- REINFORCE ---


@pytest.mark.parametrize("baseline", [-3.0, 0.0, 2.5, "tensor"])
def test_reinforce_token_by_token(baseline: float | str) -> None:
    probabilities, rewards = [0.5, 0.1, 0.9], [1.0, -2.0, 3.0]
    baselines = [0.3, -0.7, 1.1] if isinstance(baseline, str) else [baseline] * 3
    given_baseline = numbers(baselines) if isinstance(baseline, str) else baseline
    logprobs = numbers(probabilities).log().requires_grad_()
    found = reinforce_loss(logprobs, numbers(rewards), given_baseline)
    expected = [(r - b) * math.log(1 / p) for p, r, b in zip(probabilities, rewards, baselines, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), logprobs)
    assert gradient.tolist() == pytest.approx([b - r for r, b in zip(rewards, baselines, strict=True)])


def test_reinforce_has_no_baseline_if_none_is_given() -> None:
    logprobs, rewards = numbers([0.5, 0.1]).log(), numbers([2.0, -3.0])
    assert torch.equal(reinforce_loss(logprobs, rewards), reinforce_loss(logprobs, rewards, 0.0))


def test_no_gradient_flows_into_rewards_or_baseline() -> None:
    logprobs, rewards, baseline = (numbers([v]).requires_grad_() for v in (-0.4, 1.5, 0.3))
    found = reinforce_loss(logprobs, rewards, baseline)
    gradients = torch.autograd.grad(found.sum(), (logprobs, rewards, baseline), allow_unused=True)
    assert [one is None for one in gradients] == [False, True, True]


@pytest.mark.parametrize("baseline", [-3.0, 0.0, 0.77, 100.0])
def test_any_baseline_leaves_the_expected_gradient_exact(baseline: float) -> None:
    logits, logprobs = policy_logprobs()
    loss = (logprobs.detach().exp() * reinforce_loss(logprobs, numbers(REWARDS), baseline)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (-gradient).tolist() == pytest.approx(exact_gradient(), abs=1e-12)


def test_a_baseline_that_knows_the_token_takes_the_gradient_away() -> None:
    logits, logprobs = policy_logprobs()
    loss = reinforce_loss(logprobs, numbers(REWARDS), numbers(REWARDS)).sum()
    assert torch.autograd.grad(loss, logits)[0].tolist() == [0] * 5


def test_with_the_log_ratio_in_the_reward_it_ascends_the_regularised_objective() -> None:
    """E[grad log p (r - beta * log p/ref)] = grad (E r - beta * KL)."""
    beta = 0.6

    def objective(logits: list[float]) -> float:
        p = softmax(logits)
        terms = zip(p, REWARDS, REFERENCE, strict=True)
        return math.fsum(a * (r - beta * math.log(a / b)) for a, r, b in terms)

    logits, logprobs = policy_logprobs()
    shaped = (numbers(REWARDS) - beta * (logprobs - numbers(REFERENCE).log())).detach()
    loss = (logprobs.detach().exp() * reinforce_loss(logprobs, shaped, 0.9)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (-gradient).tolist() == pytest.approx(slopes(objective, POLICY), abs=1e-9)


# --- Groups ---

GROUPS = [[1.0, 3.0, 5.5], [-2.0, -2.5, 4.0], [0.1, 0.2, 0.4]]


def test_leave_one_out_is_a_comparison_with_the_others() -> None:
    expected = [
        [one - statistics.mean(group[:place] + group[place + 1 :]) for place, one in enumerate(group)]
        for group in GROUPS
    ]
    found = leave_one_out(torch.tensor(GROUPS, dtype=torch.float64))
    for row, plain in zip(found.tolist(), expected, strict=True):
        assert row == pytest.approx(plain, rel=1e-12)


def test_group_centre_and_standardize_from_their_definitions() -> None:
    rewards = torch.tensor(GROUPS, dtype=torch.float64)
    centred, standard = group_centre(rewards), group_standardize(rewards)
    for row, (group, near, scaled) in enumerate(
        zip(GROUPS, centred.tolist(), standard.tolist(), strict=True)
    ):
        mean, deviation = statistics.mean(group), statistics.stdev(group)  # of a sample: S - 1
        assert near == pytest.approx([one - mean for one in group], rel=1e-12), row
        assert scaled == pytest.approx([(one - mean) / (deviation + 1e-4) for one in group], rel=1e-12), row


def test_what_is_added_to_the_deviation_is_1e_4() -> None:
    """On a group as narrow as that, where it is most of the divisor."""
    found = group_standardize(numbers([0.0, 1e-4])[None])
    assert found[0, 1].item() == pytest.approx(0.5e-4 / (1e-4 / math.sqrt(2) + 1e-4), rel=1e-9)


def test_two_samples_are_set_against_each_other() -> None:
    rewards = numbers([1.0, 4.0])[None]
    assert leave_one_out(rewards).tolist() == [[-3, 3]]
    assert group_centre(rewards).tolist() == [[-1.5, 1.5]]
    half = 1.5 / (3 / math.sqrt(2) + 1e-4)
    assert group_standardize(rewards)[0].tolist() == pytest.approx([-half, half], rel=1e-12)


GROUPED = [leave_one_out, group_centre, group_standardize]
REWARD_GROUPS = st.integers(2, 6).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(-1e3, 1e3, width=16), min_size=size, max_size=size), min_size=1, max_size=4
    )
)


@given(REWARD_GROUPS)
@settings(max_examples=100)
def test_groups_sum_to_0_and_know_no_level(groups: list[list[float]]) -> None:
    rewards = torch.tensor(groups, dtype=torch.float64)
    samples = rewards.shape[1]
    for advantages_of in GROUPED:
        found = advantages_of(rewards)
        assert found.shape == rewards.shape and found.dtype == rewards.dtype
        # 1e-4 is the least that a group is divided by: rounding of 1e-13 in the mean becomes 1e-9.
        torch.testing.assert_close(
            found.sum(1), torch.zeros(len(groups), dtype=rewards.dtype), rtol=0, atol=1e-7
        )
        torch.testing.assert_close(advantages_of(rewards + 64), found, rtol=1e-9, atol=1e-8)
        assert ((found > 1e-7) <= (rewards > rewards.mean(1, keepdim=True))).all()
    torch.testing.assert_close(
        group_centre(rewards), leave_one_out(rewards) * (samples - 1) / samples, rtol=1e-12, atol=1e-10
    )


@given(st.integers(-64, 64), st.integers(2, 8), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=50)
def test_equal_rewards_teach_nothing(reward: int, samples: int, dtype: torch.dtype) -> None:
    """Whole numbers, whose mean is exact: the advantage is exactly 0 then, not 0/0."""
    for advantages_of in GROUPED:
        found = advantages_of(torch.full((2, samples), float(reward), dtype=dtype))
        assert found.dtype == dtype and (found == 0).all()


@pytest.mark.parametrize("reward", [3.3, 10.1, 100.1])
def test_equal_rewards_teach_nothing_where_their_mean_is_rounded(reward: float) -> None:
    assert group_standardize(torch.full((1, 8), reward)).abs().max() <= 1e-6 * reward


@pytest.mark.parametrize("advantages_of", GROUPED)
@pytest.mark.parametrize("samples", [0, 1])
def test_a_group_of_one_has_nothing_to_compare_with(
    advantages_of: Callable[[Tensor], Tensor], samples: int
) -> None:
    message = f"a group needs at least 2 samples of a prompt, got {samples}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        advantages_of(torch.zeros(3, samples))


def group_gradient(advantages_of: Callable[[Tensor], Tensor], samples: int) -> list[float]:
    """Expected ascent direction over all groups of `samples` outcomes, each with its probability."""
    logits, logprobs = policy_logprobs()
    groups = torch.tensor(list(itertools.product(range(5), repeat=samples)))
    chosen = logprobs[groups]
    weights = chosen.sum(1).exp().detach()
    loss = weights @ reinforce_loss(chosen, advantages_of(numbers(REWARDS)[groups])).mean(1)
    return [-one for one in torch.autograd.grad(loss, logits)[0].tolist()]


@pytest.mark.parametrize("samples", [2, 3])
def test_leave_one_out_is_unbiased_over_all_groups(samples: int) -> None:
    assert group_gradient(leave_one_out, samples) == pytest.approx(exact_gradient(), abs=1e-12)


@pytest.mark.parametrize("samples", [2, 3])
def test_the_groups_own_mean_shortens_the_gradient_by_its_own_share(samples: int) -> None:
    shortened = [one * (samples - 1) / samples for one in exact_gradient()]
    assert group_gradient(group_centre, samples) == pytest.approx(shortened, abs=1e-12)


def test_division_by_the_deviation_turns_the_gradient_elsewhere() -> None:
    found, exact = group_gradient(group_standardize, 3), exact_gradient()
    cosine = torch.cosine_similarity(numbers(found), numbers(exact), dim=0).item()
    assert 0.5 < cosine < 0.999


# --- GRPO ---


def test_grpo_is_the_clipped_loss_and_the_weighted_k3() -> None:
    new, old = [0.5, 0.2, 0.9, 0.3], [0.3, 0.3, 0.8, 0.6]
    reference, advantages = [0.4, 0.6, 0.1, 0.3], [2.0, 1.0, -3.0, -1.0]
    logprobs = numbers(new).log().requires_grad_()
    found = grpo_loss(
        logprobs,
        numbers(old).log(),
        numbers(reference).log(),
        numbers(advantages),
        clip=0.2,
        kl_weight=0.7,
    )
    for place, (p, o, q, a) in enumerate(zip(new, old, reference, advantages, strict=True)):
        counted = min(p / o, 1.2) if a >= 0 else max(p / o, 0.8)
        assert found.loss[place].item() == pytest.approx(
            -a * counted + 0.7 * (q / p - 1 - math.log(q / p)), rel=1e-12
        )
        assert found.ratio[place].item() == pytest.approx(p / o, rel=1e-12)
        slope = (0 if counted != p / o else -a * counted) + 0.7 * (1 - q / p)
        (gradient,) = torch.autograd.grad(found.loss[place], logprobs, retain_graph=True)
        assert gradient[place].item() == pytest.approx(slope, rel=1e-12, abs=1e-13)
    assert found.clipped.tolist() == [True, False, False, True]


def test_grpo_without_weight_is_the_clipped_loss() -> None:
    logprobs, old, advantages = numbers([-1.0, -0.2]), numbers([-0.5, -0.9]), numbers([1.0, -1.0])
    plain = policy_loss(logprobs, old, advantages, clip=0.3)
    found = grpo_loss(logprobs, old, numbers([-3.0, -2.0]), advantages, clip=0.3, kl_weight=0)
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kl_weight", [-1e-9, -1.0, NAN])
def test_the_weight_of_the_divergence_is_not_negative(kl_weight: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=f"^kl_weight must be >= 0, got {re.escape(str(kl_weight))}$"):
        grpo_loss(one, one, one, one, clip=0.2, kl_weight=kl_weight)


@pytest.mark.parametrize("clip", [0.0, 1.0, NAN])
def test_grpo_refuses_the_clips_that_ppo_refuses(clip: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"^clip must be in \(0, 1\)"):
        grpo_loss(one, one, one, one, clip=clip, kl_weight=0.1)


@given(
    st.lists(
        st.tuples(
            st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32), st.sampled_from([-1e3, 0.0, 1e3])
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=100)
def test_far_policies_keep_finite_grpo_losses(
    tokens: list[tuple[float, float, float]], dtype: torch.dtype
) -> None:
    old, reference, advantages = torch.tensor(tokens, dtype=dtype).unbind(1)
    logprobs = torch.zeros_like(old).requires_grad_()
    found = grpo_loss(logprobs, old, reference, advantages, clip=0.2, kl_weight=1.0)
    (gradient,) = torch.autograd.grad(found.loss.sum(), logprobs)
    assert found.loss.dtype == dtype and found.loss.shape == old.shape
    assert torch.isfinite(found.loss).all() and torch.isfinite(gradient).all()


def rest_of_grpo(kl_weight: float) -> list[float]:
    """kl_weight * reference / (level - reward), the level from its sum being 1, by bisection."""
    low, high = max(REWARDS), max(REWARDS) + kl_weight
    for _ in range(200):
        level = (low + high) / 2
        total = math.fsum(
            kl_weight * q / max(level - r, 1e-300) for q, r in zip(REFERENCE, REWARDS, strict=True)
        )
        low, high = (level, high) if total > 1 else (low, level)
    return [kl_weight * q / (high - r) for q, r in zip(REFERENCE, REWARDS, strict=True)]


def equation_4(beta: float) -> list[float]:
    """reference * exp(reward / beta) / Z."""
    return softmax([math.log(q) + r / beta for q, r in zip(REFERENCE, REWARDS, strict=True)])


def descend(mean_loss: Callable[[Tensor], Tensor], steps: int = 1500) -> list[float]:
    """Where gradient descent on the mean loss of log-probabilities of five outcomes comes to rest."""
    logits = numbers([0.0] * 5).requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(mean_loss(torch.log_softmax(logits, 0)), logits)
        logits = (logits - gradient).detach().requires_grad_()
    return torch.softmax(logits, 0).tolist()


def unlike(p: list[float], q: list[float]) -> float:
    """Total variation."""
    return 0.5 * math.fsum(abs(a - b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("kl_weight", [0.5, 2.0])
def test_grpo_comes_to_rest_at_its_own_optimum(kl_weight: float) -> None:
    """Exact expectations over five outcomes, centred advantages, no division: not at equation 4."""
    reference, rewards = numbers(REFERENCE).log(), numbers(REWARDS)

    def mean_loss(logprobs: Tensor) -> Tensor:
        old = logprobs.detach()
        advantages = rewards - (old.exp() * rewards).sum()
        found = grpo_loss(logprobs, old, reference, advantages, clip=0.2, kl_weight=kl_weight)
        return (old.exp() * found.loss).sum()

    policy, rest = descend(mean_loss), rest_of_grpo(kl_weight)
    assert math.fsum(rest) == pytest.approx(1, abs=1e-9)
    assert policy == pytest.approx(rest, abs=1e-6)
    assert unlike(policy, equation_4(kl_weight)) > 0.02


@pytest.mark.parametrize(("advantages_of", "factor"), [(leave_one_out, 1), (group_centre, 2)])
def test_groups_of_two_rest_there_too_and_their_own_mean_doubles_the_weight(
    advantages_of: Callable[[Tensor], Tensor], factor: int
) -> None:
    """All 25 groups, each with its probability."""
    groups = torch.tensor(list(itertools.product(range(5), repeat=2)))
    reference, advantages = numbers(REFERENCE).log()[groups], advantages_of(numbers(REWARDS)[groups])

    def mean_loss(logprobs: Tensor) -> Tensor:
        chosen = logprobs[groups]
        old = chosen.detach()
        found = grpo_loss(chosen, old, reference, advantages, clip=0.2, kl_weight=0.5)
        return old.sum(1).exp() @ found.loss.mean(1)

    assert descend(mean_loss) == pytest.approx(rest_of_grpo(factor * 0.5), abs=1e-6)


# --- Averages ---


def mask_of(lengths: list[int], width: int) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def noise(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=5)


@given(LENGTHS, st.integers(5, 9))
@settings(max_examples=50)
def test_both_averages_by_loops(lengths: list[int], slots: int) -> None:
    values, mask = noise(len(lengths), 5), mask_of(lengths, 5)
    rows = [values[row, :length].tolist() for row, length in enumerate(lengths)]
    by_response = [statistics.fmean(row) if row else 0.0 for row in rows]
    assert mean_over_responses(values, mask).item() == pytest.approx(statistics.fmean(by_response), abs=1e-13)
    by_slot = math.fsum(math.fsum(row) for row in rows) / (len(rows) * slots)
    assert mean_over_slots(values, mask, slots=slots).item() == pytest.approx(by_slot, abs=1e-13)


def test_a_token_counts_by_its_responses_length_or_not() -> None:
    values, mask = torch.ones(2, 4, dtype=torch.float64, requires_grad=True), mask_of([1, 4], 4)
    (own,) = torch.autograd.grad(mean_over_responses(values, mask), values)
    assert own.tolist() == [[0.5, 0, 0, 0], [0.125] * 4]
    (equal,) = torch.autograd.grad(mean_over_slots(values, mask, slots=8), values)
    assert equal.tolist() == [[0.0625, 0, 0, 0], [0.0625] * 4]


def test_averages_are_one_number_in_the_type_of_the_values() -> None:
    for dtype in (torch.float32, torch.float64):
        values, mask = torch.ones(2, 3, dtype=dtype), mask_of([0, 0], 3)
        for found in (mean_over_responses(values, mask), mean_over_slots(values, mask, slots=3)):
            assert found.shape == () and found.dtype == dtype and found.item() == 0


def test_more_padding_changes_neither() -> None:
    narrow, wide = noise(3, 4), torch.cat([noise(3, 4), torch.full((3, 2), 1e9, dtype=torch.float64)], 1)
    lengths = [4, 1, 2]
    assert torch.equal(
        mean_over_responses(narrow, mask_of(lengths, 4)), mean_over_responses(wide, mask_of(lengths, 6))
    )
    assert torch.equal(
        mean_over_slots(narrow, mask_of(lengths, 4), slots=6),
        mean_over_slots(wide, mask_of(lengths, 6), slots=6),
    )


def test_whatever_stands_in_the_padding_changes_neither() -> None:
    mask, values = mask_of([2, 0], 3), torch.ones(2, 3)
    for rubbish in (1e30, math.inf, NAN):
        padded = torch.where(mask, values, rubbish)
        assert mean_over_responses(padded, mask).item() == 0.5
        assert mean_over_slots(padded, mask, slots=4).item() == 0.25


@pytest.mark.parametrize("slots", [3, 1, 0, -4])
def test_there_are_slots_for_the_longest_response(slots: int) -> None:
    message = f"slots must be at least the longest response, 4, got {slots}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        mean_over_slots(torch.zeros(2, 4), mask_of([4, 2], 4), slots=slots)
