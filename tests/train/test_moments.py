"""AdamW with moments in 8 bits, beside a plain computation of the same and beside float32."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.runs import checkpoint
from trimtab.train import loop, moments
from trimtab.train.settings import OptimizerSettings


def settings(**changes: Any) -> OptimizerSettings:
    common = {"learning_rate": 0.01, "warmup": 0.0, "schedule": "constant", "max_grad_norm": 1e9}
    return OptimizerSettings(**{**common, "moments": "8bit", **changes})


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "PIECE", 4096)


class Three(nn.Module):
    """A matrix in codes over several pieces, one that is too small for them, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.large = nn.Parameter(torch.randn(33, 512, generator=generator))
        self.small = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.bias = nn.Parameter(torch.randn(5000, generator=generator))  # no whole number of blocks


def give_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in model.parameters():
        size = 10.0 ** torch.empty(parameter.shape).uniform_(-3, 0, generator=generator)
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)


def nearest(values: np.ndarray, signed: bool) -> np.ndarray:
    """What is left of blocks of 256 values: the nearest code, by looking at all of them."""
    codes = np.array(moments.code_values(signed=signed))
    blocks = values.reshape(-1, 256)
    scales = np.abs(blocks).max(axis=1, keepdims=True)
    relative = blocks / np.maximum(scales, 1e-38)
    places = np.abs(relative[:, :, None] - codes).argmin(axis=2)
    return (codes[places] * scales).reshape(values.shape)


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_ascending_and_reach_over_seven_powers_of_ten(signed: bool) -> None:
    values = moments.code_values(signed=signed)
    assert len(values) == 256 and list(values) == sorted(set(values))
    assert values[-1] == 1.0 and 0.0 in values
    assert values[0] == pytest.approx(-0.9929687) if signed else values[0] == 0.0
    least = min(value for value in values if value > 0)
    assert least == pytest.approx(0.55e-6 if signed else 0.325e-6)


@pytest.mark.parametrize("signed", [True, False])
def test_a_value_comes_back_as_its_nearest_code(signed: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(64 * 256, generator=generator) * 10.0 ** torch.empty(64 * 256).uniform_(
        -5, 1, generator=generator
    )
    values = values if signed else values.abs()
    values[:256] = 0.0
    found = moments.decoded(*moments.encoded(values, signed=signed), signed=signed)
    expected = nearest(values.double().numpy(), signed)
    assert not found[:256].any()
    worst = np.abs(expected - values.numpy())
    # bfloat16 places it within 1/256 of itself, so that next to a border the other code may be taken.
    slack = np.abs(values.numpy()) / 256 + 1e-9
    assert (np.abs(found.numpy() - values.numpy()) <= worst + 2 * slack).all()
    assert (np.abs(found.numpy() - expected) < 1e-6 * np.abs(expected) + 1e-12).mean() > 0.8


def test_steps_are_those_of_a_plain_computation() -> None:
    model, decay = Three(), 0.1
    weights = model.large.detach().double().numpy().copy()
    learner = loop.Learner(model, settings(weight_decay=decay), 10)  # type: ignore[arg-type]
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, 4):
        give_gradients(model, step)
        gradient = model.large.grad.double().numpy()  # type: ignore[union-attr]
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        moved = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        weights = weights * (1 - 0.01 * decay) - 0.01 * moved
        mean, square = nearest(mean, True), nearest(square, False)
        learner.step()
    difference = np.abs(model.large.detach().numpy() - weights)
    # Of steps of 1e-2. Next to a border between two codes the other one may be taken.
    assert np.median(difference) < 1e-6 and difference.mean() < 1e-4


def test_what_is_too_small_for_codes_learns_as_in_float32() -> None:
    eight, full = Three(), Three()
    learners = [
        loop.Learner(eight, settings(), 10),  # type: ignore[arg-type]
        loop.Learner(full, settings(moments="float32"), 10),  # type: ignore[arg-type]
    ]
    for step in range(3):
        for model, learner in zip((eight, full), learners, strict=True):
            give_gradients(model, step)
            learner.step()
    torch.testing.assert_close(eight.small, full.small, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(eight.bias, full.bias, rtol=1e-5, atol=1e-6)
    assert not torch.equal(eight.large, full.large)


def test_a_quadratic_is_solved_as_by_float32() -> None:
    """300 steps from far away: what codes round off must not add up."""
    target = torch.randn(64, 128, generator=torch.Generator().manual_seed(3))
    ends = {}
    for kind in ("8bit", "float32"):
        weight = nn.Parameter(torch.zeros(64, 128))
        model = nn.ParameterDict({"weight": weight})
        chosen = settings(moments=kind, learning_rate=0.05, schedule="linear")
        learner = loop.Learner(model, chosen, 300)  # type: ignore[arg-type]
        for _ in range(300):
            (0.5 * (weight - target).square().sum()).backward()  # type: ignore[no-untyped-call]
            learner.step()
        ends[kind] = float((weight - target).detach().square().mean())
    assert ends["float32"] < 1e-4 and ends["8bit"] < 1e-3


def test_memory_is_counted_as_it_is() -> None:
    model = Three()
    learner = loop.Learner(model, settings(), 10)  # type: ignore[arg-type]
    give_gradients(model, 0)
    learner.step()
    kept = learner.tensors("three")["three-optimizer"]
    held = sum(
        value.numel() * value.element_size()
        for name, value in kept.items()
        if name not in ("steps", "skipped")
    )
    assert held == moments.moment_bytes(model.parameters(), settings())
    large = 33 * 512
    assert held == 2 * (large + 4 * large // 256) + 2 * 4 * (64 + 5000)
    assert moments.moment_bytes(model.parameters(), settings(moments="float32")) == 8 * (large + 5064)


@pytest.mark.parametrize("kind", ["8bit", "float32"])
def test_a_resumed_learner_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    unbroken, broken, resumed = Three(), Three(), Three()

    def learn(learner: loop.Learner, model: nn.Module, first: int, last: int) -> None:
        for step in range(first, last):
            give_gradients(model, step)
            learner.step()

    chosen = settings(moments=kind)
    learn(loop.Learner(unbroken, chosen, 10), unbroken, 0, 4)  # type: ignore[arg-type]
    first = loop.Learner(broken, chosen, 10)  # type: ignore[arg-type]
    learn(first, broken, 0, 2)
    checkpoint.save(tmp_path, {"step": 2}, first.tensors("three"))
    second = loop.Learner(resumed, chosen, 10)  # type: ignore[arg-type]
    second.restore(SimpleNamespace(resumed_from=checkpoint.latest(tmp_path)), "three")  # type: ignore[arg-type]
    learn(second, resumed, 2, 4)
    for expected, value in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, value)
