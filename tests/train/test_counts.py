"""What a training step executes, counted without a clock: SmolLM2-135M's shapes, and nothing computed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import trimtab.model.packed  # noqa: F401  registers the attention
from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Response
from trimtab.model.policy import response_logprobs

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "training"))
from flops import Shape, minimum_flops

Lengths = list[tuple[int, tuple[int, ...]]]
"""Of each example: its prompt, its responses."""
SHAPE = Shape(layers=30, width=576, inner=1536, heads=9, key_value_heads=3, head_width=64, vocabulary=49_152)
ROWS: dict[str, Lengths] = {
    "pairs": [(100, (50, 44)), (131, (64, 20)), (90, (31, 64)), (192, (64, 64))],
    "no prompt to share": [(1, (128, 128))] * 4,
    "one long pair": [(600, (200, 200))],
    "demonstrations": [(140, (64,)), (30, (12,)), (192, (64,)), (70, (64,))],
}


@pytest.fixture(scope="module")
def model() -> Iterator[PreTrainedModel]:
    """Weights without contents."""
    config = LlamaConfig(
        hidden_size=SHAPE.width,
        intermediate_size=SHAPE.inner,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.key_value_heads,
        head_dim=SHAPE.head_width,
        vocab_size=SHAPE.vocabulary,
        tie_word_embeddings=True,
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield LlamaForCausalLM._from_config(config, attn_implementation="trimtab").eval()


def examples(lengths: Lengths) -> list[Example]:
    def ids(count: int) -> tuple[int, ...]:
        return tuple(range(3, 3 + count))

    return [
        Example(ids(prompt), tuple(Response(ids(length), True) for length in responses))
        for prompt, responses in lengths
    ]


class Widest(TorchDispatchMode):
    """The elements of the largest tensor that is made, weights and their gradients aside."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, Tensor) and one.numel() != SHAPE.vocabulary * SHAPE.width:
                self.elements = max(self.elements, one.numel())
        return found


@pytest.mark.parametrize("name", ROWS)
def test_a_step_executes_little_more_than_the_least_there_is(name: str, model: PreTrainedModel) -> None:
    lengths = ROWS[name]
    row = pack(examples(lengths))
    executed: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: executed.append(inputs[0].numel())
    )
    with torch.autocast("cpu", torch.bfloat16), FlopCounterMode(display=False) as forward:
        logprobs = response_logprobs(model, row)
    with FlopCounterMode(display=False) as backward:
        logprobs.sum().backward()
    hook.remove()
    assert executed == [sum(prompt + sum(responses) for prompt, responses in lengths)]
    needed = sum(
        minimum_flops(SHAPE, prompt, responses, outputs=SHAPE.vocabulary, scored=sum(responses))
        for prompt, responses in lengths
    )
    counted = forward.get_total_flops() + backward.get_total_flops()
    assert 1.0 <= counted / needed <= 1.05


def test_nothing_of_tokens_times_vocabulary_is_made(model: PreTrainedModel) -> None:
    row = pack(examples([(1, (500, 500))]))
    with Widest() as widest:
        with torch.autocast("cpu", torch.bfloat16):
            logprobs = response_logprobs(model, row)
        logprobs.sum().backward()
    assert widest.elements <= 4096 * SHAPE.width < row.targets.numel() * SHAPE.vocabulary / 20


def test_nothing_is_compiled(model: PreTrainedModel) -> None:
    """So that no length can make a step compile anything again."""
    from torch._dynamo.utils import counters

    before = dict(counters["stats"])
    for lengths in ([(7, (3, 2))], [(8, (3, 2))], [(9, (5, 2)), (2, (1, 1))]):
        response_logprobs(model, pack(examples(lengths))).sum().backward()
    assert dict(counters["stats"]) == before
