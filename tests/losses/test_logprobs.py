"""Log-probabilities and divergences by tiles against whole softmaxes."""

from __future__ import annotations

import pytest
import torch

from trimtab.losses import logprobs
from trimtab.losses.logprobs import token_kl, token_logprobs


def problem(count: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, 6, generator=generator, requires_grad=True)
    weight = torch.randn(9, 6, generator=generator, requires_grad=True)
    bias = torch.randn(9, generator=generator, requires_grad=True)
    return hidden, weight, bias, torch.randint(0, 9, (count,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tile", [4, 512])
def test_value_and_gradient(temperature: float, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "TILE", tile)
    hidden, weight, bias, targets = problem()
    found = token_logprobs(hidden, weight, bias, targets, temperature=temperature)
    logits = (hidden @ weight.T + bias) / temperature
    odds = logits.exp()
    expected = (odds.gather(1, targets[:, None])[:, 0] / odds.sum(1)).log()
    torch.testing.assert_close(found, expected)
    coefficients = torch.linspace(-1, 2, len(targets))
    ours = torch.autograd.grad((found * coefficients).sum(), (hidden, weight, bias))
    theirs = torch.autograd.grad((expected * coefficients).sum(), (hidden, weight, bias))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_no_tokens() -> None:
    hidden, weight, bias, targets = problem()
    assert token_logprobs(hidden[:0], weight, bias, targets[:0]).shape == (0,)


def test_float32_even_under_autocast() -> None:
    hidden, weight, bias, targets = problem()
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logprobs(hidden, weight, bias, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_logprobs(hidden, weight, bias, targets))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_is_positive(temperature: float) -> None:
    hidden, weight, bias, targets = problem()
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(hidden, weight, bias, targets, temperature=temperature)


def test_kl_is_its_definition_and_zero_for_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "TILE", 4)
    hidden, weight, bias, _ = problem()
    other = torch.randn(11, 6, generator=torch.Generator().manual_seed(1))
    p = torch.softmax(hidden @ weight.T + bias, 1)
    q = torch.softmax(other @ weight.T + bias, 1)
    torch.testing.assert_close(
        token_kl(hidden, weight, bias, other, weight, bias), (p * (p / q).log()).sum(1)
    )
    same = token_kl(hidden, weight, bias, hidden, weight, bias)
    torch.testing.assert_close(same, torch.zeros(11))
