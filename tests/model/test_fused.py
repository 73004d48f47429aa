"""Norms and gated feed-forward parts with fewer passes, beside transformers' own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tiny import tiny_gpt2, tiny_llama, tiny_qwen2, tiny_qwen3
from trimtab.model import fused
from trimtab.model.fused import fuse


def replaced(model: nn.Module) -> list[str]:
    """Embeddings aside: tests/losses/test_tables.py."""
    return [
        name
        for name, module in model.named_modules()
        if "forward" in vars(module) and not isinstance(module, nn.Embedding)
    ]


def outcome(model: PreTrainedModel) -> list[Tensor]:
    """Hidden states, and the gradients of something made of them."""
    model.zero_grad()
    ids = torch.randint(3, 250, (2, 17), generator=torch.Generator().manual_seed(1))
    states = model.base_model(input_ids=ids).last_hidden_state
    (states * torch.linspace(-1, 1, states.shape[-1], dtype=states.dtype)).sum().backward()
    return [states.detach(), *(p.grad for p in model.base_model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("build", "norms"), [(tiny_llama, 2), (tiny_qwen2, 2), (tiny_qwen3, 4), (tiny_gpt2, 0)]
)
def test_values_and_gradients_stay_what_they_are(build: Callable[[], PreTrainedModel], norms: int) -> None:
    plain = build()
    faster = fuse(copy.deepcopy(plain))
    layers = plain.config.num_hidden_layers
    assert len(replaced(faster)) == layers * (norms + bool(norms))
    assert not any(name.endswith("model.norm") for name in replaced(faster))
    for one, other in zip(outcome(faster), outcome(plain), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_gradients_by_differences() -> None:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    def norm(hidden: Tensor, weight: Tensor) -> Any:
        return fused._RootMeanSquareNorm.apply(hidden, weight, 0.1, torch.float64)  # type: ignore[no-untyped-call]

    assert torch.autograd.gradcheck(norm, (leaf(2, 3, 5), leaf(5)))
    assert torch.autograd.gradcheck(fused._SiluProduct.apply, (leaf(3, 4), leaf(3, 4)))


def test_a_norm_gives_what_the_projections_behind_it_multiply() -> None:
    model = fuse(tiny_llama())
    norm = model.base_model.layers[0].input_layernorm
    hidden = torch.randn(3, model.config.hidden_size)
    exact = norm(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = norm(hidden)
    assert exact.dtype == torch.float32 and torch.equal(rounded, exact.bfloat16())


class OffsetNorm(nn.Module):
    """A norm with the usual names and another formula, as some families have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((6,), 0.1))
        self.variance_epsilon = 1e-6

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


def test_another_formula_behind_the_same_names_is_left_alone() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([OffsetNorm()])})
    assert replaced(fuse(model)) == []


def test_another_activation_is_left_alone() -> None:
    model = tiny_llama()
    for layer in model.base_model.layers:
        layer.mlp.act_fn = nn.GELU()
    assert not any(name.endswith("mlp") for name in replaced(fuse(model)))


def test_a_copy_of_a_fused_model_has_its_own_weights() -> None:
    model = fuse(tiny_llama())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    hidden = torch.randn(3, model.config.hidden_size)
    assert twin.base_model.layers[0].input_layernorm(hidden).abs().max() > 0


def test_a_third_less_is_kept_for_the_backward_pass() -> None:
    def kept(model: PreTrainedModel) -> int:
        sizes: dict[int, Tensor] = {}
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                sizes[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            model.base_model(input_ids=torch.randint(3, 250, (1, 400)))
        return sum(tensor.untyped_storage().nbytes() for tensor in sizes.values())

    assert kept(fuse(tiny_llama())) < 0.75 * kept(tiny_llama())
