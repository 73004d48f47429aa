"""Direct preference optimization: learn from comparisons without a reward model.

Compute the reference's log-probabilities once, then raise the chosen response above the rejected
one, measured against the reference. The reference is the policy as it was before this stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Example
from trimtab.losses.bradley_terry import ranked_right
from trimtab.losses.preference import PairLogprobs, PairLoss, dpo_loss
from trimtab.model.passes import over_rows, response_count
from trimtab.model.policy import Policy, response_logprobs
from trimtab.runs import progress
from trimtab.runs.files import replace_file
from trimtab.runs.run import Run
from trimtab.train import inputs, loop
from trimtab.train.answers import answer_samples
from trimtab.train.measures import Mean, Share, log_measures
from trimtab.train.models import finish, load_policy
from trimtab.train.settings import DPOSettings


def train(settings: DPOSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    policy = load_policy(settings, run, copies=loop.TRAINED_BYTES)
    train_set, dev_set = inputs.comparisons(settings, policy.codec, run)
    with run.meter.timed("reference"):
        train_reference = reference_logprobs(policy, train_set, settings, run, "reference")
    with run.meter.timed("evaluation"):
        dev_reference = reference_logprobs(policy, dev_set, settings, run, "dev_reference")
    total = loop.total_steps(len(train_set), settings)
    learner = loop.Learner(policy.model, settings.optimizer, total)
    learner.restore(run, "dpo")
    if run.step == 0:
        measure(policy, dev_set, dev_reference, settings, run, step=0)

    def step(indices: list[int]) -> dict[str, float]:
        batch = [train_set[index] for index in indices]
        return learn(policy, learner, batch, train_reference[indices], settings)

    loop.go_through(run, learner, train_set, settings, name="dpo", learn=step)
    measure(policy, dev_set, dev_reference, settings, run, step=total)
    answer_samples(policy, dev_set, settings, run, step=total)
    finish(policy, run)


def learn(
    policy: Policy, learner: loop.Learner, batch: Sequence[Example], reference: Tensor, settings: DPOSettings
) -> dict[str, float]:
    """One optimizer step: the mean loss over the pairs of the batch.

    Args:
        reference: [P, 2] nats per sequence of chosen and rejected, under the reference.
    """
    sums = dict.fromkeys(("loss", "accuracy", "margin", "chosen_logratio", "rejected_logratio"), 0.0)
    for group, row in loop.rows(batch, settings.row_tokens, policy.numerics.device):
        with policy.numerics.autocast():
            logprobs = pair_logprobs(policy, row)
        pairs = dpo_loss(logprobs, _as_pairs(reference[group], logprobs.chosen), beta=settings.beta)
        torch.autograd.backward(pairs.loss.sum() / len(batch))
        for name, value in _summary(pairs, settings.beta).items():
            sums[name] += float(value.sum())
    return {**{name: value / len(batch) for name, value in sums.items()}, **learner.step()}


def pair_logprobs(policy: Policy, row: PackedRow) -> PairLogprobs:
    """Log-probabilities of the responses of a row of pairs, summed over each response."""
    both = row.sum_by_response(response_logprobs(policy.model, row)).view(-1, 2)
    return PairLogprobs(both[:, 0], both[:, 1])


def reference_logprobs(
    policy: Policy, examples: Sequence[Example], settings: DPOSettings, run: Run, name: str
) -> Tensor:
    """Log-probabilities of each pair under the policy as it was given: [examples, 2].

    Computed once and kept in the run folder, so that a resumed run, whose policy has moved,
    still has the same reference; it is refused if its data or its parent have changed.
    """
    if not examples:
        return torch.empty(0, 2)
    path = run.folder / f"{name}.safetensors"
    if not path.exists():
        assert run.step == 0, "a checkpoint is only written after the reference"
        values = _pair_logprobs(policy, examples, settings, name)
        with replace_file(path) as temporary:
            save_file({"logprobs": values}, temporary)
    return load_file(path)["logprobs"]


def measure(
    policy: Policy,
    dev_set: Sequence[Example],
    reference: Tensor,
    settings: DPOSettings,
    run: Run,
    *,
    step: int,
) -> None:
    """Dev loss, margin, and the share of pairs whose implied rewards are ranked as people did."""
    if not dev_set:
        return
    with run.meter.timed("evaluation"):
        both = _pair_logprobs(policy, dev_set, settings, "dev pairs").double()
    pairs = dpo_loss(
        PairLogprobs(both[:, 0], both[:, 1]), _as_pairs(reference.double(), both), beta=settings.beta
    )
    found = log_measures(
        run,
        step,
        settings.seed,
        loss=Mean(pairs.loss.tolist()),
        margin=Mean((pairs.chosen_reward - pairs.rejected_reward).tolist()),
        accuracy=Share(ranked_right(pairs.chosen_reward, pairs.rejected_reward).double().tolist()),
    )
    progress.say(f"  dev: loss {found['loss'].text(3)}, margin {found['margin'].text(3)}")


def _pair_logprobs(policy: Policy, examples: Sequence[Example], settings: DPOSettings, name: str) -> Tensor:
    """Log-probabilities of each pair, summed over each response: [examples, 2]."""
    values = over_rows(
        examples,
        lambda row: row.sum_by_response(response_logprobs(policy.model, row)),
        response_count,
        row_tokens=settings.row_tokens,
        numerics=policy.numerics,
        name=name,
    )
    return torch.stack(values)


def _as_pairs(logprobs: Tensor, like: Tensor) -> PairLogprobs:
    moved = logprobs.to(like.device)
    return PairLogprobs(moved[:, 0], moved[:, 1])


def _summary(pairs: PairLoss, beta: float) -> dict[str, Tensor]:
    """What is logged of each pair: [P] each; log-ratios in nats, the margin in reward."""
    return {
        "loss": pairs.loss.detach(),
        "accuracy": ranked_right(pairs.chosen_reward, pairs.rejected_reward),
        "margin": pairs.chosen_reward - pairs.rejected_reward,
        "chosen_logratio": pairs.chosen_reward / beta,
        "rejected_logratio": pairs.rejected_reward / beta,
    }
