"""What a policy says about responses: the one log-probability path that every stage takes.

Dimensions: T = tokens in a row, N = its response tokens, V = vocabulary. Unit: nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Codec
from trimtab.losses import logprobs
from trimtab.model import load
from trimtab.model.device import Numerics, require_memory
from trimtab.model.packed import hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Policy:
    """A language model with its tokenizer, and where and how it computes."""

    model: PreTrainedModel
    codec: Codec
    numerics: Numerics
    source: str
    """What it was loaded from."""


def load_policy(source: str, numerics: Numerics, *, bytes_per_parameter: int) -> Policy:
    """Load a policy in float32, without dropout, with packed attention.

    Args:
        bytes_per_parameter: that the caller will need in all, moments and gradients included.

    Raises:
        ModelError: it cannot be loaded, or it needs what trimtab does not compute.
        ResourceError: it would not fit into memory.
    """
    needed = load.parameter_count(source) * bytes_per_parameter
    require_memory(numerics.device, needed, source)
    return Policy(
        load.load_causal(source, device=numerics.device), load.load_tokenizer(source), numerics, source
    )


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its head: token ids to hidden states."""
    module: nn.Module = model.base_model
    return module


def head(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """The vocabulary projection: weight [V, D] and, where there is one, bias [V]."""
    projection = model.get_output_embeddings()
    assert projection is not None, "load_causal gives models with a vocabulary head"
    return projection.weight, getattr(projection, "bias", None)


def response_states(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """Hidden states at the positions that predict the response tokens: [N, model size].

    The vocabulary projection comes after this choice, so prompts never reach it.
    """
    return hidden_states(backbone(model), row)[row.predictors]


def response_logprobs(model: PreTrainedModel, row: PackedRow, *, temperature: float = 1.0) -> Tensor:
    """log p of each response token given its prompt and what came before it: [N] float32."""
    weight, bias = head(model)
    return logprobs.token_logprobs(
        response_states(model, row), weight, bias, row.targets, temperature=temperature
    )


def response_logprobs_and_entropy(
    model: PreTrainedModel, row: PackedRow, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`response_logprobs`, and the entropy of the model's choice at each token: [N] float32 each."""
    return logprobs.token_logprobs_and_entropy(
        response_states(model, row), *head(model), row.targets, temperature=temperature
    )


def response_likeness(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """How typical each response token is of what the model would sample: [N] nats, no gradient."""
    with torch.no_grad():
        states = response_states(model, row)
    return logprobs.token_likeness(states, *head(model), row.targets)


@torch.no_grad()
def response_kl(policy: PreTrainedModel, reference: PreTrainedModel, row: PackedRow) -> Tensor:
    """KL(policy || reference) over the whole vocabulary at each response token: [N] nats."""
    return logprobs.token_kl(
        response_states(policy, row), *head(policy), response_states(reference, row), *head(reference)
    )
