"""Which weights a response was drawn from: a digest of every bit of a model's weights, and its comparison.

A sampler works on copies (rounded, packed) of weights that somebody else trains. What can go stale: an engine
that keeps its copies over an update, an engine with a model of its own that nobody updates, and adapters that
are switched off, or not there, where responses are drawn. All three leave the digest that the copies were
made with unlike the learner's. What it cannot see is a computation that goes wrong on the right weights: that
is what comparing log-probabilities is for (`train.ppo_experience`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trimtab.errors import RunError
from trimtab.rollout.types import Rollout

WORD = 8
"""Bytes that are added as one number."""
RUN = 256
"""Words of which only the sum is looked at: the sums of all runs are hashed in their order."""


def digest(model: nn.Module) -> str:
    """32 hexadecimal digits that follow from every bit of the model's weights, and from nothing else.

    Sums of 64-bit words, modulo 2^64, over runs of 2 KiB, and a hash of all sums with each weight's name,
    type and shape: one pass at the speed of memory. One weight that moves always changes it, and so do two
    tensors, or two runs, that have changed places. Only changes within one run that cancel to the last bit,
    and another order of a run's words, go unseen.

    Whether adapters are switched on is a part of it; buffers are not, because no update moves them.

    Args:
        model: on any device, in any types; read, never changed.
    """
    found = hashlib.blake2b(digest_size=16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            found.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            found.update(_sums(weight))
    for name, module in model.named_modules():
        # peft's layers say it as a bool; transformers' models have a method of this name.
        if isinstance(off := getattr(module, "disable_adapters", None), bool):
            found.update(f"{name} {'off' if off else module.active_adapters}\n".encode())
    return found.hexdigest()


def require_drawn_from(model: nn.Module, rollouts: Iterable[Rollout]) -> None:
    """Refuse responses of an engine whose weights are not the learner's.

    Args:
        model: the learner, as it is now.
        rollouts: those that do not say what they were drawn from (`Rollout.drawn_from`) are let pass.
    Raises:
        RunError: some were drawn from other weights.
    """
    said = {rollout.drawn_from for rollout in rollouts} - {None}
    if not said:
        return
    now = digest(model)
    if others := sorted(str(one) for one in said - {now}):
        raise RunError(
            "the sampler does not have the learner's weights",
            where="sampling",
            found=f"responses from weights {others[0][:12]}; the learner's are {now[:12]}",
            fix="give the sampler the learner's weights after every update, adapters included",
        )


def _sums(weight: Tensor) -> bytes:
    """The sum of each run of words, and what does not fill a run as it is."""
    raw = weight.detach().reshape(-1).view(torch.uint8)
    if raw.storage_offset() % WORD:  # a part of a larger tensor, which cannot be read as words
        raw = raw.clone()
    whole = len(raw) - len(raw) % (RUN * WORD)
    sums = raw[:whole].view(torch.int64).view(-1, RUN).sum(1)
    return b"".join(part.cpu().numpy().tobytes() for part in (sums, raw[whole:]))
