"""What a preference loss measures the policy against: the policy as it was, or one that follows it.

The one that stays is a list of log-probabilities, computed once before training and kept: in the run
folder, so that a resumed run, whose policy has moved, has the same; and between runs. The one that moves
(TR-DPO) is a second set of weights, which computes each batch anew.

Dimensions: N = response tokens.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.model.passes import over_rows, response_tokens
from trimtab.model.policy import Policy, response_likeness, response_logprobs
from trimtab.runs import progress
from trimtab.runs.cost import Part
from trimtab.runs.files import replace_file
from trimtab.runs.run import Run
from trimtab.train import reference_cache
from trimtab.train.reference_cache import Kept
from trimtab.train.settings import DPOSettings

COMPUTE = {"policy": response_logprobs, "reference": response_logprobs, "likeness": response_likeness}
"""How each value of a token is computed, from a model and a row."""
GIGABYTE = 10**9


class Reference(Protocol):
    """The reference of the training examples."""

    def of(self, indices: Sequence[int]) -> list[Tensor]:
        """Log-probabilities of the response tokens of these examples; empty where the loss reads none."""
        ...

    def follow(self, steps: int) -> None:
        """Told after each optimizer step how many have been done."""
        ...

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What a checkpoint needs of it."""
        ...


class Still:
    """The policy as it was given to the stage."""

    def __init__(self, logprobs: Sequence[Tensor]) -> None:
        self._logprobs = logprobs

    def of(self, indices: Sequence[int]) -> list[Tensor]:
        return [self._logprobs[index] for index in indices] if self._logprobs else []

    def follow(self, steps: int) -> None:
        pass

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {}


class Moving:
    """A copy of the policy that moves towards it: reference <- alpha policy + (1 - alpha) reference.

    Source: Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656: soft updates for alpha < 1, hard for 1.
    See docs/math.md#tr-dpo.
    """

    def __init__(
        self, policy: Policy, examples: Sequence[Example], settings: DPOSettings, run: Run, *, every: int
    ) -> None:
        self._policy = policy
        self._examples = examples
        self._settings = settings
        self._every = every
        self._own = replace(policy, model=copy.deepcopy(policy.model).requires_grad_(False))
        if run.resumed_from is not None:
            self._blend(run.resumed_from.tensors("moving-reference"), 1.0)

    def of(self, indices: Sequence[int]) -> list[Tensor]:
        batch = [self._examples[index] for index in indices]
        return over_tokens(self._own, batch, "reference", self._settings, "reference")

    def follow(self, steps: int) -> None:
        if steps % self._every == 0:
            self._blend(dict(self._policy.model.named_parameters()), self._settings.reference.alpha)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {"moving-reference": dict(self._own.model.named_parameters())}

    @torch.no_grad()
    def _blend(self, other: Mapping[str, Tensor], share: float) -> None:
        for name, parameter in self._own.model.named_parameters():
            # Not lerp, which would give a + (b - a) for a share of 1: not b to the last bit.
            parameter.mul_(1 - share).add_(other[name].to(parameter.device), alpha=share)


def logprobs_before(
    policy: Policy, examples: Sequence[Example], settings: DPOSettings, run: Run, name: str
) -> list[Tensor]:
    """Log-probabilities of each example's response tokens under the policy as it was given.

    Taken from the run folder, else from the cache, else computed; run.json says which, and what it took.

    Args:
        name: of the file in the run folder.
    """
    if not examples:
        return []
    path = run.folder / f"{name}.safetensors"
    if path.exists():
        account = (run.earlier_fact("reference_passes") or {}).get(name)
    else:
        assert run.step == 0, "a checkpoint is only written after the reference"
        logprobs, account = _pass(policy, examples, settings, name)
        with replace_file(path) as temporary:
            save_file({"logprobs": logprobs}, temporary)
    run.describe(reference_passes={**run.facts.get("reference_passes", {}), name: account})
    return list(torch.split(load_file(path)["logprobs"], [response_tokens(one) for one in examples]))


def over_tokens(
    policy: Policy, examples: Sequence[Example], kind: str, settings: DPOSettings, name: str
) -> list[Tensor]:
    """One value a response token, for each example; without gradients."""
    return over_rows(
        examples,
        partial(COMPUTE[kind], policy.model),
        response_tokens,
        row_tokens=settings.row_tokens,
        numerics=policy.numerics,
        name=name,
    )


def _pass(
    policy: Policy, examples: Sequence[Example], settings: DPOSettings, name: str
) -> tuple[Tensor, dict[str, Any]]:
    """The log-probabilities, [N], and for run.json where they are from and what computing them took."""
    # With a reference that moves, log-probabilities of the one that was given serve the dev set alone.
    limit = 0 if settings.reference.every else round(settings.reference.cache * GIGABYTE)
    key = reference_cache.key_of(policy, examples) if limit else ""
    found = reference_cache.read(key, sum(map(response_tokens, examples))) if limit else None
    if found is not None:
        progress.say(f"  {name}: from the cache ({reference_cache.folder()}), no pass over the data")
        return found.logprobs, {"from": "the cache", **asdict(found.spent)}
    wall, cpu = time.perf_counter(), time.process_time()
    logprobs = torch.cat(over_tokens(policy, examples, "reference", settings, name))
    kept = Kept(logprobs, Part(time.perf_counter() - wall, time.process_time() - cpu))
    if limit:
        reference_cache.write(key, kept, limit)
    return logprobs, {"from": "this run", **asdict(kept.spent)}
