"""The reward model: learn to score responses as people would rank them.

Start from the policy's backbone with a fresh scalar head, learn the Bradley-Terry likelihood of
people's choices, shift the scores so that the chosen demonstrations have mean 0, save.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Example
from trimtab.losses.bradley_terry import bradley_terry_loss, centring_loss, ranked_right
from trimtab.model import scalar
from trimtab.model.passes import over_rows, response_count
from trimtab.model.scalar import Scorer
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train import inputs, loop
from trimtab.train.measures import Mean, Share, log_measures
from trimtab.train.models import finish, new_scorer
from trimtab.train.settings import RewardSettings

CENTRED_ON = 256
"""Demonstrations whose mean score becomes 0."""


def train(settings: RewardSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    generator = torch.Generator().manual_seed(loop.seed_for(settings.seed, "head"))
    scorer = new_scorer(settings, run, generator, copies=loop.TRAINED_BYTES)
    train_set, dev_set = inputs.comparisons(settings, scorer.codec, run)
    optimize(scorer, train_set, dev_set, settings, run)
    centre(scorer, train_set, settings, run)
    finish(scorer, run)


def optimize(
    scorer: Scorer,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: RewardSettings,
    run: Run,
    watch: loop.Watch = loop.unwatched,
) -> None:
    """Raise the likelihood of people's choices, measured on the dev set before and after."""
    total = loop.total_steps(len(train_set), settings)
    learner = loop.Learner(scorer.model, settings.optimizer, total)
    learner.restore(run, "reward")
    if run.step == 0:
        measure(scorer, dev_set, settings, run, step=0)

    def step(indices: list[int]) -> dict[str, float]:
        batch = [train_set[index] for index in indices]
        return learn(scorer, learner, batch, settings)

    loop.go_through(run, learner, train_set, settings, name="reward", learn=step, watch=watch)
    measure(scorer, dev_set, settings, run, step=total)


def learn(
    scorer: Scorer, learner: loop.Learner, batch: Sequence[Example], settings: RewardSettings
) -> dict[str, float]:
    """One optimizer step: the mean loss over the pairs of the batch, by weight."""
    count = sum(example.weight for example in batch)
    sums = dict.fromkeys(("loss", "accuracy", "margin"), 0.0)
    for _, row in loop.rows(batch, settings.row_tokens, scorer.numerics.device):
        with scorer.numerics.autocast():
            chosen, rejected = paired_rewards(scorer, row)
            losses = pair_losses(chosen, rejected, settings)
        weights = row.weights[::2]
        loss = (weights * losses).sum() / count
        torch.autograd.backward(loss)
        sums["loss"] += loss.item()
        sums["accuracy"] += float((weights * ranked_right(chosen, rejected)).sum()) / count
        sums["margin"] += float((weights * (chosen - rejected).detach()).sum()) / count
    return {**sums, **learner.step()}


def pair_losses(chosen: Tensor, rejected: Tensor, settings: RewardSettings) -> Tensor:
    """What each pair costs: [P]."""
    losses = bradley_terry_loss(chosen, rejected, margin=settings.margin)
    return losses + settings.centring * centring_loss(chosen, rejected)


def paired_rewards(scorer: Scorer, row: PackedRow) -> tuple[Tensor, Tensor]:
    """Rewards of the chosen and of the rejected responses of a row of pairs: [P], [P]."""
    both = scalar.rewards(scorer.model, row).view(-1, 2)
    return both[:, 0], both[:, 1]


def measure(
    scorer: Scorer, dev_set: Sequence[Example], settings: RewardSettings, run: Run, *, step: int
) -> None:
    """Dev loss, and the share of pairs that are ranked as people did."""
    if not dev_set:
        return
    with run.meter.timed("evaluation"):
        scores = _scores(scorer, dev_set, settings, "dev pairs")
    chosen, rejected = scores[:, 0], scores[:, 1]
    found = log_measures(
        run,
        step,
        settings.seed,
        loss=Mean(bradley_terry_loss(chosen, rejected).tolist()),
        accuracy=Share(ranked_right(chosen, rejected).double().tolist()),
    )
    accuracy = found["accuracy"]
    ranked = f"ranks {accuracy.percent()} of {accuracy.n} pairs as they were judged"
    progress.say(f"  dev: loss {found['loss'].text(3)}, {ranked}")


def centre(scorer: Scorer, train_set: Sequence[Example], settings: RewardSettings, run: Run) -> None:
    """Store as `reward_bias` the mean score of demonstrations, which then score 0 on average."""
    assert scalar.reward_bias(scorer.model) == 0.0, "centred once, after training"
    shown = [Example(example.prompt, example.responses[:1]) for example in train_set[:CENTRED_ON]]
    scores = _scores(scorer, shown, settings, "centring")
    scorer.model.config.reward_bias = float(scores.mean())
    run.describe(reward_bias=scorer.model.config.reward_bias, reward_std=float(scores.std(correction=0)))


def _scores(scorer: Scorer, examples: Sequence[Example], settings: RewardSettings, name: str) -> Tensor:
    """Rewards of every response of every example, double precision: [examples, responses each]."""
    values = over_rows(
        examples,
        lambda row: scalar.rewards(scorer.model, row),
        response_count,
        row_tokens=settings.row_tokens,
        numerics=scorer.numerics,
        name=name,
    )
    return torch.stack(values).double()
