"""DPO and its kin against probabilities -> odds -> -log, with no logsigmoid, and against what is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from worked import (
    NO_LABEL_NOISE,
    NOT_POSITIVE,
    ROWS,
    Case,
    Row,
    Sides,
    allowed,
    check_gradient_by_differences,
    check_gradient_in_closed_form,
    check_value,
    each,
    log_ratio_rewards,
    odds,
    refused,
    share,
    tensors,
)

from trimtab.losses.dpo import (
    alpha_dpo_loss,
    cdpo_loss,
    discopop_loss,
    dpo_loss,
    exo_loss,
    forward_kl_dpo_loss,
    hinge_loss,
    ipo_loss,
    js_dpo_loss,
    robust_loss,
    wpo_loss,
)
from trimtab.losses.pairs import PairLoss


def win(row: Row, beta: float) -> float:
    chosen, rejected = odds(row, beta)
    return share(chosen, rejected)


def lose(row: Row, beta: float) -> float:
    chosen, rejected = odds(row, beta)
    return share(rejected, chosen)


def margin(row: Row) -> float:
    """The log-ratio margin, from one quotient of probabilities."""
    return math.log(row.ratio.chosen / row.ratio.rejected)


def by_margin(slope: Callable[..., float]) -> Callable[..., list[Sides]]:
    """Slopes of a loss of z alone, from its derivative by z."""
    return each(
        lambda row, *, beta, **options: Sides(
            beta * slope(row, beta=beta, **options), -beta * slope(row, beta=beta, **options)
        )
    )


def dpo(row: Row, *, beta: float) -> float:
    return -math.log(win(row, beta))


def cdpo(row: Row, *, beta: float, label_noise: float) -> float:
    right, wrong = win(row, beta), lose(row, beta)
    return -math.log(right ** (1 - label_noise) * wrong**label_noise)


def robust(row: Row, *, beta: float, label_noise: float) -> float:
    right, wrong = win(row, beta) ** (1 - label_noise), lose(row, beta) ** label_noise
    return -math.log(right / wrong) / (1 - label_noise - label_noise)


def hinge(row: Row, *, beta: float) -> float:
    missing = 1 - beta * margin(row)
    return missing if missing > 0 else 0.0


def ipo(row: Row, *, beta: float) -> float:
    return (margin(row) - 0.5 / beta) ** 2


def exo(row: Row, *, beta: float, label_noise: float) -> float:
    right, wrong = win(row, beta), lose(row, beta)
    return right * math.log(right / (1 - label_noise)) + wrong * math.log(wrong / label_noise)


def blend(row: Row, beta: float, temperature: float) -> float:
    odd = (row.ratio.chosen / row.ratio.rejected) ** (beta / temperature)
    return share(odd, 1.0)


def discopop(row: Row, *, beta: float, temperature: float) -> float:
    chosen, rejected = odds(row, beta)
    m = blend(row, beta, temperature)
    return -(1 - m) * math.log(share(chosen, rejected)) + m * rejected / chosen


def discopop_slope(row: Row, *, beta: float, temperature: float) -> float:
    m, e = blend(row, beta, temperature), math.exp(-beta * margin(row))
    return -(1 - m) * lose(row, beta) - m * e + m * (1 - m) / temperature * (e + math.log(win(row, beta)))


def f_dpo(slope: Callable[..., float], curvature: Callable[..., float]) -> dict[str, Callable[..., list]]:
    """An f-DPO loss in plain floats, from f' and from u f''."""

    def rewards(row: Row, *, beta: float, **options: float) -> Sides:
        return Sides(*(beta * slope(u, **options) for u in row.ratio))

    def wins(row: Row, *, beta: float, **options: float) -> float:
        chosen, rejected = (math.exp(reward) for reward in rewards(row, beta=beta, **options))
        return share(chosen, rejected)

    def plain(row: Row, *, beta: float, **options: float) -> float:
        return -math.log(wins(row, beta=beta, **options))

    def slopes(row: Row, *, beta: float, **options: float) -> Sides:
        chosen, rejected = (math.exp(reward) for reward in rewards(row, beta=beta, **options))
        wrong = share(rejected, chosen)
        u = row.ratio
        return Sides(
            -beta * wrong * curvature(u.chosen, **options), beta * wrong * curvature(u.rejected, **options)
        )

    return {"plain": each(plain), "slopes": each(slopes), "rewards": each(rewards)}


def wpo_weight(row: Row) -> float:
    return min(1.0, row.likeness.chosen * row.likeness.rejected)


def margin_case(
    loss: Callable[..., PairLoss],
    plain: Callable[..., float],
    slope: Callable[..., float],
    defaults: dict[str, float],
    options: dict[str, float],
    reads: str = "policy reference",
) -> Case:
    return Case(loss, reads, each(plain), by_margin(slope), each(log_ratio_rewards), defaults, options)


CASES = [
    margin_case(dpo_loss, dpo, lambda row, *, beta: -lose(row, beta), {"beta": 0.1}, {"beta": 0.7}),
    margin_case(
        cdpo_loss,
        cdpo,
        lambda row, *, beta, label_noise: win(row, beta) - (1 - label_noise),
        {"beta": 0.1, "label_noise": 0.1},
        {"beta": 0.7, "label_noise": 0.3},
    ),
    margin_case(
        robust_loss,
        robust,
        lambda row, *, beta, label_noise: (
            -((1 - label_noise) * lose(row, beta) + label_noise * win(row, beta)) / (1 - 2 * label_noise)
        ),
        {"beta": 0.1, "label_noise": 0.1},
        {"beta": 0.7, "label_noise": 0.3},
    ),
    margin_case(
        hinge_loss,
        hinge,
        lambda row, *, beta: -1.0 if beta * margin(row) < 1 else 0.0,
        {"beta": 0.1},
        {"beta": 0.7},
    ),
    margin_case(
        ipo_loss,
        ipo,
        lambda row, *, beta: 2 * (margin(row) - 0.5 / beta) / beta,
        {"beta": 0.1},
        {"beta": 0.7},
    ),
    margin_case(
        exo_loss,
        exo,
        lambda row, *, beta, label_noise: (
            win(row, beta)
            * lose(row, beta)
            * (beta * margin(row) - math.log((1 - label_noise) / label_noise))
        ),
        {"beta": 0.1, "label_noise": 1e-3},
        {"beta": 0.7, "label_noise": 0.3},
    ),
    margin_case(
        discopop_loss,
        discopop,
        discopop_slope,
        {"beta": 0.05, "temperature": 0.05},
        {"beta": 0.7, "temperature": 0.4},
    ),
    Case(
        forward_kl_dpo_loss,
        "policy reference",
        **f_dpo(lambda u: -1 / u, lambda u: 1 / u),
        defaults={"beta": 0.1},
        options={"beta": 0.7},
    ),
    Case(
        js_dpo_loss,
        "policy reference",
        **f_dpo(lambda u: math.log(2 * u / (1 + u)), lambda u: 1 / (1 + u)),
        defaults={"beta": 0.1},
        options={"beta": 0.7},
    ),
    Case(
        alpha_dpo_loss,
        "policy reference",
        **f_dpo(
            lambda u, *, alpha: (u ** (alpha - 1) - 1) / (alpha - 1), lambda u, *, alpha: u ** (alpha - 1)
        ),
        defaults={"beta": 0.1, "alpha": 0.5},
        options={"beta": 0.7, "alpha": -0.7},
    ),
    margin_case(
        wpo_loss,
        lambda row, *, beta: wpo_weight(row) * dpo(row, beta=beta),
        lambda row, *, beta: -wpo_weight(row) * lose(row, beta),
        {"beta": 0.1},
        {"beta": 0.7},
        reads="policy reference likeness",
    ),
]
BY_NAME = {case.loss.__name__.removesuffix("_loss"): case for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case) -> None:
    check_value(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_by_differences(case: Case) -> None:
    check_gradient_by_differences(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_in_closed_form(case: Case) -> None:
    check_gradient_in_closed_form(case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("beta", NOT_POSITIVE)
def test_beta_is_positive(case: Case, beta: float) -> None:
    refused(case, "beta must be > 0", beta=beta)
    allowed(case, beta=1e-9)


@pytest.mark.parametrize("name", ["cdpo", "robust", "exo"])
@pytest.mark.parametrize("noise", NO_LABEL_NOISE)
def test_label_noise_is_below_a_half(name: str, noise: float) -> None:
    refused(BY_NAME[name], "label_noise must be in [0, 0.5)", label_noise=noise)
    allowed(BY_NAME[name], label_noise=0.4999)


@pytest.mark.parametrize("name", ["cdpo", "robust"])
def test_label_noise_may_be_0_and_is_dpo(name: str) -> None:
    inputs = tensors("policy reference", ROWS)
    found = BY_NAME[name].loss(**inputs, beta=0.7, label_noise=0.0)
    assert found.loss.tolist() == dpo_loss(**inputs, beta=0.7).loss.tolist()


def test_exo_needs_some_label_noise() -> None:
    refused(BY_NAME["exo"], "label_noise must be > 0", label_noise=0.0)
    allowed(BY_NAME["exo"], label_noise=1e-9)


@pytest.mark.parametrize("temperature", [*NOT_POSITIVE, 1.0 + 1e-9, 2.0])
def test_temperature_is_above_0_and_at_most_1(temperature: float) -> None:
    refused(BY_NAME["discopop"], "temperature must be in (0, 1]", temperature=temperature)
    allowed(BY_NAME["discopop"], temperature=1.0)
    allowed(BY_NAME["discopop"], temperature=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-9, 2.0, math.nan])
def test_alpha_is_below_1(alpha: float) -> None:
    refused(BY_NAME["alpha_dpo"], "alpha must be < 1", alpha=alpha)
    for other in (1 - 1e-6, 0.0, -1.0, -2.0):
        allowed(BY_NAME["alpha_dpo"], alpha=other)
