"""Selective activation checkpointing: some decoder blocks keep only their input and are computed twice.

The first blocks are chosen: when the backward pass comes to them, the others have given their activations
back already, so that what is computed again needs no room of its own. Attention layouts, autocast and
adapters go through unchanged. transformers' own switch recomputes all blocks or none, and only in training
mode, in which trimtab never puts a model.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder blocks, in the order in which they are computed."""
    return [module for module in model.base_model.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute_first(model: PreTrainedModel, count: int) -> None:
    """Compute the first `count` blocks a second time in the backward pass, and only those, from now on."""
    for place, block in enumerate(blocks(model)):
        vars(block).pop("forward", None)
        if place < count:
            # A partial, not a closure: a deep copy of the model then computes with its own blocks.
            vars(block)["forward"] = partial(_twice, block)


def _twice(block: nn.Module, *args: Any, **keywords: Any) -> Any:
    # No dropout, so no random state to keep. Where no gradients are computed, nothing is done twice.
    return checkpoint(
        type(block).forward, block, *args, use_reentrant=False, preserve_rng_state=False, **keywords
    )
