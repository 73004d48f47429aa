"""KTO from responses that were rated good or bad one by one.

Each response is a gain or a loss against a reference point: what the policy, measured against the reference,
gives to responses that belong to other prompts. The point is estimated over the whole step and is a constant
for the gradient. Steps that hold only good or only bad responses are as fine as any.

Dimensions: E = rated responses, M = mismatched ones, one for each. Unit: nats per response.
Source: Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1. See docs/math.md#kto.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from trimtab import formats
from trimtab.data.tokens import Example
from trimtab.errors import ConfigError
from trimtab.losses.pointwise import kto_point, unpaired_kto_loss
from trimtab.model.policy import Policy, response_logprobs
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train import loop
from trimtab.train.measures import Mean, Measure, Share, log_measures
from trimtab.train.reference import over_tokens
from trimtab.train.settings import DPOSettings


def is_for(settings: DPOSettings) -> bool:
    """Whether the data are ratings.

    Raises:
        ConfigError: they are, and the loss needs pairs.
    """
    if not formats.holds_ratings(settings.data):
        return False
    if settings.loss.name != "kto":
        raise ConfigError(
            f"the loss {settings.loss.name} learns from pairs, and these are responses rated one by one",
            where="loss.name",
            found=settings.data,
            fix="--set loss=kto",
        )
    return True


@dataclass(frozen=True)
class Rated:
    """Rated responses under the policy as it is."""

    loss: Tensor  # [E]
    log_ratio: Tensor  # [E]
    right: Tensor  # [E] bool: the implied reward lies strictly on its label's side of the reference point
    good: Tensor  # [E] bool
    tokens: Tensor  # [E]
    weight: Tensor  # [E]


def learn(
    policy: Policy, batch: Sequence[Example], reference: Sequence[Tensor], settings: DPOSettings
) -> dict[str, float]:
    """Gradients of the mean loss over the rated responses of the batch, by weight; gives its metrics.

    Args:
        batch: examples with a rated response and a mismatched one.
        reference: log-probabilities of the tokens of both under the reference.
    """
    device = policy.numerics.device
    own, other = _side(batch, 0), _side(batch, 1)
    before_own, before_other = _sums(batch, reference)
    mismatched = torch.stack(
        [values.sum() for values in over_tokens(policy, other, "policy", settings, "mismatched")]
    )
    point = kto_point(mismatched - before_other, beta=_beta(settings)).to(device)
    total = sum(example.weight for example in batch)
    parts = []
    with policy.numerics.training(policy.model):
        for group, row in loop.rows(own, settings.row_tokens, device):
            with policy.numerics.autocast():
                logprobs = response_logprobs(policy.model, row)
            ratios = row.sum_by_response(logprobs) - before_own[group].to(device)
            rated = _rated([own[index] for index in group], ratios, point, settings)
            loop.backward((row.weights / total * rated.loss).sum())
            parts.append(rated)
    return {**step_metrics(_together(parts)), "point": float(point)}


def measure(
    policy: Policy,
    dev_set: Sequence[Example],
    reference: Sequence[Tensor],
    settings: DPOSettings,
    run: Run,
    *,
    step: int,
) -> None:
    """Dev loss, both labels' log-ratios, and the share of rewards that lie on their label's side."""
    if not dev_set:
        return
    with run.meter.timed("evaluation"):
        values = over_tokens(policy, dev_set, "policy", settings, "dev ratings")
    before = _sums(dev_set, reference)
    own, other = (now - then for now, then in zip(_sums(dev_set, values), before, strict=True))
    rated = _rated(dev_set, own, kto_point(other, beta=_beta(settings)), settings)
    found = log_measures(run, step, settings.seed, **_dev_measures(rated, step=step))
    progress.say(f"  dev: loss {found['loss'].text(3)}, accuracy {found['accuracy'].percent()}")


def step_metrics(rated: Rated) -> dict[str, float]:
    """Means over the responses of a step, by weight; of a label that the step has none of there are none."""

    def mean(values: Tensor, among: Tensor) -> float:
        weight = rated.weight * among
        return float((weight * values).sum() / weight.sum())

    every = torch.ones_like(rated.good)
    found = {
        "loss": mean(rated.loss, every),
        "accuracy": mean(rated.right, every),
        "good": mean(rated.good, every),
    }
    for name, among in (("good", rated.good), ("bad", ~rated.good)):
        if bool(among.any()):
            found[f"{name}_logratio"] = mean(rated.log_ratio, among)
            found[f"{name}_tokens"] = mean(rated.tokens, among)
    return found


def _dev_measures(rated: Rated, *, step: int) -> dict[str, Measure]:
    measures: dict[str, Measure] = {
        "loss": Mean(rated.loss.tolist()),
        "accuracy": Share(rated.right.double().tolist()),
    }
    for name, among in (("good", rated.good), ("bad", ~rated.good)):
        if int(among.sum()) > 1:
            measures[f"{name}_logratio"] = Mean(rated.log_ratio[among].tolist())
            if step == 0:  # of the data alone
                measures[f"{name}_tokens"] = Mean(rated.tokens[among].tolist())
    return measures


def _rated(examples: Sequence[Example], ratios: Tensor, point: Tensor, settings: DPOSettings) -> Rated:
    """`ratios`: [E]; the loss keeps their gradient, nothing else does."""
    device, options = ratios.device, settings.loss.chosen().options
    good = torch.tensor([bool(example.good) for example in examples], device=device)
    counts = torch.where(good, options["chosen_weight"], options["rejected_weight"])
    loss = counts * unpaired_kto_loss(ratios, good, point, beta=options["beta"])
    gain = options["beta"] * ratios.detach() - point
    return Rated(
        loss,
        ratios.detach(),
        torch.where(good, gain > 0, gain < 0),
        good,
        torch.tensor([len(example.responses[0].ids) for example in examples], device=device),
        torch.tensor([example.weight for example in examples], device=device),
    )


def _together(parts: Sequence[Rated]) -> Rated:
    columns = {
        field.name: torch.cat([getattr(part, field.name).detach() for part in parts]).cpu()
        for field in fields(Rated)
    }
    return Rated(**columns)


def _side(examples: Sequence[Example], place: int) -> list[Example]:
    """Each example with this one of its two responses alone."""
    return [replace(example, responses=(example.responses[place],)) for example in examples]


def _sums(examples: Sequence[Example], values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Per-token values summed over each example's rated and its mismatched response: [E] each."""
    counts = [[len(response.ids) for response in example.responses] for example in examples]
    parts = [torch.split(one, count) for one, count in zip(values, counts, strict=True)]
    own, other = (torch.stack([part[place].sum() for part in parts]) for place in (0, 1))
    return own, other


def _beta(settings: DPOSettings) -> float:
    return settings.loss.chosen().options["beta"]
