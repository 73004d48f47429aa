"""Direct preference optimization: learn from comparisons without a reward model.

Compute the reference's log-probabilities once, then raise the chosen response above the rejected
one, measured against the reference. The reference is the policy as it was before this stage, or follows
it (`train.reference`). Every loss of `losses.preference` is trained this way; one that reads no reference
goes without its pass. Responses that were rated one by one are in `train.unpaired`.

Dimensions: P = pairs of a batch, N = tokens of their responses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.errors import ConfigError
from trimtab.losses.preference import PreferenceLoss
from trimtab.model.policy import Policy, response_likeness, response_logprobs
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train import inputs, loop, unpaired
from trimtab.train.distance import answer_and_compare
from trimtab.train.measures import log_measures
from trimtab.train.memory import within_limit
from trimtab.train.models import finish, load_policy
from trimtab.train.pair_metrics import dev_measures, pairs_of, step_metrics, together
from trimtab.train.pairs import lengths_of, loss_inputs, token_values_read, with_mismatches
from trimtab.train.reference import Moving, Reference, Still, logprobs_before, over_tokens
from trimtab.train.settings import DPOSettings


def train(settings: DPOSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    policy, train_set, dev_set = begin(settings, run)
    settings = within_limit(policy, train_set, settings, run)
    optimize(policy, train_set, dev_set, settings, run)
    answer_and_compare(policy, dev_set, settings, run, step=loop.total_steps(len(train_set), settings))
    finish(policy, run)


def begin(settings: DPOSettings, run: Run) -> tuple[Policy, list[Example], list[Example]]:
    """The model and the data that the stage begins with."""
    rated = unpaired.is_for(settings)
    second = loop.FROZEN_BYTES if settings.reference.every else 0
    policy = load_policy(settings, run, copies=loop.trained_bytes(settings.optimizer) + second)
    read = inputs.ratings if rated else inputs.comparisons
    return policy, *read(settings, policy.codec, run)


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
    reference, dev_reference = references(policy, train_set, dev_set, settings, run)
    total = loop.total_steps(len(train_set), settings)
    learner = loop.Learner(policy.model, settings.optimizer, total)
    learner.restore(run, "dpo")
    learn = learn_together if loss.needs_whole_batch else learn_by_rows
    look = measure
    if train_set[0].good is not None:
        learn, look = unpaired.learn, unpaired.measure
    if run.step == 0:
        look(policy, dev_set, dev_reference, settings, run, step=0)

    def step(indices: list[int]) -> dict[str, float]:
        batch = [train_set[index] for index in indices]
        metrics = {**learn(policy, batch, reference.of(indices), settings), **learner.step()}
        reference.follow(learner.steps)
        return metrics

    loop.go_through(
        run,
        learner,
        train_set,
        settings,
        name="dpo",
        learn=step,
        watch=watch,
        beside=reference.tensors,
    )
    look(policy, dev_set, dev_reference, settings, run, step=total)


def references(
    policy: Policy,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: DPOSettings,
    run: Run,
) -> tuple[Reference, list[Tensor]]:
    """The reference that is trained against, and the dev set's log-probabilities under the policy as given.

    Dev measures say how far the policy has come since the stage began, also where the reference follows it.
    """
    if "reference" not in token_values_read(settings.loss.chosen()):
        return Still([]), []
    reference: Reference
    if settings.reference.every:
        reference = Moving(policy, train_set, settings, run, every=settings.reference.every)
    else:
        with run.meter.timed("reference"):
            reference = Still(logprobs_before(policy, train_set, settings, run, "reference"))
    with run.meter.timed("evaluation"):
        return reference, logprobs_before(policy, dev_set, settings, run, "dev_reference")


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
    parts = []
    with policy.numerics.training(policy.model):
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
            loop.backward((shares * pairs.loss).sum())
            parts.append(pairs_of(pairs, read, lengths, shares))
    return step_metrics(together(parts), side_of(loss))


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
    lengths = lengths_of(batch, device)
    read = loss_inputs(
        loss, {"policy": torch.cat(leaves), "reference": torch.cat(list(reference)).to(device)}, lengths
    )
    pairs = loss(**read)
    weights = torch.tensor([example.weight for example in batch], device=device)
    shares = weights / weights.sum()
    gradients = torch.autograd.grad((shares * pairs.loss).sum(), leaves)
    with policy.numerics.training(policy.model):
        for group, row in loop.rows(batch, settings.row_tokens, device):
            with policy.numerics.autocast():
                logprobs = response_logprobs(policy.model, row)
            loop.backward(logprobs, torch.cat([gradients[index] for index in group]))
    return step_metrics(together([pairs_of(pairs, read, lengths, shares)]), side_of(loss))


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
    """Dev loss, margins, log-ratios, and the share of pairs that implied rewards rank as people did."""
    if not dev_set:
        return
    loss = settings.loss.chosen()
    with run.meter.timed("evaluation"):
        values = token_values(policy, dev_set, loss, settings, "dev pairs")
    values |= {"reference": list(reference)} if reference else {}
    whole = {kind: torch.cat(parts).double() for kind, parts in values.items()}
    lengths = lengths_of(dev_set, torch.device("cpu"))
    read = loss_inputs(loss, whole, lengths)
    pairs = pairs_of(loss(**read), read, lengths, torch.ones(len(dev_set)))
    found = log_measures(run, step, settings.seed, **dev_measures(pairs, side_of(loss), step=step))
    progress.say(
        f"  dev: loss {found['loss'].text(3)}, margin {found['margin'].text(3)}, "
        f"accuracy {found['accuracy'].percent()}"
    )


def side_of(loss: PreferenceLoss) -> str:
    """What is logged of each side of a pair: its log-ratio to the reference where the loss reads one."""
    return "logratio" if "reference" in loss.inputs else "logprob"


def _refuse_weights(loss: PreferenceLoss, examples: Sequence[Example]) -> None:
    if loss.compares_quantiles and len({example.weight for example in examples}) > 1:
        raise ConfigError(
            f"the loss {loss.name} orders pairs by size and cannot weigh them",
            where="loss.name",
            found="pairs of different weight: rankings of more than two responses",
            fix="use another loss, or data without rankings",
        )
