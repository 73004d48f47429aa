"""The clipped losses: every corner, the clips' own boundaries, and what is left of the gradient there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.losses.ppo import (
    PolicyLoss,
    approximate_kl,
    dual_clipped_policy_loss,
    policy_loss,
    value_loss,
    with_entropy_bonus,
    with_pretraining,
)

OLD = 0.3  # probability of the token under the policy that sampled
NAN = float("nan")


def numbers(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def slope(function: Callable[[float], float], at: float, step: float = 1e-5) -> float:
    return (function(at + step) - function(at - step)) / (2 * step)


def plain_policy_loss(ratio: float, advantage: float, clip: float, dual_clip: float = math.inf) -> float:
    """Case by case: how much of the ratio counts."""
    if advantage >= 0:
        return -advantage * min(ratio, 1 + clip)
    return -advantage * min(max(ratio, 1 - clip), dual_clip)


def plain_value_loss(value: float, old: float, target: float, clip: float) -> float:
    """Case by case: the value itself if it is near, otherwise whichever of the two is worse off."""
    if abs(value - old) <= clip:
        return (value - target) ** 2 / 2
    edge = old + clip if value > old else old - clip
    return max(abs(value - target), abs(edge - target)) ** 2 / 2


def at_ratio(
    ratio: float, advantage: float, *, clip: float = 0.2, dual_clip: float | None = None
) -> tuple[float, float, bool]:
    """Loss, gradient by the log-probability, clipped?"""
    logprob = numbers(math.log(OLD * ratio)).requires_grad_()
    inputs = logprob, numbers(OLD).log(), numbers(advantage)
    if dual_clip is None:
        found = policy_loss(*inputs, clip=clip)
    else:
        found = dual_clipped_policy_loss(*inputs, clip=clip, dual_clip=dual_clip)
    assert found.ratio.item() == pytest.approx(ratio, rel=1e-12) and not found.ratio.requires_grad
    assert found.clipped.dtype == torch.bool
    (gradient,) = torch.autograd.grad(found.loss.sum(), logprob)
    return found.loss.item(), gradient.item(), bool(found.clipped)


# --- Policy ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, False),
        (1.1, 2.0, -2.2, -2.2, False),
        (1.5, 2.0, -2.4, 0.0, True),  # already likelier than allowed: no gain
        (0.5, 2.0, -1.0, -1.0, False),  # wrongly made less likely: pull back
        (1.5, -2.0, 3.0, 3.0, False),  # wrongly made likelier: push back
        (0.5, -2.0, 1.6, 0.0, True),
        (0.9, -2.0, 1.8, 1.8, False),
        (1.5, 0.0, 0.0, 0.0, False),
        (0.5, 0.0, 0.0, 0.0, False),
    ],
)
def test_policy_loss_in_every_corner(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    found = at_ratio(ratio, advantage)
    assert found[0] == pytest.approx(loss, rel=1e-12)
    assert found[1] == pytest.approx(gradient, rel=1e-12, abs=1e-12)
    assert found[2] is clipped


RATIOS = [0.01, 0.3, 0.69, 0.71, 0.95, 1.0, 1.29, 1.31, 2.9, 3.1, 20.0]
ADVANTAGES = [-3.0, -0.5, 0.0, 0.7, 2.0]


@pytest.mark.parametrize("advantage", ADVANTAGES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_both_policy_losses_case_by_case_and_their_slopes(ratio: float, advantage: float) -> None:
    for dual_clip in (None, 3.0):
        ceiling = math.inf if dual_clip is None else dual_clip

        def plain(nats: float, ceiling: float = ceiling) -> float:
            return plain_policy_loss(math.exp(nats), advantage, 0.3, ceiling)

        loss, gradient, clipped = at_ratio(ratio, advantage, clip=0.3, dual_clip=dual_clip)
        assert loss == pytest.approx(plain(math.log(ratio)), rel=1e-12)
        assert gradient == pytest.approx(slope(plain, math.log(ratio)), rel=1e-8, abs=1e-8)
        dead = (
            (advantage > 0 and ratio > 1.3)
            or (advantage < 0 and ratio < 0.7)
            or (advantage < 0 and ratio > ceiling)
        )
        assert clipped is dead
        assert (gradient == 0) is (dead or advantage == 0)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [1.2, 0.8])
def test_exactly_on_the_boundary_the_gradient_is_whole(ratio: float, advantage: float) -> None:
    """The clip is set from the ratio that was computed, so that 1 + clip is that ratio to the last bit."""
    logprob, old = numbers(math.log(OLD * ratio)).requires_grad_(), numbers(OLD).log()
    exact = (logprob - old).exp().item()
    clip = abs(exact - 1)
    assert exact in (1 + clip, 1 - clip)
    for found in (
        policy_loss(logprob, old, numbers(advantage), clip=clip),
        dual_clipped_policy_loss(logprob, old, numbers(advantage), clip=clip, dual_clip=9.0),
    ):
        (gradient,) = torch.autograd.grad(found.loss.sum(), logprob, retain_graph=True)
        assert found.loss.item() == -advantage * exact
        assert gradient.item() == pytest.approx(-advantage * exact, rel=1e-12)
        assert not found.clipped.any()


def test_a_policy_that_has_not_moved_has_the_policy_gradient() -> None:
    advantages = numbers(1.0, -2.0, 0.5, 0.0)
    logprobs = numbers(0.1, 0.2, 0.3, 0.4).log().requires_grad_()
    found = policy_loss(logprobs, logprobs.detach(), advantages, clip=0.2)
    (gradient,) = torch.autograd.grad(found.loss.sum(), logprobs)
    assert found.ratio.tolist() == [1, 1, 1, 1] and not found.clipped.any()
    assert found.loss.tolist() == (-advantages).tolist()
    assert gradient.tolist() == (-advantages).tolist()
    assert approximate_kl(logprobs, logprobs).tolist() == [0, 0, 0, 0]


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-5, 5)), min_size=1, max_size=6), st.floats(0.01, 0.99))
@settings(max_examples=100)
def test_the_clip_only_ever_adds_loss_and_the_second_clip_only_takes(
    tokens: list[tuple[float, float]], clip: float
) -> None:
    nats, advantages = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    single = policy_loss(nats, torch.zeros_like(nats), advantages, clip=clip)
    double = dual_clipped_policy_loss(nats, torch.zeros_like(nats), advantages, clip=clip, dual_clip=2.5)
    assert (single.loss >= -advantages * nats.exp() - 1e-12).all()
    assert (double.loss <= single.loss).all()
    assert (double.ratio == single.ratio).all()


@given(
    st.lists(
        st.tuples(
            st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 0.0, 50.0, 51.0, 1e4]),
            st.sampled_from([-1e3, 0.0, 1e3]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=100)
def test_far_policies_keep_finite_losses_and_gradients(
    tokens: list[tuple[float, float]], dtype: torch.dtype
) -> None:
    nats, advantages = torch.tensor(tokens, dtype=dtype).unbind(1)
    old = torch.zeros_like(nats)

    def dual(logprobs: Tensor, old: Tensor, advantages: Tensor, *, clip: float) -> PolicyLoss:
        return dual_clipped_policy_loss(logprobs, old, advantages, clip=clip, dual_clip=3.0)

    for loss_of in (policy_loss, dual):
        logprobs = nats.clone().requires_grad_()
        found = loss_of(logprobs, old, advantages, clip=0.2)
        (gradient,) = torch.autograd.grad(found.loss.sum(), logprobs)
        assert found.loss.shape == found.ratio.shape == found.clipped.shape == nats.shape
        assert found.loss.dtype == found.ratio.dtype == gradient.dtype == dtype
        for tensor in (found.loss, found.ratio, gradient):
            assert torch.isfinite(tensor).all()
        assert (gradient * advantages <= 0).all()  # never against the advantage
        assert (gradient[found.clipped] == 0).all()


@pytest.mark.parametrize("clip", [0.0, -0.2, 1.0, 1.5, 2.5, NAN, math.inf])
def test_the_clip_of_the_ratio_is_between_0_and_1(clip: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=rf"^clip must be in \(0, 1\), got {re.escape(str(clip))}$"):
        policy_loss(one, one, one, clip=clip)
    with pytest.raises(ValueError, match="clip must be"):
        dual_clipped_policy_loss(one, one, one, clip=clip, dual_clip=9.0)


@pytest.mark.parametrize("clip", [1e-9, 1 - 1e-9])
def test_the_clip_may_be_anything_between(clip: float) -> None:
    loss = policy_loss(numbers(5.0), numbers(0.0), numbers(1.0), clip=clip).loss
    assert loss.item() == pytest.approx(-(1 + clip), rel=1e-12)


# --- The second clip ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (2.9, -2.0, 5.8, 5.8, False),  # not yet
        (3.1, -2.0, 6.0, 0.0, True),  # the corner that the plain clip leaves open
        (1e6, -2.0, 6.0, 0.0, True),
        (0.5, -2.0, 1.6, 0.0, True),
        (3.1, 2.0, -2.4, 0.0, True),  # a good token has no second clip: that is the first
        (0.5, 2.0, -1.0, -1.0, False),
        (3.1, 0.0, 0.0, 0.0, False),
    ],
)
def test_dual_clip_in_every_corner(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    found = at_ratio(ratio, advantage, dual_clip=3.0)
    assert found[0] == pytest.approx(loss, rel=1e-12)
    assert found[1] == pytest.approx(gradient, rel=1e-12, abs=1e-12)
    assert found[2] is clipped


def test_exactly_at_the_second_clip_nothing_is_clipped_yet() -> None:
    logprob = numbers(math.log(3)).requires_grad_()
    ceiling = logprob.exp().item()
    found = dual_clipped_policy_loss(logprob, numbers(0.0), numbers(-2.0), clip=0.2, dual_clip=ceiling)
    assert found.loss.item() == 2 * ceiling and not found.clipped.any()


def test_a_second_clip_out_of_reach_is_the_plain_clip() -> None:
    nats, advantages = torch.meshgrid(torch.linspace(-4, 4, 9), numbers(-2, 0, 2).float(), indexing="ij")
    nats, advantages = nats.flatten(), advantages.flatten()
    single = policy_loss(nats, torch.zeros_like(nats), advantages, clip=0.2)
    for dual_clip in (1e3, math.inf):
        double = dual_clipped_policy_loss(
            nats, torch.zeros_like(nats), advantages, clip=0.2, dual_clip=dual_clip
        )
        for one, other in zip(single, double, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dual_clip", [1.25, 1.1, 0.0, -3.0, NAN])
def test_the_second_clip_is_beyond_the_first(dual_clip: float) -> None:
    one = torch.ones(1)
    message = f"dual_clip must be > 1 + clip = 1.25, got {dual_clip}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dual_clipped_policy_loss(one, one, one, clip=0.25, dual_clip=dual_clip)


def test_a_first_clip_out_of_range_is_named_first() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"^clip must be in \(0, 1\), got nan$"):
        dual_clipped_policy_loss(one, one, one, clip=NAN, dual_clip=3.0)


def test_the_second_clip_may_be_just_beyond_the_first() -> None:
    assert at_ratio(2.0, -1.0, clip=0.25, dual_clip=1.26)[0] == pytest.approx(1.26, rel=1e-12)


# --- Value ---


def value_at(value: float, old: float, target: float, *, clip: float) -> tuple[float, float, bool]:
    values = numbers(value).requires_grad_()
    found = value_loss(values, numbers(old), numbers(target), clip=clip)
    assert found.clipped.dtype == torch.bool
    (gradient,) = torch.autograd.grad(found.loss.sum(), values)
    return found.loss.item(), gradient.item(), bool(found.clipped)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient", "clipped"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0, False),
        (1.1, 1.0, 3.0, 0.5 * 1.9**2, -1.9, False),
        (1.5, 1.0, 3.0, 0.5 * 1.8**2, 0.0, True),  # moved further than allowed towards the target
        (0.5, 1.0, 3.0, 0.5 * 2.5**2, -2.5, False),  # moved away: the plain error is the larger
        (0.5, 1.0, -3.0, 0.5 * 3.8**2, 0.0, True),  # the same from above
        (1.5, 1.0, -3.0, 0.5 * 4.5**2, 4.5, False),
        (1.5, 1.0, 1.1, 0.5 * 0.4**2, 0.4, False),  # beyond the target: pulled back
    ],
)
def test_value_loss_on_both_sides(
    value: float, old: float, target: float, loss: float, gradient: float, clipped: bool
) -> None:
    found = value_at(value, old, target, clip=0.2)
    assert found[0] == pytest.approx(loss, rel=1e-12)
    assert found[1] == pytest.approx(gradient, rel=1e-12, abs=1e-12)
    assert found[2] is clipped


SIXTEENTHS = st.integers(-48, 48).map(lambda count: count / 16)  # sums and squares of them are exact


@given(SIXTEENTHS, SIXTEENTHS, SIXTEENTHS, st.integers(1, 32).map(lambda count: count / 16))
@settings(max_examples=300)
def test_value_loss_case_by_case(value: float, old: float, target: float, clip: float) -> None:
    loss, gradient, clipped = value_at(value, old, target, clip=clip)
    assert loss == plain_value_loss(value, old, target, clip) >= (value - target) ** 2 / 2
    edge = min(max(value, old - clip), old + clip)
    assert clipped is (abs(edge - target) > abs(value - target))
    if clipped:
        assert gradient == 0
    elif edge == value or abs(edge - target) < abs(value - target):  # a tie of the two may share it
        assert gradient == value - target


def test_value_slopes() -> None:
    for value in (-1.0, -0.31, -0.29, 0.0, 0.29, 0.31, 1.0):
        for target in (-2.0, 0.05, 2.0):
            expected = slope(lambda v, target=target: plain_value_loss(v, 0.0, target, 0.3), value)  # type: ignore[misc]
            assert value_at(value, 0.0, target, clip=0.3)[1] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("value", [1.5, 0.5])
@pytest.mark.parametrize("target", [4.0, -4.0])
def test_exactly_on_the_value_boundary_the_gradient_is_whole(value: float, target: float) -> None:
    assert value_at(value, 1.0, target, clip=0.5) == ((value - target) ** 2 / 2, value - target, False)


def test_a_value_within_the_clip_is_never_called_clipped() -> None:
    """old + (value - old) need not be the value in floating point; the value itself is."""
    values, old = torch.full((1,), 0.1), torch.full((1,), 1e4)
    found = value_loss(values, old, torch.full((1,), 5.0), clip=1e5)
    assert not found.clipped.item() and found.loss.item() == 0.5 * (values - 5.0).square().item()


def test_a_value_clip_out_of_reach_is_half_the_squared_error() -> None:
    values, old, returns = numbers(1, -2, 3), numbers(0, 5, -7), numbers(4, 4, -4)
    found = value_loss(values, old, returns, clip=math.inf)
    assert found.loss.tolist() == [4.5, 18.0, 24.5] and not found.clipped.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_values_stay_finite(dtype: torch.dtype) -> None:
    grid = torch.tensor([-1e4, -1.0, 0.0, 1e4], dtype=dtype)
    values, old, returns = (axis.flatten() for axis in torch.meshgrid(grid, grid, grid, indexing="ij"))
    values.requires_grad_()
    found = value_loss(values, old, returns, clip=0.2)
    (gradient,) = torch.autograd.grad(found.loss.sum(), values)
    assert found.loss.dtype == dtype and found.loss.shape == found.clipped.shape == values.shape
    assert torch.isfinite(found.loss).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("clip", [0.0, -1.0, NAN])
def test_the_clip_of_values_is_positive(clip: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=f"^clip must be > 0, got {re.escape(str(clip))}$"):
        value_loss(one, one, one, clip=clip)


# --- How far an update moved ---


def test_approximate_kl_is_half_the_squared_log_ratio() -> None:
    new, old = numbers(0.4, 0.2, 0.5).log(), numbers(0.2, 0.4, 0.5).log()
    half = math.log(2) ** 2 / 2
    assert approximate_kl(new, old).tolist() == pytest.approx([half, half, 0], rel=1e-12)


# --- Entropy ---


def test_the_bonus_is_taken_off_token_by_token() -> None:
    loss, entropy = numbers(0.5, -1.0).requires_grad_(), numbers(2.0, 0.25).requires_grad_()
    total = with_entropy_bonus(loss, entropy, weight=0.1)
    assert total.tolist() == pytest.approx([0.3, -1.025], rel=1e-12)
    gradients = torch.autograd.grad(total.sum(), (loss, entropy))
    assert [one.tolist() for one in gradients] == [[1, 1], [-0.1, -0.1]]


def test_without_weight_there_is_no_bonus() -> None:
    loss = numbers(0.5, -1.0)
    assert torch.equal(with_entropy_bonus(loss, numbers(2.0, 0.25), weight=0), loss)


@pytest.mark.parametrize("weight", [-1e-9, -1.0, NAN])
def test_the_weight_of_entropy_is_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match=f"^weight must be >= 0, got {re.escape(str(weight))}$"):
        with_entropy_bonus(numbers(0.0), numbers(0.0), weight=weight)


# --- Pretraining ---


def test_pretraining_adds_its_own_gradient_times_the_weight() -> None:
    policy, pretraining = numbers(0.7).sum().requires_grad_(), numbers(2.5).sum().requires_grad_()
    total = with_pretraining(policy, pretraining, weight=27.8)
    assert total.item() == pytest.approx(0.7 + 27.8 * 2.5, rel=1e-12)
    gradients = torch.autograd.grad(total, (policy, pretraining))
    assert [one.item() for one in gradients] == pytest.approx([1.0, 27.8], rel=1e-12)


def test_both_gradients_meet_in_the_same_weights() -> None:
    """On logits that serve both losses the gradient is the sum of the two, by finite differences."""

    def of(logit: float) -> tuple[float, float]:
        return -1.5 * math.exp(logit - 0.3), -math.log(1 / (1 + math.exp(-logit)))

    logit = numbers(0.2).requires_grad_()
    policy = policy_loss(logit, numbers(0.3), numbers(1.5), clip=0.5).loss.sum()
    pretraining = -torch.nn.functional.logsigmoid(logit).sum()
    (gradient,) = torch.autograd.grad(with_pretraining(policy, pretraining, weight=0.4), logit)
    expected = slope(lambda at: of(at)[0] + 0.4 * of(at)[1], 0.2)
    assert gradient.item() == pytest.approx(expected, abs=1e-8)


def test_pretraining_without_weight_is_ppo() -> None:
    policy, pretraining = numbers(0.7).sum().requires_grad_(), numbers(2.5).sum().requires_grad_()
    total = with_pretraining(policy, pretraining, weight=0)
    assert total.item() == 0.7
    assert [one.item() for one in torch.autograd.grad(total, (policy, pretraining))] == [1, 0]


@pytest.mark.parametrize("weight", [-1e-9, -1.0, NAN])
def test_the_weight_of_pretraining_is_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match=f"^weight must be >= 0, got {re.escape(str(weight))}$"):
        with_pretraining(torch.zeros(()), torch.zeros(()), weight=weight)
