"""Supervised fine-tuning: learn to write the demonstrated responses.

Read demonstrations, measure the dev loss, go through the data, measure again, save.
Left out on purpose: prompt tokens in the loss, packing across examples (rows keep them apart).
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.data.tokens import Example
from trimtab.losses.sft import sft_loss
from trimtab.model.passes import over_rows, response_tokens
from trimtab.model.policy import Policy, response_logprobs
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train import inputs, loop
from trimtab.train.answers import answer_samples
from trimtab.train.measures import log_measures, per_token
from trimtab.train.memory import within_limit
from trimtab.train.models import finish, load_policy
from trimtab.train.settings import SFTSettings


def train(settings: SFTSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    policy, train_set, dev_set = begin(settings, run)
    settings = within_limit(policy, train_set, settings, run)
    optimize(policy, train_set, dev_set, settings, run)
    answer_samples(policy, dev_set, settings, run, step=loop.total_steps(len(train_set), settings))
    finish(policy, run)


def begin(settings: SFTSettings, run: Run) -> tuple[Policy, list[Example], list[Example]]:
    """The model and the data that the stage begins with."""
    policy = load_policy(settings, run, copies=loop.trained_bytes(settings.optimizer))
    return policy, *inputs.demonstrations(settings, policy.codec, run)


def optimize(
    policy: Policy,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: SFTSettings,
    run: Run,
    watch: loop.Watch = loop.unwatched,
) -> None:
    """Raise the likelihood of the demonstrations, measured on the dev set before and after."""
    total = loop.total_steps(len(train_set), settings)
    learner = loop.Learner(policy.model, settings.optimizer, total)
    learner.restore(run, "sft")
    if run.step == 0:
        measure(policy, dev_set, settings, run, step=0)

    def step(indices: list[int]) -> dict[str, float]:
        batch = [train_set[index] for index in indices]
        return learn(policy, learner, batch, settings)

    loop.go_through(run, learner, train_set, settings, name="sft", learn=step, watch=watch)
    measure(policy, dev_set, settings, run, step=total)


def learn(
    policy: Policy, learner: loop.Learner, batch: Sequence[Example], settings: SFTSettings
) -> dict[str, float]:
    """One optimizer step: the mean loss over all response tokens of the batch, by weight."""
    count = sum(example.weight * response_tokens(example) for example in batch)
    total = 0.0
    with policy.numerics.training(policy.model):
        for _, row in loop.rows(batch, settings.row_tokens, policy.numerics.device):
            with policy.numerics.autocast():
                losses = sft_loss(response_logprobs(policy.model, row))
                loss = (row.token_weights * losses).sum() / count
            loop.backward(loss)
            total += loss.item()
    return {"loss": total, **learner.step()}


def measure(
    policy: Policy, dev_set: Sequence[Example], settings: SFTSettings, run: Run, *, step: int
) -> None:
    """Dev loss per token."""
    if not dev_set:
        return
    with run.meter.timed("evaluation"):
        logprobs = over_rows(
            dev_set,
            lambda row: response_logprobs(policy.model, row),
            response_tokens,
            row_tokens=settings.row_tokens,
            numerics=policy.numerics,
            name="dev loss",
        )
    totals = [float(sft_loss(values.double()).sum()) for values in logprobs]
    loss = log_measures(
        run, step, settings.seed, loss=per_token(totals, [len(values) for values in logprobs])
    )["loss"]
    progress.say(f"  dev: loss {loss.text(3)} a token")
