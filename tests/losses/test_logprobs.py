"""Log-probabilities, divergences and likeness by tiles, against whole softmaxes in plain floats."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.losses import logprobs
from trimtab.losses.logprobs import (
    token_kl,
    token_likeness,
    token_logprobs,
    token_logprobs_and_entropy,
)

VOCABULARY = 9
Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(count: int = 11, dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
    """Hidden states, weight, bias (leaves) and targets."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    hidden, weight, bias = leaf(count, 6), leaf(VOCABULARY, 6), leaf(VOCABULARY)
    return hidden, weight, bias, torch.randint(0, VOCABULARY, (count,), generator=generator)


def softmaxes(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float = 1.0
) -> list[list[float]]:
    """Probabilities of the whole vocabulary at each position, one float at a time."""
    levels = [0.0] * len(weight) if bias is None else bias.tolist()
    found = []
    for state in hidden.tolist():
        logits = [
            math.fsum(s * w for s, w in zip(state, row, strict=True)) + level
            for row, level in zip(weight.tolist(), levels, strict=True)
        ]
        odds = [math.exp(logit / temperature) for logit in logits]
        found.append([one / math.fsum(odds) for one in odds])
    return found


def exactly(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-12, abs=1e-12)


@pytest.fixture(params=[(1, 1), (4, 4), (11, 9), (512, 2), (3, 4096)])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of one entry, that divide neither tokens nor vocabulary, that are all, and larger."""
    rows, columns = request.param
    monkeypatch.setattr(logprobs, "ROWS", rows)
    monkeypatch.setattr(logprobs, "COLUMNS", columns)


# --- Sampled tokens ---


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("biased", ["with bias", "without"])
def test_logprobs_are_logs_of_the_softmax(temperature: float, biased: str, tile: None) -> None:
    hidden, weight, bias, targets = problem()
    level = bias if biased == "with bias" else None
    found = token_logprobs(hidden, weight, level, targets, temperature=temperature)
    tables = softmaxes(hidden, weight, level, temperature)
    expected = [math.log(table[target]) for table, target in zip(tables, targets.tolist(), strict=True)]
    assert found.tolist() == exactly(expected)
    assert found.shape == (11,) and found.dtype == torch.float64


def test_the_temperature_is_1_if_none_is_given() -> None:
    hidden, weight, bias, targets = problem()
    expected = token_logprobs(hidden, weight, bias, targets, temperature=1)
    assert torch.equal(token_logprobs(hidden, weight, bias, targets), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_gradients_of_logprobs_in_closed_form(temperature: float, tile: None) -> None:
    """By the logits: (one-hot - softmax) / temperature, carried to states, weight and bias by hand."""
    hidden, weight, bias, targets = problem()
    coefficients = torch.linspace(-1, 2, 11, dtype=torch.float64)
    found = token_logprobs(hidden, weight, bias, targets, temperature=temperature)
    ours = torch.autograd.grad((found * coefficients).sum(), (hidden, weight, bias))
    tables = torch.tensor(softmaxes(hidden, weight, bias, temperature), dtype=torch.float64)
    by_logits = -tables
    by_logits[range(11), targets] += 1
    by_logits = by_logits * coefficients[:, None] / temperature
    theirs = by_logits @ weight, by_logits.T @ hidden, by_logits.sum(0)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("biased", ["with bias", "without"])
def test_entropy_is_its_definition(temperature: float, biased: str, tile: None) -> None:
    hidden, weight, bias, targets = problem()
    level = bias if biased == "with bias" else None
    logprobs, entropy = token_logprobs_and_entropy(hidden, weight, level, targets, temperature=temperature)
    tables = softmaxes(hidden, weight, level, temperature)
    expected = [-math.fsum(p * math.log(p) for p in table) for table in tables]
    assert entropy.tolist() == exactly(expected)
    assert torch.equal(logprobs, token_logprobs(hidden, weight, level, targets, temperature=temperature))
    assert entropy.shape == (11,) and entropy.dtype == torch.float64


def test_gradients_of_entropy_in_closed_form(tile: None) -> None:
    """By the logits: -p (log p + H) / temperature, carried to states, weight and bias by hand."""
    hidden, weight, bias, targets = problem()
    coefficients = torch.linspace(-1, 2, 11, dtype=torch.float64)
    _, entropy = token_logprobs_and_entropy(hidden, weight, bias, targets, temperature=0.7)
    ours = torch.autograd.grad((entropy * coefficients).sum(), (hidden, weight, bias))
    p = torch.tensor(softmaxes(hidden, weight, bias, 0.7), dtype=torch.float64)
    by_logits = -p * (p.log() - (p * p.log()).sum(1, keepdim=True)) * coefficients[:, None] / 0.7
    theirs = by_logits @ weight, by_logits.T @ hidden, by_logits.sum(0)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_a_distribution_that_is_sure_has_no_entropy_and_an_even_one_the_most() -> None:
    weight = torch.eye(5, dtype=torch.float64)
    hidden = torch.tensor([[1000.0, 0, 0, 0, 0], [3.0, 3, 3, 3, 3]], dtype=torch.float64)
    _, entropy = token_logprobs_and_entropy(hidden, weight, None, torch.tensor([0, 4]))
    assert entropy.tolist() == exactly([0.0, math.log(5)])


def test_gradients_of_logprobs_by_differences() -> None:
    hidden, weight, bias, targets = problem(count=2)
    found = token_logprobs(hidden, weight, bias, targets, temperature=0.7).sum()
    gradients = torch.autograd.grad(found, (hidden, weight))

    def plain() -> float:
        tables = softmaxes(hidden, weight, bias, 0.7)
        return math.fsum(math.log(table[t]) for table, t in zip(tables, targets.tolist(), strict=True))

    for leaf, gradient in zip((hidden, weight), gradients, strict=True):
        for place in ((0, 0), (1, 3)):
            ends = []
            for step in (1e-5, -2e-5):
                with torch.no_grad():
                    leaf[place] += step
                ends.append(plain())
            with torch.no_grad():
                leaf[place] += 1e-5
            assert gradient[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_the_vocabulary_sums_to_1_at_every_temperature(temperature: float) -> None:
    hidden, weight, bias, _ = problem(count=1)
    every = torch.arange(VOCABULARY)
    found = token_logprobs(hidden.expand(VOCABULARY, -1), weight, bias, every, temperature=temperature)
    assert found.exp().sum().item() == pytest.approx(1, rel=1e-12)


def test_a_ratio_starts_at_1_only_with_the_temperature_of_sampling() -> None:
    inputs = problem()
    sampled = token_logprobs(*inputs, temperature=0.7)
    assert torch.equal(token_logprobs(*inputs, temperature=0.7), sampled)
    assert (token_logprobs(*inputs) - sampled).abs().max() > 0.1


@pytest.mark.parametrize("temperature", [0.0, -0.0, -1.0, math.nan])
def test_a_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"^temperature must be > 0, got {re.escape(str(temperature))}$"):
        token_logprobs(*problem(), temperature=temperature)


def test_a_temperature_may_be_as_low_as_evaluation_wants() -> None:
    """0.01 all but picks the likeliest token."""
    hidden, weight, bias, _ = problem()
    likeliest = (hidden @ weight.T + bias).argmax(1)
    found = token_logprobs(hidden, weight, bias, likeliest, temperature=0.01)
    assert (found > -0.05).all() and (found <= 0).all()


@pytest.mark.parametrize("scale", [1e4, 1e10])
def test_far_logits_stay_finite(scale: float) -> None:
    hidden, weight, bias, targets = problem(dtype=torch.float32)
    found = token_logprobs(hidden * scale, weight, bias, targets)
    assert torch.isfinite(found).all() and (found <= 0).all()
    for gradient in torch.autograd.grad(found.sum(), (hidden, weight, bias)):
        assert torch.isfinite(gradient).all()


# --- The whole vocabulary ---


@pytest.mark.parametrize("biased", ["with bias", "without"])
def test_kl_is_its_definition(biased: str, tile: None) -> None:
    """Two models that differ in states, weight and bias, so that none can be taken for another."""
    hidden, weight, bias, _ = problem()
    other, other_weight, other_bias, _ = problem(seed=1)
    levels = (bias, other_bias) if biased == "with bias" else (None, None)
    found = token_kl(hidden, weight, levels[0], other, other_weight, levels[1])
    sides = softmaxes(hidden, weight, levels[0]), softmaxes(other, other_weight, levels[1])
    expected = [
        math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for p, q in zip(*sides, strict=True)
    ]
    assert found.tolist() == exactly(expected)
    assert found.dtype == torch.float64 and (found >= 0).all()


def test_one_side_may_have_a_bias_and_the_other_none() -> None:
    hidden, weight, bias, _ = problem(count=3)
    nothing = torch.zeros(VOCABULARY, dtype=torch.float64)
    half = token_kl(hidden, weight, bias, hidden, weight, None)
    assert torch.equal(half, token_kl(hidden, weight, bias, hidden, weight, nothing))
    assert torch.equal(
        token_kl(hidden, weight, None, hidden, weight, bias),
        token_kl(hidden, weight, nothing, hidden, weight, bias),
    )
    assert (half > 0).all()


def test_equal_models_are_exactly_0_apart() -> None:
    hidden, weight, bias, _ = problem()
    assert token_kl(hidden, weight, bias, hidden, weight, bias).tolist() == [0.0] * 11


def test_kl_is_a_constant() -> None:
    hidden, weight, bias, _ = problem()
    assert not token_kl(hidden, weight, bias, hidden * 2, weight, bias).requires_grad


# --- Likeness ---


@pytest.mark.parametrize("biased", ["with bias", "without"])
def test_likeness_from_whole_softmaxes(biased: str, tile: None) -> None:
    hidden, weight, bias, targets = problem()
    level = bias if biased == "with bias" else None
    found = token_likeness(hidden, weight, level, targets)
    expected = [
        math.log(table[target] / math.fsum(p * p for p in table))
        for table, target in zip(softmaxes(hidden, weight, level), targets.tolist(), strict=True)
    ]
    assert found.tolist() == exactly(expected)
    assert found.dtype == torch.float64 and found.shape == (11,)


def test_e_to_the_likeness_is_1_on_average_over_the_models_own_tokens() -> None:
    hidden, weight, bias, _ = problem(count=3)
    every = torch.arange(VOCABULARY)
    for state, table in zip(hidden, softmaxes(hidden, weight, bias), strict=True):
        likeness = token_likeness(state.expand(VOCABULARY, -1), weight, bias, every)
        assert math.fsum(p * math.exp(one) for p, one in zip(table, likeness.tolist(), strict=True)) == (
            pytest.approx(1, rel=1e-12)
        )


def test_where_all_tokens_are_equally_likely_each_is_typical() -> None:
    hidden, weight, _, targets = problem()
    assert token_likeness(hidden * 0, weight, None, targets).tolist() == exactly([0.0] * 11)


def test_likeness_is_a_constant() -> None:
    assert not token_likeness(*problem()).requires_grad


# --- Types, no tokens, memory ---


def functions(inputs: Problem) -> dict[str, Tensor]:
    hidden, weight, bias, targets = inputs
    return {
        "logprobs": token_logprobs(hidden, weight, bias, targets, temperature=0.7),
        "kl": token_kl(hidden, weight, bias, hidden.flip(0), weight, bias),
        "likeness": token_likeness(hidden, weight, bias, targets),
    }


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize(
    ("dtype", "exact"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_one_value_a_token_in_float32_or_better(count: int, dtype: torch.dtype, exact: torch.dtype) -> None:
    for name, found in functions(problem(count, dtype)).items():
        assert found.shape == (count,) and found.dtype == exact, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_computed_in_float32(dtype: torch.dtype) -> None:
    """From the same rounded weights: only the weights are rounded, no logit."""
    hidden, weight, bias, targets = problem(dtype=dtype)
    whole = functions((hidden.float(), weight.float(), bias.float(), targets))
    for name, found in functions((hidden, weight, bias, targets)).items():
        assert torch.equal(found, whole[name]), name


def test_kl_is_float32_even_under_autocast() -> None:
    hidden, weight, bias, _ = problem(dtype=torch.float32)
    whole = token_kl(hidden, weight, bias, hidden.flip(0), weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(token_kl(hidden, weight, bias, hidden.flip(0), weight, bias), whole)


# --- bfloat16 products ---


def large_problem(level: float) -> Problem:
    """Logits around a level, as language models have them: there bfloat16 has steps of level / 256."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(300, 64, generator=generator)
    weight[:, 0] = 1
    hidden = torch.randn(40, 64, generator=generator) * 0.4
    hidden[:, 0] = level
    rounded = weight.bfloat16().float().requires_grad_(), hidden.bfloat16().float().requires_grad_()
    targets = torch.randint(0, 300, (40,), generator=generator)
    return rounded[1], rounded[0], torch.zeros(300, requires_grad=True), targets


@pytest.mark.parametrize("level", [0.0, 24.0, -40.0])
def test_under_autocast_only_states_and_weights_are_rounded(level: float) -> None:
    """These are representable, so what is left is far below the step of a logit."""
    hidden, weight, _, targets = large_problem(level)
    logits = (hidden.double() @ weight.double().T).detach()
    expected = torch.log_softmax(logits, 1)[range(40), targets]
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logprobs(hidden, weight, None, targets)
    assert found.dtype == torch.float32
    # Distances from the target's logit are rounded, by 2^-8 of themselves at most.
    distance = logits.amax(1) - logits[range(40), targets]
    error = (found.double() - expected).abs()
    assert (error <= (distance + 0.2) / 256).all()
    plain = torch.log_softmax((hidden.bfloat16() @ weight.bfloat16().T).float(), 1)[range(40), targets]
    if level:
        assert error.mean() < 0.2 * (plain.double() - expected).abs().mean()


@pytest.mark.parametrize("biased", ["with bias", "without"])
def test_gradients_under_autocast_are_close_to_exact_ones(biased: str) -> None:
    hidden, weight, bias, targets = large_problem(10.0)
    level = bias if biased == "with bias" else None
    leaves = (hidden, weight, bias)[: 3 if level is not None else 2]
    coefficients = torch.linspace(-1, 2, 40)

    def gradients() -> tuple[Tensor, ...]:
        logprobs, entropy = token_logprobs_and_entropy(hidden, weight, level, targets, temperature=0.8)
        alone = token_logprobs(hidden, weight, level, targets, temperature=0.8)
        return torch.autograd.grad(((logprobs + alone + 0.5 * entropy) * coefficients).sum(), leaves)

    exact = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients()
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() < 0.02 * other.norm()


def test_a_target_far_below_the_likeliest_overflows_nothing() -> None:
    """e^300 is beyond float32: the sum is taken relative to the largest seen so far."""
    weight = torch.eye(4)
    hidden = torch.tensor([[300.0, 0, -300, 0]])
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            found = token_logprobs(hidden.expand(4, -1), weight, None, torch.arange(4))
        assert found.tolist() == pytest.approx([0, -300, -600, -300], abs=1e-3)


def test_a_frozen_model_below_still_trains_the_projection(tile: None) -> None:
    hidden, weight, bias, targets = problem()
    expected = torch.autograd.grad(token_logprobs(hidden, weight, bias, targets).sum(), weight)
    found = torch.autograd.grad(token_logprobs(hidden.detach(), weight, bias, targets).sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.fixture(params=[0, 300, 2**30])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes for odds that are kept: none, those of some tiles, those of all."""
    monkeypatch.setattr(logprobs, "KEPT", request.param)
    monkeypatch.setattr(logprobs, "ROWS", 4)
    monkeypatch.setattr(logprobs, "COLUMNS", 4)
    size: int = request.param
    return size


def test_gradients_do_not_depend_on_what_is_kept(room: int) -> None:
    hidden, weight, bias, targets = problem()
    coefficients = torch.linspace(-1, 2, 11, dtype=torch.float64)
    found = torch.autograd.grad(
        (token_logprobs(hidden, weight, bias, targets) * coefficients).sum(), (hidden, weight, bias)
    )
    whole = torch.log_softmax(hidden @ weight.T + bias, 1)[range(11), targets]
    expected = torch.autograd.grad((whole * coefficients).sum(), (hidden, weight, bias))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_no_more_is_kept_for_the_backward_pass_than_there_is_room_for(room: int) -> None:
    hidden, weight, bias, targets = problem()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(hidden, weight, bias, targets)
    odds = [tensor for tensor in kept if tensor.ndim == 2 and tensor.shape[1] <= 4 and len(tensor) <= 4]
    assert bool(odds) == bool(room)
    assert sum(tensor.numel() * 8 for tensor in odds) == min(room // 128 * 128, 11 * VOCABULARY * 8)
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept.clear()
        token_logprobs(hidden, weight, bias, targets)
    assert not kept


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that anything gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return found


@pytest.mark.parametrize("context", ["float32", "autocast"])
def test_nothing_larger_than_a_tile_or_the_weights_is_made(context: str) -> None:
    tokens, size, vocabulary = 1500, 8, 20_000
    hidden = torch.randn(tokens, size, requires_grad=True)
    weight = torch.randn(vocabulary, size, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,))
    with Largest() as largest, torch.autocast("cpu", torch.bfloat16, enabled=context == "autocast"):
        token_logprobs(hidden, weight, None, targets).sum().backward()
        logprobs, entropy = token_logprobs_and_entropy(hidden, weight, None, targets)
        (logprobs + entropy).sum().backward()
        token_kl(hidden, weight, None, hidden, weight, None)
        token_likeness(hidden, weight, None, targets)
    assert largest.elements == logprobs_tile() > vocabulary * size
    assert tokens * vocabulary > 10 * largest.elements


def logprobs_tile() -> int:
    return logprobs.ROWS * logprobs.COLUMNS
