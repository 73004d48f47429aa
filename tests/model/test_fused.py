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
from trimtab.losses.tables import adding_in_place
from trimtab.model import fused
from trimtab.model.device import Numerics
from trimtab.model.fused import fuse
from trimtab.model.rounded import rounded


def replaced(model: nn.Module) -> list[str]:
    """Matrices aside, which are below, and embeddings: tests/losses/test_tables.py."""
    return [
        name
        for name, module in model.named_modules()
        if "forward" in vars(module) and not isinstance(module, nn.Embedding | nn.Linear)
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


def test_gradients_behind_a_weight_of_zero_are_right() -> None:
    plain = tiny_llama()
    with torch.no_grad():
        plain.base_model.layers[0].input_layernorm.weight[3] = 0
    faster = fuse(copy.deepcopy(plain))
    assert any(name.endswith("0.input_layernorm") for name in replaced(faster))
    for one, other in zip(outcome(faster), outcome(plain), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_a_norm_keeps_what_the_projections_behind_it_keep_and_nothing_else_as_large() -> None:
    norm = fuse(tiny_llama()).base_model.layers[0].input_layernorm
    found = norm(torch.randn(7, norm.weight.numel(), requires_grad=True))
    kept = [one for one in found.grad_fn.saved_tensors if one.numel() > 7 * 2 and one.dim() > 1]
    assert [one.untyped_storage().data_ptr() for one in kept] == [found.untyped_storage().data_ptr()]


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

    assert kept(fuse(tiny_llama())) < 0.6 * kept(tiny_llama())


def rounded_outcome(model: PreTrainedModel, rows: int, hook: Callable[[Tensor], None] | None = None) -> None:
    """Adds gradients of several rows in bfloat16, of weights that are rounded once."""
    with Numerics(torch.device("cpu"), torch.bfloat16).training(model):
        for seed in range(rows):
            ids = torch.randint(3, 250, (1, 29 + seed), generator=torch.Generator().manual_seed(seed))
            states = model.get_input_embeddings()(ids)
            if hook is not None:
                states.register_hook(hook)
            with torch.autocast("cpu", torch.bfloat16):
                found = model.base_model(inputs_embeds=states).last_hidden_state
            with adding_in_place():
                found.float().square().sum().backward()


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2, tiny_qwen3])
def test_rounded_products_have_autocasts_gradients(build: Callable[[], PreTrainedModel]) -> None:
    faster, alike = fuse(build()), fuse(build())
    for module in alike.modules():
        if type(module) is nn.Linear:
            vars(module).pop("forward", None)
    rounded_outcome(faster, 3)
    rounded_outcome(alike, 3)
    for one, other in zip(faster.base_model.parameters(), alike.base_model.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).norm() <= 1e-3 * other.grad.norm()


def test_gradients_by_rounded_weights_are_added_as_they_come() -> None:
    """When a row's backward pass reaches the embeddings, nothing of the weights waits to be added."""
    model = fuse(tiny_llama())
    matrices = [module.weight for module in model.base_model.layers.modules() if type(module) is nn.Linear]
    at_the_end: list[list[Tensor]] = []
    rounded_outcome(
        model, 2, lambda _: at_the_end.append([w.grad.clone() for w in matrices if w.grad is not None])
    )
    assert len(at_the_end[1]) == len(matrices)
    for found, weight in zip(at_the_end[1], matrices, strict=True):
        assert weight.grad is not None and torch.equal(found, weight.grad)


def test_gradients_by_rounded_weights_that_autograd_collects() -> None:
    model = fuse(tiny_llama())
    weight = model.base_model.layers[0].mlp.down_proj.weight
    ids = torch.arange(3, 20).unsqueeze(0)
    with torch.autocast("cpu", torch.bfloat16):
        states = model.base_model(input_ids=ids).last_hidden_state
    (found,) = torch.autograd.grad(states.float().square().sum(), [weight])
    assert weight.grad is None and found.dtype == torch.float32 and bool(found.any())


def test_a_frozen_weight_has_no_gradient_and_passes_one_on() -> None:
    model = fuse(tiny_qwen2())
    for parameter in model.base_model.layers[1].parameters():
        parameter.requires_grad_(False)
    rounded_outcome(model, 1)
    assert all(parameter.grad is None for parameter in model.base_model.layers[1].parameters())
    assert all(bool(parameter.grad.any()) for parameter in model.base_model.layers[0].parameters())


def test_what_is_rounded_once_is_rounded_again_afterwards() -> None:
    model = fuse(tiny_llama())
    weight = model.base_model.layers[0].mlp.up_proj.weight
    with Numerics(torch.device("cpu"), torch.bfloat16).training(model):
        first = rounded(weight, torch.bfloat16)
        assert rounded(weight, torch.bfloat16) is first
    with torch.no_grad():
        weight.mul_(2)
    with Numerics(torch.device("cpu"), torch.bfloat16).training(model):
        assert torch.equal(rounded(weight, torch.bfloat16), weight.bfloat16())
    assert torch.equal(rounded(weight, torch.bfloat16), weight.bfloat16())
