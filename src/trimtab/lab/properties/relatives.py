"""Properties 18 to 24: DPO's relatives, each where it is known what it must say.

Dimensions: P = pairs, X = prompts, Y = responses. Losses are called by the module that they live in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.lab.properties.measures import beyond, largest
from trimtab.lab.properties.property import EXACT, Lab, Property
from trimtab.losses import dpo, pointwise, preference
from trimtab.losses.pairs import PairLogprobs, PairLoss

BETA = 0.5
"""Of losses that are given margins in place of a world's responses; a power of 2, so that z = 1 is exact."""
LABEL_NOISES = (0.01, 0.1, 0.3, 0.45)
WIN_RATES = (0.05, 0.3, 0.5, 0.9)

Loss = Callable[..., PairLoss]


def certain_labels_never_rest_but_in_ipo(lab: Lab) -> float:
    """All labels agree. By descent DPO's margin grows without end, IPO's stops at 1 / (2 beta).

    For DPO with step 1 on z, e^z + z grows by at least 1 and at most 1.15 a step: z grows as the log of
    the number of steps. For a step is d = 1 / (1 + e^z) <= 1/2, (e^z + 1) d = 1, and what the
    exponential adds is e^z (e^d - 1 - d) <= 0.6 e^z d^2 <= 0.15.
    """
    margin, outside = torch.zeros(1, dtype=torch.float64), []
    for step in range(1, 201):
        margin = margin - _loss_and_slope(dpo.dpo_loss, margin).slope / BETA**2
        grown = (BETA * margin).exp() + BETA * margin - 1
        outside += [beyond(step - grown, 0), beyond(grown, 1.15 * step)]
    far = torch.linspace(-1400, 1400, 100, dtype=torch.float64)
    at_rest = _loss_and_slope(dpo.dpo_loss, far).slope >= 0
    goal = torch.zeros(1, dtype=torch.float64)
    for _ in range(60):
        goal = goal - 0.2 * _loss_and_slope(dpo.ipo_loss, goal).slope
    return largest(*outside, at_rest.double(), goal - 1 / (2 * BETA))


def smoothed_labels_have_a_goal(lab: Lab) -> float:
    """cDPO is smallest at z = logit(1 - e), where it is the entropy of e."""
    errors = []
    for noise in LABEL_NOISES:
        loss = partial(dpo.cdpo_loss, label_noise=noise)
        goal = math.log((1 - noise) / noise)
        errors += _misses_of_minimum(loss, goal / BETA)
        entropy = -noise * math.log(noise) - (1 - noise) * math.log(1 - noise)
        errors.append(_loss_and_slope(loss, _one(goal / BETA)).loss - entropy)
    return largest(*errors)


def flips_average_to_the_clean_loss(lab: Lab) -> float:
    """The robust loss under labels that flip at its rate is DPO's loss of the clean label."""
    policy, reference = (every_pair(table) for table in (lab.log_policy, lab.log_reference))
    beta, errors = lab.world.beta, []
    clean = dpo.dpo_loss(policy, reference, beta=beta).loss
    for noise in LABEL_NOISES:
        loss = partial(dpo.robust_loss, beta=beta, label_noise=noise)
        kept, flipped = loss(policy, reference).loss, loss(swapped(policy), swapped(reference)).loss
        errors.append((1 - noise) * kept + noise * flipped - clean)
    return largest(*errors)


def ipo_fits_win_rates(lab: Lab) -> float:
    """Labels for one side at rate p: IPO is smallest at a margin of (p - 1/2) / beta."""
    errors = []
    for rate in WIN_RATES:
        errors += _misses_of_minimum(_mixed(dpo.ipo_loss, rate), (rate - 0.5) / BETA)
    return largest(*errors)


def exo_vanishes_at_its_label(lab: Lab) -> float:
    """A divergence: 0 where sigma(z) = 1 - e, above 0 elsewhere."""
    errors, margins = [], torch.linspace(-40, 40, 200, dtype=torch.float64)
    for noise in LABEL_NOISES:
        loss = partial(dpo.exo_loss, label_noise=noise)
        goal = math.log((1 - noise) / noise) / BETA
        errors += _misses_of_minimum(loss, goal)
        errors.append(_loss_and_slope(loss, _one(goal)).loss)
        errors.append((_loss_and_slope(loss, margins).loss <= 0).double())
    return largest(*errors)


def hinge_ends_at_1(lab: Lab) -> float:
    """No loss and no slope from z = 1 on, and the full slope before."""
    done = torch.tensor([1.0, 1.0 + 1e-12, 1.5, 30.0, 1e4], dtype=torch.float64)
    short = torch.tensor([-1e4, -30.0, 0.0, 0.5, 1 - 1e-12], dtype=torch.float64)
    after, before = (_loss_and_slope(dpo.hinge_loss, z / BETA) for z in (done, short))
    return largest(
        after.loss, after.slope, (before.loss - (1 - short)) / short.abs().clamp(min=1), before.slope + BETA
    )


def relatives_at_their_landmarks(lab: Lab) -> float:
    """What is known of KTO, APO, SPPO, SimPO, ORPO, CPO and f-DPO without a world."""
    return largest(
        *_halves_at_the_reference(lab),
        *_goals_of_sppo(),
        *_reads_of_reference_free_losses(),
        *_slopes_of_divergences(lab),
        *_alpha_towards_1(lab),
    )


def _halves_at_the_reference(lab: Lab) -> Iterator[Tensor]:
    """KTO and APO-zero at the reference: each response costs one half of its weight."""
    both = every_pair(lab.log_reference)
    nothing = torch.zeros_like(both.chosen)
    yield pointwise.kto_loss(both, both, nothing).loss - 0.5
    for name in ("chosen_weight", "rejected_weight"):  # KTO is the mean over the two responses
        yield 2 * pointwise.kto_loss(both, both, nothing, **{name: 0.0}).loss - 0.5
    for good in (True, False):
        labels = torch.full_like(nothing, good, dtype=torch.bool)
        yield pointwise.unpaired_kto_loss(nothing, labels, nothing[0]) - 0.5
    yield pointwise.apo_zero_loss(both, both).loss - 2 * 0.5


def _goals_of_sppo() -> Iterator[Tensor]:
    """SPPO is 0 at log-ratios of +-1 / (2 beta), with no slope there; above 0 around."""
    goal = torch.tensor([1.0, -1.0], dtype=torch.float64) / (2 * BETA)
    at_goal = goal.clone().requires_grad_()
    nothing = PairLogprobs(*torch.zeros_like(goal))
    found = pointwise.sppo_loss(PairLogprobs(*at_goal), nothing, beta=BETA).loss
    yield found
    yield torch.autograd.grad(found, at_goal)[0]
    for moved in goal + 0.1 * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64):
        around = pointwise.sppo_loss(PairLogprobs(*moved), nothing, beta=BETA).loss
        yield around - 0.01


def _reads_of_reference_free_losses() -> Iterator[Tensor]:
    """SimPO, ORPO and CPO are not given a reference."""
    for name in ("simpo", "orpo", "cpo"):
        yield torch.tensor(float("reference" in preference.preference_loss(name, {}).inputs))


def _slopes_of_divergences(lab: Lab) -> Iterator[Tensor]:
    """Each f-DPO loss is -log sigma of beta times f' of both sides, f' here by differentiating f.

    The reverse divergence v log v gives DPO.
    """
    divergences: dict[str, tuple[Loss, Callable[[Tensor], Tensor]]] = {
        "reverse": (dpo.dpo_loss, lambda v: v * v.log()),
        "forward": (dpo.forward_kl_dpo_loss, lambda v: -v.log()),
        "js": (dpo.js_dpo_loss, lambda v: v * v.log() - (1 + v) * ((1 + v) / 2).log()),
        "alpha": (partial(dpo.alpha_dpo_loss, alpha=0.3), lambda v: (v**0.3 - 0.3 * v - 0.7) / (0.3 * -0.7)),
    }
    policy, reference = (every_pair(table) for table in (lab.log_policy, lab.log_reference))
    for loss, divergence in divergences.values():
        slopes = []
        for side in (0, 1):
            ratio = (policy[side] - reference[side]).exp().requires_grad_()
            slopes.append(torch.autograd.grad(divergence(ratio).sum(), ratio)[0])
        expected = torch.nn.functional.softplus(-BETA * (slopes[0] - slopes[1]), threshold=1e9)
        found = loss(policy, reference, beta=BETA).loss
        yield (found - expected) / expected.clamp(min=1)


def _alpha_towards_1(lab: Lab) -> Iterator[Tensor]:
    """alpha -> 1 is DPO, up to (1 - alpha) beta / 2 times the squared log-ratios and a factor e^x.

    For |(e^x - 1)/x - 1| <= |x|/2 e^|x|, x = (alpha - 1) log-ratio, and -log sigma has slopes up to 1.
    """
    policy, reference = (every_pair(table) for table in (lab.log_policy, lab.log_reference))
    ratios = [policy[side] - reference[side] for side in (0, 1)]
    for off in (1e-2, 1e-4, 1e-6):
        found = dpo.alpha_dpo_loss(policy, reference, beta=BETA, alpha=1 - off).loss
        limit = dpo.dpo_loss(policy, reference, beta=BETA).loss
        bound = sum(off * BETA / 2 * ratio.square() * (off * ratio.abs()).exp() for ratio in ratios)
        # Rounding of 1 - e^x leaves 1e-16 / off.
        yield beyond((found - limit).abs(), bound + 1e-14 / off)


def every_pair(table: Tensor) -> PairLogprobs:
    """All ordered pairs of different responses of each prompt, from a table [X, Y]."""
    count = table.shape[1]
    first, second = (~torch.eye(count, dtype=torch.bool)).nonzero(as_tuple=True)
    return PairLogprobs(table[:, first].flatten(), table[:, second].flatten())


def swapped(pair: PairLogprobs) -> PairLogprobs:
    return PairLogprobs(pair.rejected, pair.chosen)


class _AtMargin(NamedTuple):
    """A loss and its derivative by the log-ratio margin: [P] each."""

    loss: Tensor
    slope: Tensor


def _loss_and_slope(loss: Loss, margins: Tensor) -> _AtMargin:
    """At log-ratio margins [P], z = BETA * margin, each side having half of it."""
    margin = margins.clone().requires_grad_()
    reference = PairLogprobs(torch.full_like(margins, -3.0), torch.full_like(margins, -2.0))
    policy = PairLogprobs(reference.chosen + margin / 2, reference.rejected - margin / 2)
    found = loss(policy, reference, beta=BETA).loss
    (slope,) = torch.autograd.grad(found.sum(), margin)
    return _AtMargin(found.detach(), slope)


def _misses_of_minimum(loss: Loss, margin: float) -> list[Tensor]:
    """What the loss's slope is at the margin, and by how much it fails to lead there from either side."""
    at, before, after = (_loss_and_slope(loss, _one(margin + off)).slope for off in (0.0, -1.0, 1.0))
    return [at, (before >= 0).double(), (after <= 0).double()]


def _mixed(loss: Loss, rate: float) -> Loss:
    """The loss of a pair whose labels are for the first side at this rate."""

    def mixed(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> PairLoss:
        found = loss(policy, reference, beta=beta)
        other = loss(swapped(policy), swapped(reference), beta=beta)
        return found._replace(loss=rate * found.loss + (1 - rate) * other.loss)

    return mixed


def _one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


PROPERTIES = [
    Property(
        18,
        "labels that all agree: DPO never rests, IPO does",
        "e^z + z ~ steps,  Δ_IPO → 1/2β",
        EXACT,
        certain_labels_never_rest_but_in_ipo,
    ),
    Property(
        19,
        "cDPO is smallest where it is as sure as its labels",
        "argmin z = log((1 − ε)/ε),  min = H(ε)",
        EXACT,
        smoothed_labels_have_a_goal,
    ),
    Property(
        20,
        "robust DPO is DPO on average over flips",
        "(1 − ε) L(w, l) + ε L(l, w) = L_DPO",
        EXACT,
        flips_average_to_the_clean_loss,
    ),
    Property(21, "IPO fits win rates", "argmin Δ = (p − ½)/β", EXACT, ipo_fits_win_rates),
    Property(
        22,
        "EXO vanishes at its softened label",
        "L = 0 at σ(z) = 1 − ε,  L > 0 elsewhere",
        EXACT,
        exo_vanishes_at_its_label,
    ),
    Property(23, "the hinge ends at 1", "L = max(0, 1 − z),  ∂L/∂z = 0 for z ≥ 1", EXACT, hinge_ends_at_1),
    Property(
        24,
        "the relatives at their landmarks",
        "KTO, APO: ½ each at π_ref;  SPPO: 0 at ρ = ±1/2β;  f = v log v and α → 1 are DPO",
        EXACT,
        relatives_at_their_landmarks,
    ),
]
