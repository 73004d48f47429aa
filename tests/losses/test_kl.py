"""KL estimators: what each means, and what its gradient means, by enumeration and quadrature."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.losses.kl import (
    ESTIMATORS,
    AdaptiveKL,
    BiasedGradient,
    Estimator,
    full_kl,
    k1,
    k2,
    k3,
    loss_estimator,
    reward_estimator,
)

POLICY = [0.9, -0.4, 0.3, -1.2, 0.1]  # logits of five outcomes
REFERENCE = [-0.2, 0.5, 0.0, 0.4, -0.9]


def softmax(logits: list[float]) -> list[float]:
    odds = [math.exp(logit) for logit in logits]
    return [one / math.fsum(odds) for one in odds]


def divergence(p: list[float], q: list[float]) -> float:
    """KL(p || q) of probabilities."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slopes(function: Callable[[list[float]], float], at: list[float], step: float = 1e-5) -> list[float]:
    """The gradient by central differences."""
    found = []
    for index in range(len(at)):
        up, down = list(at), list(at)
        up[index] += step
        down[index] -= step
        found.append((function(up) - function(down)) / (2 * step))
    return found


def logprobs_of(logits: list[float]) -> tuple[Tensor, Tensor]:
    """The logits, with gradient, and their log-probabilities."""
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    return leaf, torch.log_softmax(leaf, 0)


REFERENCE_LOGPROBS = logprobs_of(REFERENCE)[1].detach()


def forward_slopes() -> list[float]:
    """Gradient of KL(policy || reference) by the policy's logits."""
    return slopes(lambda logits: divergence(softmax(logits), softmax(REFERENCE)), POLICY)


def backward_slopes() -> list[float]:
    """Gradient of KL(reference || policy) by the policy's logits."""
    return slopes(lambda logits: divergence(softmax(REFERENCE), softmax(logits)), POLICY)


# --- Values ---


@pytest.mark.parametrize(("policy", "reference"), [(0.4, 0.2), (0.2, 0.4), (0.9, 0.001), (1e-6, 0.5)])
def test_each_estimator_from_odds(policy: float, reference: float) -> None:
    odds = reference / policy
    expected = {
        "k1": math.log(policy / reference),
        "k2": math.log(odds) ** 2 / 2,
        "k3": odds - 1 - math.log(odds),
    }
    for name, value in expected.items():
        found = ESTIMATORS[name](
            torch.tensor([policy], dtype=torch.float64).log(),
            torch.tensor([reference], dtype=torch.float64).log(),
        )
        assert found.item() == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize(("policy", "reference"), [(0.4, 0.2), (0.2, 0.4), (0.9, 0.01)])
def test_the_gradient_of_each_estimator(policy: float, reference: float) -> None:
    closed = {"k1": 1.0, "k2": math.log(policy / reference), "k3": 1 - reference / policy}
    plain: dict[str, Callable[[float], float]] = {
        "k1": lambda u: u,
        "k2": lambda u: u * u / 2,
        "k3": lambda u: math.exp(-u) - 1 + u,
    }
    for name, expected in closed.items():
        ours = torch.tensor([policy], dtype=torch.float64).log().requires_grad_()
        theirs = torch.tensor([reference], dtype=torch.float64).log().requires_grad_()
        by_policy, by_reference = torch.autograd.grad(ESTIMATORS[name](ours, theirs).sum(), (ours, theirs))
        assert by_policy.item() == pytest.approx(expected, rel=1e-12), name
        assert by_reference.item() == pytest.approx(-expected, rel=1e-12), name
        (slope,) = slopes(lambda at, name=name: plain[name](at[0]), [math.log(policy / reference)])  # type: ignore[misc]
        assert by_policy.item() == pytest.approx(slope, abs=1e-7), name


def test_the_table_holds_the_three() -> None:
    assert {"k1": k1, "k2": k2, "k3": k3} == ESTIMATORS


@pytest.mark.parametrize("estimator", ESTIMATORS.values())
def test_equal_policies_are_exactly_0_apart(estimator: Estimator) -> None:
    assert estimator(REFERENCE_LOGPROBS, REFERENCE_LOGPROBS).tolist() == [0.0] * 5
    assert full_kl(REFERENCE_LOGPROBS, REFERENCE_LOGPROBS).item() == 0.0


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
@settings(max_examples=100)
def test_k2_and_k3_are_never_negative(ratios: list[float]) -> None:
    u = torch.tensor(ratios, dtype=torch.float64)
    assert (k2(u, torch.zeros_like(u)) >= 0).all()
    rounding = 4 * torch.finfo(u.dtype).eps  # of e^-u next to 1
    assert (k3(u, torch.zeros_like(u)) >= -rounding).all()


def test_k3_of_policies_that_hardly_differ_in_float32() -> None:
    u = torch.tensor([1e-4, -1e-4, 1e-3])
    assert k3(u, torch.zeros_like(u)).tolist() == pytest.approx([5e-9, 5e-9, 5e-7], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", ESTIMATORS.values())
@given(ratio=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, -51.0, -50.0, 50.0, 1e4]))
@settings(max_examples=50)
def test_far_policies_keep_finite_values_and_gradients(
    estimator: Estimator, dtype: torch.dtype, ratio: float
) -> None:
    policy = torch.tensor([ratio], dtype=dtype, requires_grad=True)
    value = estimator(policy, torch.zeros(1, dtype=dtype))
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    assert value.dtype == dtype and value.shape == (1,)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
    if estimator is not k1:
        assert gradient.item() * ratio >= 0  # away from the reference is uphill, on both sides


# --- Means, by enumeration ---


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    _, policy = logprobs_of(POLICY)
    p, q = softmax(POLICY), softmax(REFERENCE)
    means = {
        name: (policy.exp() * one(policy, REFERENCE_LOGPROBS)).sum().item()
        for name, one in ESTIMATORS.items()
    }
    assert means["k1"] == pytest.approx(divergence(p, q), rel=1e-12)
    assert means["k3"] == pytest.approx(divergence(p, q), rel=1e-12)
    assert abs(means["k2"] / divergence(p, q) - 1) > 0.01


def test_k2_is_wrong_by_the_third_order() -> None:
    def bias(step: float) -> float:
        _, policy = logprobs_of([r + step * (p - r) for p, r in zip(POLICY, REFERENCE, strict=True)])
        gap = k2(policy, REFERENCE_LOGPROBS) - k1(policy, REFERENCE_LOGPROBS)
        return (policy.exp() * gap).sum().item()

    assert bias(0.02) / bias(0.01) == pytest.approx(8, rel=0.02)


GAUSSIAN = [  # KL; std of k1, k2, k3 in units of it; bias of k2: Schulman's table, its k3 to the digit
    (0.005, (20.0, 1.418, 1.417), 0.0025),
    (0.5, (2.0, 1.732, 1.695), 0.25),
]


@pytest.mark.parametrize(("true", "deviations", "bias"), GAUSSIAN)
def test_two_gaussians_by_quadrature(true: float, deviations: tuple[float, ...], bias: float) -> None:
    """Policy N(0, 1), reference N(mu, 1), KL = mu^2 / 2; 80 Gauss-Hermite nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    mean, x = math.sqrt(2 * true), torch.tensor(nodes)
    share = torch.tensor(weights / weights.sum())
    policy, reference = -0.5 * x.square(), -0.5 * (x - mean).square()
    first = {name: (share * one(policy, reference)).sum().item() for name, one in ESTIMATORS.items()}
    second = {
        name: (share * one(policy, reference).square()).sum().item() for name, one in ESTIMATORS.items()
    }
    assert first["k1"] == pytest.approx(true, rel=1e-10)
    assert first["k3"] == pytest.approx(true, rel=1e-10)
    assert first["k2"] == pytest.approx(true * (1 + bias), rel=1e-10)
    square = 2 * true
    variances = {  # of u ~ N(mu^2/2, mu^2), worked out
        "k1": square,
        "k2": square**2 / 2 + square**3 / 4,
        "k3": math.expm1(square) - square,
    }
    for (name, variance), table in zip(variances.items(), deviations, strict=True):
        assert second[name] - first[name] ** 2 == pytest.approx(variance, rel=1e-9), name
        assert math.sqrt(variance) / true == pytest.approx(table, abs=5e-4), name


# --- Gradients, by enumeration: the table of docs/math.md#kl ---


def mean_gradient_as_loss(estimator: Estimator) -> list[float]:
    """Of samples of the policy: their weights are constants."""
    leaf, policy = logprobs_of(POLICY)
    loss = (policy.detach().exp() * estimator(policy, REFERENCE_LOGPROBS)).sum()
    return torch.autograd.grad(loss, leaf)[0].tolist()


def mean_gradient_in_reward(estimator: Estimator) -> list[float]:
    """E[estimator * grad log policy]: of the penalty that the policy gradient of -estimator descends."""
    leaf, policy = logprobs_of(POLICY)
    penalty = estimator(policy, REFERENCE_LOGPROBS).detach()
    return torch.autograd.grad((policy.detach().exp() * penalty * policy).sum(), leaf)[0].tolist()


def test_k1_in_the_reward_descends_the_divergence() -> None:
    assert mean_gradient_in_reward(k1) == pytest.approx(forward_slopes(), abs=1e-9)
    p, q = softmax(POLICY), softmax(REFERENCE)
    closed = [a * (math.log(a / b) - divergence(p, q)) for a, b in zip(p, q, strict=True)]
    assert mean_gradient_in_reward(k1) == pytest.approx(closed, abs=1e-13)


def test_k2_as_a_loss_descends_the_divergence() -> None:
    assert mean_gradient_as_loss(k2) == pytest.approx(forward_slopes(), abs=1e-9)
    assert mean_gradient_as_loss(k2) == pytest.approx(mean_gradient_in_reward(k1), abs=1e-13)


def test_k1_as_a_loss_does_nothing() -> None:
    assert mean_gradient_as_loss(k1) == pytest.approx([0.0] * 5, abs=1e-14)


def test_k3_as_a_loss_descends_the_other_divergence() -> None:
    assert mean_gradient_as_loss(k3) == pytest.approx(backward_slopes(), abs=1e-9)
    closed = [a - b for a, b in zip(softmax(POLICY), softmax(REFERENCE), strict=True)]
    assert mean_gradient_as_loss(k3) == pytest.approx(closed, abs=1e-13)


def test_k3_in_the_reward_descends_the_difference_of_both() -> None:
    difference = [a - b for a, b in zip(forward_slopes(), backward_slopes(), strict=True)]
    assert mean_gradient_in_reward(k3) == pytest.approx(difference, abs=1e-9)


def test_k2_in_the_reward_descends_something_else() -> None:
    gaps = [abs(a - b) for a, b in zip(mean_gradient_in_reward(k2), forward_slopes(), strict=True)]
    assert max(gaps) > 1e-2


# --- The whole vocabulary ---


def test_full_kl_is_its_definition_position_by_position() -> None:
    rows = [(POLICY, REFERENCE), (REFERENCE, POLICY), (POLICY, POLICY)]
    policy = torch.stack([logprobs_of(a)[1].detach() for a, _ in rows])
    reference = torch.stack([logprobs_of(b)[1].detach() for _, b in rows])
    expected = [divergence(softmax(a), softmax(b)) for a, b in rows]
    assert full_kl(policy, reference).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert full_kl(policy[None], reference[None]).shape == (1, 3)


def test_a_token_that_the_policy_never_takes_adds_nothing_to_full_kl() -> None:
    half = math.log(0.5)
    policy = torch.tensor([[half, half, -math.inf]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[math.log(0.25), half, -math.inf]], dtype=torch.float64)
    found = full_kl(policy, reference)
    (gradient,) = torch.autograd.grad(found.sum(), policy)
    assert found.item() == pytest.approx(0.5 * math.log(2), rel=1e-12)
    assert gradient.tolist() == [pytest.approx([0.5 * (math.log(2) + 1), 0.5, 0.0], rel=1e-12)]


def test_full_kl_from_a_reference_that_excludes_a_token_is_infinite() -> None:
    policy = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    assert full_kl(policy, torch.tensor([[0.0, -math.inf]], dtype=torch.float64)).tolist() == [math.inf]


def test_the_gradient_of_full_kl() -> None:
    leaf, policy = logprobs_of(POLICY)
    (gradient,) = torch.autograd.grad(full_kl(policy, REFERENCE_LOGPROBS), leaf)
    assert gradient.tolist() == pytest.approx(forward_slopes(), abs=1e-9)


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=6))
@settings(max_examples=100)
def test_full_kl_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    logits = torch.tensor(pairs, dtype=torch.float64)
    policy, reference = torch.log_softmax(logits, 0).unbind(1)
    assert full_kl(policy, reference).item() >= -1e-13


def two_steps(seed: int) -> Tensor:
    """Logits [4, 3]: of the first token, and of the second after each of the first."""
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def responses() -> Iterator[list[tuple[int, int]]]:
    """All nine, as pairs of state and token."""
    for first in range(3):
        for second in range(3):
            yield [(0, first), (1 + first, second)]


def test_the_chain_rule_over_two_steps() -> None:
    """All three sums of token values have the divergence of whole responses as their mean."""
    policy, reference = torch.log_softmax(two_steps(0), 1), torch.log_softmax(two_steps(1), 1)
    tables = [softmax(row) for row in two_steps(0).tolist()], [softmax(row) for row in two_steps(1).tolist()]
    whole = [[math.prod(table[s][a] for s, a in path) for path in responses()] for table in tables]
    expected = divergence(whole[0], whole[1])
    states = full_kl(policy, reference)
    exact = [sum(states[s].item() for s, _ in path) for path in responses()]
    sampled = {
        name: [sum(one(policy, reference)[s, a].item() for s, a in path) for path in responses()]
        for name, one in ESTIMATORS.items()
    }

    def mean(values: list[float]) -> float:
        return math.fsum(p * value for p, value in zip(whole[0], values, strict=True))

    def variance(values: list[float]) -> float:
        return mean([value**2 for value in values]) - mean(values) ** 2

    assert mean(exact) == pytest.approx(expected, rel=1e-12)
    assert mean(sampled["k1"]) == pytest.approx(expected, rel=1e-12)
    assert mean(sampled["k3"]) == pytest.approx(expected, rel=1e-12)
    assert variance(exact) < variance(sampled["k1"])


@pytest.mark.parametrize(("estimator", "turned"), [(k2, False), (k3, True)])
def test_token_losses_see_each_state_but_not_how_it_was_reached(estimator: Estimator, turned: bool) -> None:
    """Their mean gradient is that of the states' own divergences, with the visits held fixed."""
    logits = two_steps(0).requires_grad_()
    policy, reference = torch.log_softmax(logits, 1), torch.log_softmax(two_steps(1), 1)
    tokens, fixed = estimator(policy, reference), policy.detach()
    loss = torch.stack(
        [
            torch.stack([fixed[s, a] for s, a in path]).sum().exp()
            * torch.stack([tokens[s, a] for s, a in path]).sum()
            for path in responses()
        ]
    ).sum()
    visits = torch.cat([torch.ones(1, dtype=torch.float64), fixed[0].exp()])
    sides = (reference, policy) if turned else (policy, reference)
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad((visits * full_kl(*sides)).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


# --- Where each may be used ---


def test_k1_belongs_into_the_reward() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reward_estimator("k1") is k1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("k2", "k2 in the reward is biased: its mean is not the divergence; k1 is exact"),
        (
            "k3",
            "k3 in the reward is biased: its gradient is that of KL(policy || reference) less that of"
            " KL(reference || policy); k1 is exact",
        ),
    ],
)
def test_k2_and_k3_in_the_reward_warn_with_the_reason(name: str, message: str) -> None:
    with pytest.warns(BiasedGradient, match=f"^{re.escape(message)}$") as caught:
        assert reward_estimator(name) is ESTIMATORS[name]
    assert len(caught) == 1


def test_the_warning_names_the_line_that_chose_the_estimator() -> None:
    with pytest.warns(BiasedGradient) as caught:
        reward_estimator("k2")
    assert caught[0].filename == __file__  # not the line that warns


def test_the_warning_can_be_silenced_as_a_user_warning() -> None:
    assert issubclass(BiasedGradient, UserWarning)


def test_k1_as_a_loss_is_refused_with_the_reason() -> None:
    reason = "k1 as a loss does nothing: the mean of its gradient is 0; put k1 into the reward, or take k2"
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        loss_estimator("k1")


def test_k2_and_k3_may_be_losses_without_a_warning() -> None:
    assert loss_estimator("k2") is k2 and loss_estimator("k3") is k3


@pytest.mark.parametrize("choose", [reward_estimator, loss_estimator])
def test_an_unknown_estimator_is_not_guessed(choose: Callable[[str], Estimator]) -> None:
    with pytest.raises((KeyError, ValueError), match="k4"):
        choose("k4")


# --- The controller ---


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (6.0, 1.0),  # rests on the target
        (6.6, 1 + 0.1 * 0.5),
        (5.4, 1 - 0.1 * 0.5),
        (7.2, 1 + 0.2 * 0.5),  # the ends of its reach
        (4.8, 1 - 0.2 * 0.5),
        (7.3, 1 + 0.2 * 0.5),
        (600.0, 1 + 0.2 * 0.5),
        (0.0, 1 - 0.2 * 0.5),
        (-50.0, 1 - 0.2 * 0.5),  # a mean of k1 may be negative
    ],
)
def test_the_weight_moves_with_the_error_and_by_a_fifth_at_most(kl: float, factor: float) -> None:
    controller = AdaptiveKL(target=6.0, horizon=100)
    assert controller.updated(0.3, kl=kl, episodes=50) == pytest.approx(0.3 * factor, rel=1e-12)


def test_the_horizon_is_10_000_episodes_if_not_said() -> None:
    assert AdaptiveKL(target=1.0).horizon == 10_000
    assert AdaptiveKL(target=1.0).updated(2.0, kl=9.0, episodes=512) == pytest.approx(2 * (1 + 0.2 * 0.0512))


@given(
    st.floats(1e-3, 1e3),
    st.floats(1e-6, 10),
    st.floats(-1e4, 1e4),
    st.integers(1, 10_000),
    st.floats(0, 9),
)
@settings(max_examples=200)
def test_the_weight_stays_positive_and_bounded(
    target: float, weight: float, kl: float, horizon: int, horizons: float
) -> None:
    episodes = int(horizons * horizon)
    found = AdaptiveKL(target, horizon).updated(weight, kl=kl, episodes=episodes)
    reach = 0.2 * min(1, episodes / horizon)
    assert found > 0
    assert weight * (1 - reach) * (1 - 1e-9) <= found <= weight * (1 + reach) * (1 + 1e-9)
    if episodes:
        assert (found > weight) == (found != weight and kl > target)


def test_steered_to_its_target_it_comes_to_rest_there() -> None:
    """A world whose divergence is 1 / weight: the weight ends at 1 / target."""
    controller, weight = AdaptiveKL(target=4.0, horizon=100), 5.0
    for _ in range(300):
        weight = controller.updated(weight, kl=1 / weight, episodes=50)
    assert weight == pytest.approx(0.25, rel=1e-9)


def test_an_update_longer_than_the_horizon_is_one_horizon() -> None:
    controller = AdaptiveKL(target=6.0, horizon=100)
    assert controller.updated(0.3, kl=0.0, episodes=10_000) == pytest.approx(0.24, rel=1e-12)
    assert controller.updated(0.3, kl=60.0, episodes=101) == pytest.approx(0.36, rel=1e-12)


@pytest.mark.parametrize("options", [{"target": 0.0}, {"target": math.nan}, {"target": 1.0, "horizon": 0}])
def test_a_controller_without_a_target_or_horizon_is_refused(options: dict[str, float]) -> None:
    name = list(options)[-1]
    with pytest.raises(ValueError, match=f"^{name} must be > 0, got {options[name]}$"):
        AdaptiveKL(**options)  # type: ignore[arg-type]


def test_a_broken_divergence_does_not_move_the_weight() -> None:
    with pytest.raises(ValueError, match=r"^the mean KL is NaN, so its weight cannot be steered"):
        AdaptiveKL(target=1.0).updated(0.1, kl=math.nan, episodes=10)


def test_a_controller_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdaptiveKL(target=1.0).target = 2.0  # type: ignore[misc]
