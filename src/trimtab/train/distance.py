"""How far a policy has come from where its stage began, along its own answers to dev prompts.

The policy that the stage began from is in memory for this measurement alone; with adapters it is the policy
with them switched off.

Dimensions: R = responses in a row, N = their tokens. Unit: nats per response.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Example
from trimtab.errors import ModelError, ResourceError
from trimtab.losses.logprobs import token_kl
from trimtab.model import adapters
from trimtab.model.passes import over_rows, response_count
from trimtab.model.policy import Policy, head, load_policy, response_kl, response_states
from trimtab.rollout.types import Rollout
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train.answers import answer_first, as_row
from trimtab.train.loop import FROZEN_BYTES
from trimtab.train.measures import Mean
from trimtab.train.settings import StageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def answer_and_compare(
    trained: Policy, dev_set: Sequence[Example], settings: StageSettings, run: Run, *, step: int
) -> None:
    """Answer the first few dev prompts; keep the answers, each with its KL to where the stage began.

    The mean is logged as `dev_kl`. On answers sampled at temperature 1 it estimates the sequence KL
    without bias (docs/math.md#kl-exact).
    """
    with run.meter.timed("evaluation"):
        answers = answer_first(trained, dev_set, settings)
        kl = _divergence(trained, answers, settings) if answers else []
    rows = [as_row(trained, one) for one in answers]
    run.sample(step, [{**row, "kl": nats} for row, nats in zip(rows, kl, strict=True)] if kl else rows)
    if len(kl) > 1:
        found = Mean(kl).interval(settings.seed)
        run.log(step, dev_kl=found.estimate, dev_kl_low=found.low, dev_kl_high=found.high, dev_kl_n=found.n)
        progress.say(f"  dev: KL {found.text()} nats from where it began, over {found.n} answers")


def _divergence(trained: Policy, answers: Sequence[Rollout], settings: StageSettings) -> list[float]:
    """KL(policy || where it began) along each answer, over the whole vocabulary; empty if that is gone."""
    if adapters.attached(trained.model):
        kl = partial(_kl_to_base, trained.model)
    else:
        try:
            began = load_policy(settings.model, trained.numerics, bytes_per_parameter=FROZEN_BYTES)
        except (ModelError, ResourceError) as error:  # the training is done: this must not undo it
            progress.say(
                f"  dev: KL not measured, since the model it began from cannot be loaded: {error.what}"
            )
            return []
        kl = partial(response_kl, trained.model, began.model)
    values = over_rows(
        [rollout.example for rollout in answers],
        lambda row: row.sum_by_response(kl(row)),
        response_count,
        row_tokens=settings.row_tokens,
        numerics=trained.numerics,
        name="KL",
    )
    return [float(value) for value in values]


@torch.no_grad()
def _kl_to_base(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """KL(policy || policy without its adapters) at each response token: [N] nats."""
    states = response_states(model, row)
    with adapters.switched_off(model):
        before = response_states(model, row)
    # One head: adapters leave it alone.
    return token_kl(states, *head(model), before, *head(model))
