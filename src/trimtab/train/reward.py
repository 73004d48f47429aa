"""The reward model: learn to score responses as people would rank them.

Start from the policy's backbone with a fresh scalar head, learn the Bradley-Terry likelihood of
people's choices, shift the scores so that the chosen demonstrations have mean 0, save.

One person's ranking of several responses is one example: its prompt and each response are computed once.
Dimensions: R = responses in a row, P = pairs among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.data.rankings import RowPairs, best_of, order_of, pairs_in
from trimtab.data.tokens import Example
from trimtab.losses.bradley_terry import (
    bradley_terry_loss,
    centring_loss,
    plackett_luce_loss,
    ranked_right,
)
from trimtab.model import scalar
from trimtab.model.passes import over_rows, response_count
from trimtab.model.scalar import Scorer
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.statistics.calibration import fitted_temperature
from trimtab.train import inputs, loop, reward_members
from trimtab.train.memory import within_limit
from trimtab.train.models import finish, new_scorer
from trimtab.train.reward_measures import DevPairs, dev_pairs, report
from trimtab.train.settings import RewardSettings

CENTRED_ON = 256
"""Demonstrations whose mean score becomes 0."""


def train(settings: RewardSettings, run: Run) -> None:
    """Run the stage in an open run folder; goes on where a checkpoint left off."""
    if settings.members > 1:
        reward_members.train(settings, run, train_one)
    else:
        train_one(settings, run)


def train_one(settings: RewardSettings, run: Run) -> None:
    """One reward model, from its parent to the model card."""
    scorer, train_set, dev_set = begin(settings, run)
    settings = within_limit(scorer, train_set, settings, run)
    found = optimize(scorer, train_set, dev_set, settings, run)
    if found is not None:
        soften(scorer, found, settings, run).save(run.folder)
    centre(scorer, train_set, settings, run)
    finish(scorer, run)


def begin(settings: RewardSettings, run: Run) -> tuple[Scorer, list[Example], list[Example]]:
    """The model, with a fresh head, and the data that the stage begins with."""
    generator = torch.Generator().manual_seed(loop.seed_for(settings.seed, "head"))
    scorer = new_scorer(settings, run, generator, copies=loop.trained_bytes(settings.optimizer))
    return scorer, *inputs.rankings(settings, scorer.codec, run)


def optimize(
    scorer: Scorer,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    settings: RewardSettings,
    run: Run,
    watch: loop.Watch = loop.unwatched,
) -> DevPairs | None:
    """Raise the likelihood of people's choices, measured on the dev set before and after.

    Returns:
        The dev pairs as the trained model ranks them; None without a dev set.
    """
    total = loop.total_steps(len(train_set), settings)
    learner = loop.Learner(scorer.model, settings.optimizer, total)
    learner.restore(run, "reward")
    if run.step == 0:
        measure(scorer, dev_set, settings, run, step=0)

    def step(indices: list[int]) -> dict[str, float]:
        batch = [train_set[index] for index in indices]
        return learn(scorer, learner, batch, settings)

    loop.go_through(run, learner, train_set, settings, name="reward", learn=step, watch=watch)
    return measure(scorer, dev_set, settings, run, step=total)


def learn(
    scorer: Scorer, learner: loop.Learner, batch: Sequence[Example], settings: RewardSettings
) -> dict[str, float]:
    """One optimizer step: the mean loss over the examples of the batch, by weight."""
    count = sum(example.weight for example in batch)
    sums = dict.fromkeys(("loss", "accuracy", "margin"), 0.0)
    with scorer.numerics.training(scorer.model):
        for indices, row in loop.rows(batch, settings.row_tokens, scorer.numerics.device):
            shown = [batch[index] for index in indices]
            pairs = pairs_in(shown, scorer.numerics.device)
            with scorer.numerics.autocast():
                rewards = scalar.rewards(scorer.model, row)
                loss = LOSSES[settings.rankings](rewards, shown, pairs, settings) / count
            loop.backward(loss)
            chosen, rejected = rewards.detach()[pairs.better], rewards.detach()[pairs.worse]
            sums["loss"] += loss.item()
            sums["accuracy"] += float((pairs.weights * ranked_right(chosen, rejected)).sum()) / count
            sums["margin"] += float((pairs.weights * (chosen - rejected)).sum()) / count
    return {**sums, **learner.step()}


def by_pairs(rewards: Tensor, shown: Sequence[Example], pairs: RowPairs, settings: RewardSettings) -> Tensor:
    """What the judgments of a row cost, by weight: each ranking the mean over its pairs."""
    return (pairs.weights * pair_losses(rewards, pairs, settings)).sum()


def by_choices(
    rewards: Tensor, shown: Sequence[Example], pairs: RowPairs, settings: RewardSettings
) -> Tensor:
    """What the judgments of a row cost, by weight: of whole orders the likelihood, of others the pairs."""
    orders = [order_of(example) for example in shown]
    pieces = torch.split(rewards, [len(example.responses) for example in shown])
    of_orders = [
        example.weight * plackett_luce_loss(piece[list(order)])
        for example, piece, order in zip(shown, pieces, orders, strict=True)
        if order is not None
    ]
    is_open = torch.tensor([order is None for order in orders], device=rewards.device)[pairs.owners]
    levels = settings.centring * centring_loss(rewards[pairs.better], rewards[pairs.worse])
    of_pairs = torch.where(is_open, pair_losses(rewards, pairs, settings), levels)
    return (pairs.weights * of_pairs).sum() + sum(of_orders, rewards.new_zeros(()))


LOSSES = {"pairs": by_pairs, "plackett_luce": by_choices}


def pair_losses(rewards: Tensor, pairs: RowPairs, settings: RewardSettings) -> Tensor:
    """What each pair costs: [P]."""
    chosen, rejected = rewards[pairs.better], rewards[pairs.worse]
    of_strengths = settings.margin_by_strength or (settings.margin,) * 3
    margins = rewards.new_tensor([settings.margin, *of_strengths])[pairs.strengths]
    losses = bradley_terry_loss(chosen, rejected, margin=margins)
    return losses + settings.centring * centring_loss(chosen, rejected)


def measure(
    scorer: Scorer, dev_set: Sequence[Example], settings: RewardSettings, run: Run, *, step: int
) -> DevPairs | None:
    """Dev loss, the share of pairs that are ranked as people did, by length too, and calibration."""
    if not dev_set:
        return None
    with run.meter.timed("evaluation"):
        found = dev_pairs(dev_set, _scores(scorer, dev_set, settings, "dev pairs"))
        report(run, step, settings.seed, found)
    return found


def soften(scorer: Scorer, found: DevPairs, settings: RewardSettings, run: Run) -> DevPairs:
    """Divide rewards by the temperature that fits the dev pairs best, if asked for; gives the new margins."""
    if settings.temperature == "none":
        return found
    temperature = fitted_temperature(found.margins)
    run.describe(temperature=temperature)
    if temperature is None:
        progress.say("  no temperature fits the dev pairs: all or too few of them are ranked right")
        return found
    progress.say(f"  rewards are divided by {temperature:.3g}, which fits the dev pairs best")
    scalar.rescale(scorer.model, mean=0.0, deviation=temperature)
    return replace(found, margins=found.margins / temperature)


def centre(scorer: Scorer, train_set: Sequence[Example], settings: RewardSettings, run: Run) -> None:
    """Store as `reward_bias` the mean score of demonstrations, which then score 0 on average."""
    assert scalar.reward_bias(scorer.model) == 0.0, "centred once, after training"
    shown = [Example(example.prompt, (best_of(example),)) for example in train_set[:CENTRED_ON]]
    scores = torch.cat(_scores(scorer, shown, settings, "centring"))
    scorer.model.config.reward_bias = float(scores.mean())
    run.describe(reward_bias=scorer.model.config.reward_bias, reward_std=float(scores.std(correction=0)))


def _scores(scorer: Scorer, examples: Sequence[Example], settings: RewardSettings, name: str) -> list[Tensor]:
    """Rewards of every response of every example, double precision: one [K] an example."""
    values = over_rows(
        examples,
        lambda row: scalar.rewards(scorer.model, row),
        response_count,
        row_tokens=settings.row_tokens,
        numerics=scorer.numerics,
        name=name,
    )
    return [value.double() for value in values]
