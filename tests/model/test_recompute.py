"""Blocks that are computed twice give the gradients of blocks that are computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tiny import tiny_gpt2, tiny_llama, tiny_qwen3
from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Response
from trimtab.model import packed
from trimtab.model.policy import response_logprobs
from trimtab.model.recompute import blocks, recompute_first

ROW = pack(
    [
        Example((5, 6, 7), (Response((8, 9), True), Response((10, 11, 12), True))),
        Example((13,), (Response((14, 15, 16, 17), False),)),
    ]
)
KINDS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "qwen3": tiny_qwen3}


def built(kind: str) -> Any:
    model = KINDS[kind](**({"n_layer": 3} if kind == "gpt2" else {"num_hidden_layers": 3}))
    model.set_attn_implementation(packed.NAME)
    return model


def gradients(model: Any, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
        values = response_logprobs(model, ROW)
    (values * torch.linspace(0.5, 2, len(values))).sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def counted(model: Any) -> list[int]:
    """How often each block's attention was called, from now on."""
    calls = [0] * len(blocks(model))

    def hook(place: int) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[place] += 1

        return count

    for place, block in enumerate(blocks(model)):
        attention = getattr(block, "self_attn", None) or block.attn
        attention.register_forward_hook(hook(place))
    return calls


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same(kind: str, dtype: torch.dtype | None) -> None:
    model = built(kind)
    expected = gradients(model, dtype)
    for count in (1, 3):
        recompute_first(model, count)
        found = gradients(model, dtype)
        assert found.keys() == expected.keys() and len(found) > 10
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_first_blocks_and_only_those_are_computed_twice(count: int) -> None:
    model = built("llama")
    calls = counted(model)
    recompute_first(model, 3)
    recompute_first(model, count)
    gradients(model, None)
    assert calls == [2] * count + [1] * (3 - count)


def test_without_gradients_nothing_is_computed_twice() -> None:
    model = built("llama")
    calls = counted(model)
    recompute_first(model, 3)
    with torch.no_grad():
        response_logprobs(model, ROW)
    assert calls == [1, 1, 1]


def test_a_copy_computes_with_its_own_blocks() -> None:
    model = built("llama")
    recompute_first(model, 2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    expected = gradients(built("llama"), None)
    for name, value in gradients(other, None).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7, msg=name)
