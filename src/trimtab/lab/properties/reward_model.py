"""Properties 26 to 33: the reward model, its loss and its scores.

Dimensions: X = prompts, Y = responses to each; a pair [X, Y, Y] is its row's response against its column's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.data.tokens import Response
from trimtab.lab import exact
from trimtab.lab.listing import Listing
from trimtab.lab.properties.gradients import gradient, minimum
from trimtab.lab.properties.measures import beyond, largest
from trimtab.lab.properties.property import EXACT, VOCABULARY, Lab, Property
from trimtab.losses.bradley_terry import bradley_terry_loss, ranked_right, ranking_loss
from trimtab.model import scalar
from trimtab.model.scalar import Scorer
from trimtab.model.tiny import tiny_scorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def levels_are_free(lab: Lab) -> float:
    """A constant in all scores, or one for each prompt, changes no loss, gradient or accuracy."""
    listing, weights = Listing(lab.world), _judged_pairs(lab)
    scorer, row = _fresh_scorer(lab), listing.row.to(lab.numerics.device)
    level = torch.zeros(len(lab.world.prompts), 1, dtype=torch.float64, requires_grad=True)

    def measured(bias: float) -> list[Tensor]:
        scorer.model.config.reward_bias = bias
        scores = scalar.rewards(scorer.model, row).cpu().view_as(lab.world.rewards) + level
        loss = _mean_loss(scores, weights)
        by_level = torch.autograd.grad(loss, level, retain_graph=True)[0]
        accuracy, ranking = _accuracy(scores, weights), ranking_loss(scores)
        return [by_level, gradient(loss, scorer.model), loss, accuracy, ranking]

    plain, shifted = measured(0.0), measured(1.7)
    with torch.no_grad():
        level += torch.tensor([[0.3], [-5.0]])
    apart = measured(0.0)
    changes = [one - before for after in (shifted, apart) for one, before in zip(after, plain, strict=True)]
    # A gradient of 0 would not change either.
    return largest(*changes, plain[0], beyond(0.01 - plain[1].norm(), 0))


def a_constant_ranks_nothing(lab: Lab) -> float:
    """Equal scores cost ln 2, rank no pair right, and half of them where ties count half."""
    scorer, weights = _fresh_scorer(lab), _judged_pairs(lab)
    with torch.no_grad():
        scorer.model.score.weight.zero_()
    scorer.model.config.reward_bias = -0.4
    scores = lab.world.scores(scorer)
    loss, right = _mean_loss(scores, weights), _accuracy(scores, weights)
    wrong = _accuracy(-scores, weights)
    half = right + 0.5 * (1 - right - wrong)
    return largest(scores - 0.4, loss - math.log(2), right, half - 0.5)


def counts_become_rewards(lab: Lab) -> float:
    """Fitted tables: log(n_12/n_21) for two items; the rewards, up to a constant for each component."""
    firsts, seconds = 17.0, 5.0

    def two(table: Tensor) -> Tensor:
        return firsts * bradley_terry_loss(table[0], table[1]) + seconds * bradley_terry_loss(
            table[1], table[0]
        )

    pair = minimum(two, torch.zeros(2, dtype=torch.float64), steps=8)
    items = torch.arange(len(lab.world.responses))
    together = (items.unsqueeze(1) % 2 == items % 2) & (items.unsqueeze(1) != items)
    weights = together * exact.win_probabilities(lab.world.rewards)

    def all_pairs(table: Tensor) -> Tensor:
        return _mean_loss(table.view_as(lab.world.rewards), weights)

    table = minimum(all_pairs, torch.zeros(lab.world.rewards.numel(), dtype=torch.float64), steps=10)
    error = table.view_as(lab.world.rewards) - lab.world.rewards
    components = [error[:, items % 2 == half] for half in (0, 1)]
    within = [one - one.mean(-1, keepdim=True) for one in components]
    return largest(pair[0] - pair[1] - math.log(firsts / seconds), *within)


def nobody_beats_the_judge(lab: Lab) -> float:
    """No scores rank better than E max(p, 1-p) or predict better than E H(p); the true rewards reach both."""
    truth, weights = lab.world.rewards, _judged_pairs(lab)
    accuracy, entropy = _bayes_bounds(lab)
    wrong, noise = -truth, torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)).double()
    tables = [lab.world.scores(lab.scorer), wrong, torch.zeros_like(truth), noise, 3 * truth, truth]
    losses = torch.stack([_mean_loss(table, weights) for table in tables])
    accuracies = torch.stack([_accuracy(table, weights) for table in tables])
    reached = (losses[-1] - entropy, accuracies[-1] - accuracy)
    return largest(beyond(entropy - losses, 0), beyond(accuracies, accuracy), *reached)


def a_ranking_is_the_mean_of_its_pairs(lab: Lab) -> float:
    """InstructGPT's loss of K responses against a loop over its C(K, 2) pairs; for K = 2 the pairwise one."""
    scores = lab.world.scores(lab.scorer)
    errors = []
    for count in range(2, scores.shape[1] + 1):
        found = ranking_loss(scores[:, :count])
        for prompt, values in enumerate(scores[:, :count].tolist()):
            pairs = [math.log1p(math.exp(worse - better)) for better, worse in combinations(values, 2)]
            errors.append(found[prompt] - math.fsum(pairs) / math.comb(count, 2))
    pairwise = bradley_terry_loss(scores[:, 0], scores[:, 1])
    return largest(*errors, ranking_loss(scores[:, :2]) - pairwise)


def gain_and_bias_calibrate(lab: Lab) -> float:
    """Scores less their mean, over their std: 0 and 1 on the calibration sample, the same ranking."""
    scorer, world = _fresh_scorer(lab), lab.world
    before = world.scores(scorer)
    generator = torch.Generator().manual_seed(1)
    sample = torch.randint(before.numel(), (256,), generator=generator)
    mean, deviation = before.flatten()[sample].mean(), before.flatten()[sample].std(correction=0)
    scalar.rescale(scorer.model, mean=float(mean), deviation=float(deviation))
    after = world.scores(scorer)
    calibrated = after.flatten()[sample]
    moved = after.flatten().argsort() - before.flatten().argsort()
    return largest(calibrated.mean(), calibrated.std(correction=0) - 1, moved.double())


def certain_labels_have_no_minimum(lab: Lab) -> float:
    """Labels that always follow r: the loss falls along r for ever, to 0 for |r| -> infinity alone."""
    rewards = lab.world.rewards
    leads = rewards.unsqueeze(-1) - rewards.unsqueeze(-2)
    weights = (leads > 0).double() / (leads > 0).sum()
    smallest = leads[leads > 0].min()
    scale = torch.logspace(-2, 3, 26, dtype=torch.float64, requires_grad=True)
    losses = torch.stack([_mean_loss(one * rewards, weights) for one in scale])
    slopes = torch.autograd.grad(losses.sum(), scale)[0]
    # No lead exceeds sqrt(2) |r|, and none of the right ones is below the smallest.
    least = torch.log1p(torch.exp(-math.sqrt(2) * scale * rewards.norm()))
    most = torch.log1p(torch.exp(-scale * smallest))
    arbitrary = [table * rewards.norm() / table.norm() for table in _random_tables(rewards.shape, 20)]
    others = torch.stack([_mean_loss(table, weights) for table in arbitrary])
    at_rest = (slopes >= 0).double()
    floor = torch.log1p(torch.exp(-math.sqrt(2) * rewards.norm()))
    return largest(beyond(least, losses), beyond(losses, most), at_rest, beyond(floor, others))


def padding_changes_no_score(lab: Lab) -> float:
    """Packed against transformers' own attention, one sequence at a time, with more and more padding."""
    eager = copy.deepcopy(lab.scorer.model)
    eager.set_attn_implementation("eager")
    weight = eager.score.weight[0]
    packed, errors = lab.world.scores(lab.scorer), []
    for x, prompt in enumerate(lab.world.prompts):
        for y, response in enumerate(lab.world.responses):
            for padding in ((), (1,), (2, 0, 1, 1, 2)):
                states = _padded_states(eager, prompt, response, padding)
                errors.append(packed[x, y] - (states @ weight).cpu())
    return largest(*errors)


@torch.no_grad()
def _padded_states(
    model: PreTrainedModel, prompt: Sequence[int], response: Response, padding: Sequence[int]
) -> Tensor:
    """The hidden state of the response's last token, in a right-padded sequence of its own: [model size]."""
    ids = torch.tensor([[*prompt, *response.ids, *padding]])
    real = len(prompt) + len(response.ids)
    mask = (torch.arange(ids.shape[1]) < real).long().unsqueeze(0)
    output = model.base_model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    states: Tensor = output.last_hidden_state[0, real - 1]
    return states


def _fresh_scorer(lab: Lab) -> Scorer:
    """The lab's scorer again, to be changed."""
    return tiny_scorer(VOCABULARY, seed=3, numerics=lab.numerics, dtype=torch.float64)


def _judged_pairs(lab: Lab) -> Tensor:
    """How often the row's response beats the column's: two different draws from the policy, judged; sum 1."""
    drawn = lab.log_policy.exp()
    pairs = drawn.unsqueeze(-1) * drawn.unsqueeze(-2) * exact.win_probabilities(lab.world.rewards)
    pairs = pairs * (1 - torch.eye(drawn.shape[-1], dtype=drawn.dtype))
    return pairs / pairs.sum()


def _mean_loss(scores: Tensor, weights: Tensor) -> Tensor:
    return (weights * bradley_terry_loss(scores.unsqueeze(-1), scores.unsqueeze(-2))).sum()


def _accuracy(scores: Tensor, weights: Tensor) -> Tensor:
    return (weights * ranked_right(scores.unsqueeze(-1), scores.unsqueeze(-2))).sum()


def _bayes_bounds(lab: Lab) -> tuple[float, float]:
    """E max(p, 1-p) and E H(p) in nats over pairs of different responses, in plain floats."""
    total = accuracy = entropy = 0.0
    for drawn, rewards in zip(lab.log_policy.exp().tolist(), lab.world.rewards.tolist(), strict=True):
        for first, second in combinations(range(len(drawn)), 2):
            share = drawn[first] * drawn[second]
            p = 1 / (1 + math.exp(rewards[second] - rewards[first]))
            total += share
            accuracy += share * max(p, 1 - p)
            entropy -= share * (p * math.log(p) + (1 - p) * math.log(1 - p))
    return accuracy / total, entropy / total


def _random_tables(shape: Sequence[int], count: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


PROPERTIES = [
    Property(
        26, "only differences of scores are learned", "L(r + c(x)) = L(r), ∂L/∂c = 0", EXACT, levels_are_free
    ),
    Property(27, "a constant ranks nothing", "r ≡ c: L = ln 2, accuracy 0", EXACT, a_constant_ranks_nothing),
    Property(
        28,
        "labels give the rewards back",
        "r̂_i − r̂_j = log(n_ij/n_ji); r̂ = r + c in each component",
        EXACT,
        counts_become_rewards,
    ),
    Property(
        29,
        "nobody beats the judge",
        "accuracy ≤ E max(p, 1−p), NLL ≥ E H(p)",
        EXACT,
        nobody_beats_the_judge,
    ),
    Property(
        30,
        "a ranking is the mean of its pairs",
        "L_K = Σ_{i<j} ℓ(r_i − r_j) / C(K,2)",
        EXACT,
        a_ranking_is_the_mean_of_its_pairs,
    ),
    Property(
        31,
        "gain and bias set level and scale, not the order",
        "r' = (r − mean)/std: mean 0, std 1",
        EXACT,
        gain_and_bias_calibrate,
    ),
    Property(
        32,
        "certain labels have no minimum",
        "log(1 + e^{−√2‖r‖}) ≤ L(r) → 0 only for ‖r‖ → ∞",
        EXACT,
        certain_labels_have_no_minimum,
    ),
    Property(
        33,
        "padding changes no score",
        "r(x, y) = r(x, y, padding)",
        EXACT,
        padding_changes_no_score,
    ),
]
