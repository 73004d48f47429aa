"""Direct preference optimization: learn from comparisons without a reward model.

Compute the reference's log-probabilities once, then raise the chosen response above the rejected
one, measured against the reference. The reference is the policy as it was before this stage. Every
loss of `losses.preference` is trained this way; one that reads no reference goes without its pass.

Dimensions: P = pairs of a batch, N = tokens of their responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.errors import ConfigError
from trimtab.losses.bradley_terry import ranked_right
from trimtab.losses.pairs import PairLoss
from trimtab.losses.preference import PreferenceLoss
from trimtab.model.passes import over_rows, response_tokens
from trimtab.model.policy import Policy, response_likeness, response_logprobs
from trimtab.runs import progress
from trimtab.runs.files import replace_file
from trimtab.runs.run import Run
from trimtab.train import inputs, loop
from trimtab.train.answers import answer_samples
from trimtab.train.measures import Mean, Share, log_measures
from trimtab.train.models import finish, load_policy
from trimtab.train.pairs import lengths_of, loss_inputs, token_values_read, with_mismatches
from trimtab.train.settings import DPOSettings

COMPUTE = {"policy": response_logprobs, "reference": response_logprobs, "likeness": response_likeness}
"""How each value of a token is computed, from a model and a row."""


def train(settings: DPOSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    policy = load_policy(settings, run, copies=loop.TRAINED_BYTES)
    train_set, dev_set = inputs.comparisons(settings, policy.codec, run)
    optimize(policy, train_set, dev_set, settings, run)
    answer_samples(policy, dev_set, settings, run, step=loop.total_steps(len(train_set), settings))
    finish(policy, run)


def optimize(
    policy: Policy,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: DPOSettings,
    run: Run,
    watch: loop.Watch = loop.unwatched,
) -> None:
    """Minimise the preference loss from the reference on, measured on the dev set before and after."""
    loss = settings.loss.chosen()
    _refuse_weights(loss, train_set)
    if "mismatch" in loss.inputs:
        train_set, dev_set = with_mismatches(train_set), with_mismatches(dev_set)
    with run.meter.timed("reference"):
        train_reference = reference_logprobs(policy, train_set, settings, run, "reference")
    with run.meter.timed("evaluation"):
        dev_reference = reference_logprobs(policy, dev_set, settings, run, "dev_reference")
    total = loop.total_steps(len(train_set), settings)
    learner = loop.Learner(policy.model, settings.optimizer, total)
    learner.restore(run, "dpo")
    if run.step == 0:
        measure(policy, dev_set, dev_reference, settings, run, step=0)
    learn = learn_together if loss.needs_whole_batch else learn_by_rows

    def step(indices: list[int]) -> dict[str, float]:
        batch = [train_set[index] for index in indices]
        reference = [train_reference[index] for index in indices] if train_reference else []
        return {**learn(policy, batch, reference, settings), **learner.step()}

    loop.go_through(run, learner, train_set, settings, name="dpo", learn=step, watch=watch)
    measure(policy, dev_set, dev_reference, settings, run, step=total)


def learn_by_rows(
    policy: Policy, batch: Sequence[Example], reference: Sequence[Tensor], settings: DPOSettings
) -> dict[str, float]:
    """Gradients of the mean loss over the pairs of the batch, by weight; gives its metrics.

    Args:
        reference: log-probabilities of each example's response tokens under the reference; empty for a
            loss that reads none.
    """
    loss = settings.loss.chosen()
    weight = sum(example.weight for example in batch)
    sums: dict[str, float] = {}
    for group, row in loop.rows(batch, settings.row_tokens, policy.numerics.device):
        lengths = lengths_of([batch[index] for index in group], policy.numerics.device)
        with policy.numerics.autocast():
            values = {"policy": response_logprobs(policy.model, row)}
            if "likeness" in loss.inputs:
                values["likeness"] = response_likeness(policy.model, row)
        if reference:
            values["reference"] = torch.cat([reference[index] for index in group]).to(lengths.device)
        read = loss_inputs(loss, values, lengths)
        pairs = loss(**read)
        shares = row.weights.view_as(lengths)[:, 0] / weight
        torch.autograd.backward((shares * pairs.loss).sum())
        _add(sums, _summary(pairs, read), shares)
    return sums


def learn_together(
    policy: Policy, batch: Sequence[Example], reference: Sequence[Tensor], settings: DPOSettings
) -> dict[str, float]:
    """As `learn_by_rows`, for losses whose pairs depend on each other.

    Rows cannot be finished one by one: first all values without gradients, then the gradient of the
    loss by each token's log-probability, then each row once more to pass it on.
    """
    loss = settings.loss.chosen()
    device = policy.numerics.device
    values = token_values(policy, batch, loss, settings, "pairs")
    leaves = [value.to(device).requires_grad_() for value in values["policy"]]
    read = loss_inputs(
        loss,
        {"policy": torch.cat(leaves), "reference": torch.cat(list(reference)).to(device)},
        lengths_of(batch, device),
    )
    pairs = loss(**read)
    weights = torch.tensor([example.weight for example in batch], device=device)
    shares = weights / weights.sum()
    gradients = torch.autograd.grad((shares * pairs.loss).sum(), leaves)
    for group, row in loop.rows(batch, settings.row_tokens, device):
        with policy.numerics.autocast():
            logprobs = response_logprobs(policy.model, row)
        torch.autograd.backward(logprobs, torch.cat([gradients[index] for index in group]))
    sums: dict[str, float] = {}
    _add(sums, _summary(pairs, read), shares)
    return sums


def reference_logprobs(
    policy: Policy, examples: Sequence[Example], settings: DPOSettings, run: Run, name: str
) -> list[Tensor]:
    """Log-probabilities of each example's response tokens under the policy as it was given.

    Computed once and kept in the run folder, so that a resumed run, whose policy has moved,
    still has the same reference; it is refused if its data or its parent have changed. Empty where the
    loss reads no reference.
    """
    if not examples or "reference" not in token_values_read(settings.loss.chosen()):
        return []
    path = run.folder / f"{name}.safetensors"
    if not path.exists():
        assert run.step == 0, "a checkpoint is only written after the reference"
        values = over_tokens(policy, examples, "reference", settings, name)
        with replace_file(path) as temporary:
            save_file({"logprobs": torch.cat(values)}, temporary)
    counts = [response_tokens(example) for example in examples]
    return list(torch.split(load_file(path)["logprobs"], counts))


def token_values(
    policy: Policy, examples: Sequence[Example], loss: PreferenceLoss, settings: DPOSettings, name: str
) -> dict[str, list[Tensor]]:
    """What the loss reads of the policy for each example's response tokens, without gradients."""
    kinds = token_values_read(loss) - {"reference"}
    return {kind: over_tokens(policy, examples, kind, settings, name) for kind in sorted(kinds)}


def measure(
    policy: Policy,
    dev_set: Sequence[Example],
    reference: Sequence[Tensor],
    settings: DPOSettings,
    run: Run,
    *,
    step: int,
) -> None:
    """Dev loss, margin, and the share of pairs whose implied rewards are ranked as people did."""
    if not dev_set:
        return
    loss = settings.loss.chosen()
    with run.meter.timed("evaluation"):
        values = token_values(policy, dev_set, loss, settings, "dev pairs")
    values |= {"reference": list(reference)} if reference else {}
    whole = {kind: torch.cat(parts).double() for kind, parts in values.items()}
    pairs = loss(**loss_inputs(loss, whole, lengths_of(dev_set, torch.device("cpu"))))
    found = log_measures(
        run,
        step,
        settings.seed,
        loss=Mean(pairs.loss.tolist()),
        margin=Mean((pairs.chosen_reward - pairs.rejected_reward).tolist()),
        accuracy=Share(ranked_right(pairs.chosen_reward, pairs.rejected_reward).double().tolist()),
    )
    progress.say(f"  dev: loss {found['loss'].text(3)}, margin {found['margin'].text(3)}")


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


def _summary(pairs: PairLoss, read: Mapping[str, Any]) -> dict[str, Tensor]:
    """What is logged of each pair: [P] each. Log-probabilities and log-ratios in nats a sequence."""
    policy, reference = read["policy"], read.get("reference")
    summary = {
        "loss": pairs.loss.detach(),
        "accuracy": ranked_right(pairs.chosen_reward, pairs.rejected_reward),
        "margin": pairs.chosen_reward - pairs.rejected_reward,
    }
    if reference is None:
        return summary | {
            "chosen_logprob": policy.chosen.detach(),
            "rejected_logprob": policy.rejected.detach(),
        }
    return summary | {
        "chosen_logratio": (policy.chosen - reference.chosen).detach(),
        "rejected_logratio": (policy.rejected - reference.rejected).detach(),
    }


def _add(sums: dict[str, float], summary: Mapping[str, Tensor], shares: Tensor) -> None:
    for name, value in summary.items():
        sums[name] = sums.get(name, 0.0) + float((shares * value).sum())


def _refuse_weights(loss: PreferenceLoss, examples: Sequence[Example]) -> None:
    if loss.compares_quantiles and len({example.weight for example in examples}) > 1:
        raise ConfigError(
            f"the loss {loss.name} orders pairs by size and cannot weigh them",
            where="loss.name",
            found="pairs of different weight: rankings of more than two responses",
            fix="use another loss, or data without rankings",
        )
