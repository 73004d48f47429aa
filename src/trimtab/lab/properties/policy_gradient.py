"""Properties 39 to 52: policy gradients, advantages, PPO, and where they lead.

Dimensions: X = prompts, Y = responses to each, R = X * Y, L = longest response, right-padded; N = tokens
of all responses, end to end; P = parameters of the model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.data.batches import micro_batches, pack
from trimtab.data.tokens import Example
from trimtab.lab import exact
from trimtab.lab.listing import Listing
from trimtab.lab.properties import optima, ppo_parts
from trimtab.lab.properties.gradients import ALONG, directions, gradient, slope_along
from trimtab.lab.properties.measures import beyond, largest
from trimtab.lab.properties.property import EXACT, Lab, Property
from trimtab.losses.advantages import gae, standardize, token_rewards
from trimtab.losses.kl import k1
from trimtab.losses.policy_gradient import reinforce_loss
from trimtab.losses.ppo import approximate_kl, policy_loss, with_pretraining
from trimtab.losses.sft import sft_loss
from trimtab.model import scalar
from trimtab.model.policy import response_logprobs
from trimtab.rollout.engine import Sampler
from trimtab.rollout.types import Rollout, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SINGLE = 1e-5
"""Nats that a log-probability of the sampler may be off: its logits, up to 10, and their sums are float32."""
CLEARLY = 0.01
"""Of the whole: what must differ differs by more."""


def reinforce_ascends_the_objective(lab: Lab) -> float:
    """With k1 in the reward its mean gradient is that of J, and no baseline changes it."""
    listing = Listing(lab.world)
    policy = lab.policy_from(1)
    logprobs = _token_table(listing, policy.model)
    returns = _rewards(lab, listing, logprobs).sum(1, keepdim=True).expand_as(logprobs)
    found = _ascent(listing, logprobs, reinforce_loss(logprobs, returns), policy.model)
    slopes = [
        slope_along(one, lambda: _objective(lab, lab.world.logprobs(policy)), policy.model) - found @ one
        for one in directions(found, count=2)
    ]
    state = listing.mean_by_state(listing.shares(lab.log_policy), _noise(listing, 1))
    baselines = (4.0, state)
    others = [
        _ascent(listing, logprobs, reinforce_loss(logprobs, returns, one), policy.model) for one in baselines
    ]
    return largest(*slopes, found - _steepest(lab, listing), *(one - found for one in others))


def advantages_of_every_lambda(lab: Lab) -> float:
    """GAE against sums; with true values every lambda is exact, with wrong ones 1 is and 0.95 is not."""
    listing = Listing(lab.world)
    model, steepest = lab.policy.model, _steepest(lab, listing)
    logprobs = _token_table(listing, model)
    rewards = _rewards(lab, listing, logprobs)

    def error(values: Tensor, lam: float) -> Tensor:
        advantages = gae(rewards, values, listing.mask, lam=lam).advantages
        return _ascent(listing, logprobs, reinforce_loss(logprobs, advantages), model) - steepest

    true = _true_values(listing, lab.log_policy, rewards)
    row = listing.row.to(lab.numerics.device)
    wrong = listing.padded(scalar.values(lab.scorer.model, row).detach().cpu())
    exactly = [error(true, lam) for lam in (0.0, 0.5, 0.95, 1.0)] + [error(wrong, 1.0)]
    # How biased depends on the values; that it is by more than rounding is what must hold.
    bias = error(wrong, 0.95).norm() / steepest.norm()
    return largest(*exactly, beyond(CLEARLY - bias, 0), *_gae_errors(listing))


def true_values_leave_no_advantage(lab: Lab) -> float:
    """E over the next token of A is 0 in every state, and the value of the prompt is J."""
    listing = Listing(lab.world)
    logprobs = _token_table(listing, lab.policy.model).detach()
    rewards = _rewards(lab, listing, logprobs)
    shares, values = listing.shares(lab.log_policy), _true_values(listing, lab.log_policy, rewards)
    errors = []
    for lam in (0.0, 0.95, 1.0):
        advantages = gae(rewards, values, listing.mask, lam=lam).advantages
        errors.append(listing.mean_by_state(shares, advantages))
    whole = exact.objective(lab.log_policy, lab.log_reference, lab.world.rewards, beta=lab.world.beta)
    begin = values[:, 0].view_as(lab.world.rewards) - whole.unsqueeze(-1)
    return largest(*errors, begin)


def the_first_step_of_an_update(lab: Lab) -> float:
    """At the start: ratio 1, nothing clipped, loss -mean A (0 if standardised), policy gradient."""
    listing, model = Listing(lab.world), lab.policy.model
    logprobs = _token_table(listing, model)
    rewards = _rewards(lab, listing, logprobs)
    values = _true_values(listing, lab.log_policy, rewards) + _noise(listing, 2)[:, :1].mean()
    advantages = gae(rewards, values, listing.mask, lam=1.0).advantages
    counts = listing.shares(lab.log_policy).unsqueeze(1) * listing.mask
    tokens = counts.sum()

    def step(given: Tensor) -> tuple[Tensor, list[Tensor]]:
        part = policy_loss(logprobs, _token_table(listing, model).detach(), given, clip=0.2)
        still = [part.ratio - 1, part.clipped.double()]
        return (counts * part.loss).sum() / tokens, still

    loss, still = step(advantages)
    white, _ = step(standardize(advantages, listing.mask, listing.shares(lab.log_policy)))
    moved = approximate_kl(logprobs, _token_table(listing, model)).detach()
    mean = (counts * advantages).sum() / tokens
    uphill = -gradient(loss, model) * tokens - _steepest(lab, listing)
    return largest(*still, moved, loss + mean, white, uphill)


def temperature_is_the_same_everywhere(lab: Lab) -> float:
    """The sampler's log-probabilities are the packed path's at its temperature, and at no other."""
    errors = []
    for temperature, other in pairwise((0.7, 1.0, 0.7)):
        rollouts = _sampled(lab, temperature)
        drawn = torch.tensor([value for one in rollouts for value in one.logprobs], dtype=torch.float64)
        row = pack([one.example for one in rollouts]).to(lab.numerics.device)
        with torch.no_grad():
            same = response_logprobs(lab.policy.model, row, temperature=temperature).cpu()
            off = response_logprobs(lab.policy.model, row, temperature=other).cpu()
        ratio = policy_loss(off, drawn, torch.ones_like(off), clip=0.2).ratio
        errors += [same - _by_transformers(lab, rollouts, temperature), beyond((same - drawn).abs(), SINGLE)]
        errors.append(beyond(CLEARLY - (ratio - 1).abs().mean(), 0))
    return largest(*errors)


def rows_add_up(lab: Lab) -> float:
    """Rows' gradients, divided by the batch's tokens, sum to the whole; the mean of rows' means does not."""
    listing, model = Listing(lab.world), lab.policy.model
    counts = listing.mask.sum(1)
    advantages = torch.where(listing.mask, _noise(listing, 3), 0.0)
    logprobs = _token_table(listing, model)
    loss = policy_loss(logprobs, logprobs.detach() - 0.1, advantages, clip=0.2).loss
    whole = gradient(loss[listing.mask].sum() / counts.sum(), model)
    singles = [Example(prompt, (one,)) for prompt in lab.world.prompts for one in lab.world.responses]
    errors = []
    for budget in (1, 9, 40):
        groups = micro_batches(singles, budget)
        parts, tokens = [], []
        for group in groups:
            row = pack([singles[index] for index in group]).to(lab.numerics.device)
            new = response_logprobs(model, row).cpu()
            given = torch.cat([advantages[index, : counts[index]] for index in group])
            parts.append(gradient(policy_loss(new, new.detach() - 0.1, given, clip=0.2).loss.sum(), model))
            tokens.append(len(new))
        errors.append(torch.stack(parts).sum(0) / sum(tokens) - whole)
        means = torch.stack([one / count for one, count in zip(parts, tokens, strict=True)]).mean(0)
        errors.append(beyond(CLEARLY - (means - whole).norm() / whole.norm(), 0))
    return largest(*errors)


def pretraining_adds_its_gradient(lab: Lab) -> float:
    """PPO-ptx: the two gradients, the second times its weight; weight 0 is PPO."""
    listing, model = Listing(lab.world), lab.policy.model
    logprobs = _token_table(listing, model)
    part = policy_loss(logprobs, logprobs.detach() + 0.05, _noise(listing, 4), clip=0.2)
    ppo = part.loss[listing.mask].mean()
    text = pack([Example((2,), lab.world.responses[2:9:3]), Example((1, 2), lab.world.responses[5:6])])
    pretraining = sft_loss(response_logprobs(model, text.to(lab.numerics.device))).mean().cpu()
    first, second = gradient(ppo, model), gradient(pretraining, model)
    errors = [
        gradient(with_pretraining(ppo, pretraining, weight=weight), model) - (first + weight * second)
        for weight in (0.0, 0.3, 27.8)
    ]
    alone = with_pretraining(ppo, pretraining, weight=0.0) - ppo
    # Gradients of 0 would add up to anything.
    return largest(*errors, alone, *(beyond(CLEARLY - one.norm(), 0) for one in (first, second)))


def _token_table(listing: Listing, model: PreTrainedModel) -> Tensor:
    """log p of each token, with gradient: [R, L]."""
    return listing.padded(listing.token_logprobs(model))


def _rewards(lab: Lab, listing: Listing, logprobs: Tensor) -> Tensor:
    """The reward of each token, the penalty by k1 taken off: [R, L]."""
    reference = listing.padded(listing.token_logprobs(lab.reference.model).detach())
    kl = k1(logprobs.detach(), reference)
    return token_rewards(listing.scores, kl, listing.mask, kl_weight=lab.world.beta)


def _objective(lab: Lab, logprobs: Tensor) -> Tensor:
    """J, mean over prompts, from [X, Y]."""
    reference, rewards = lab.log_reference, lab.world.rewards
    return exact.objective(logprobs, reference, rewards, beta=lab.world.beta).mean()


def _steepest(lab: Lab, listing: Listing) -> Tensor:
    """The gradient of J itself, by differentiating the sum over all responses: [P]."""
    return gradient(_objective(lab, listing.logprobs(lab.policy.model)), lab.policy.model)


def _ascent(listing: Listing, logprobs: Tensor, losses: Tensor, model: PreTrainedModel) -> Tensor:
    """Minus the mean gradient over the policy's samples of the losses [R, L] of their tokens: [P]."""
    sequences = torch.where(listing.mask, logprobs, 0.0).sum(1)
    shares = listing.shares(sequences).unsqueeze(1)
    return -gradient((shares * losses)[listing.mask].sum(), model)


def _true_values(listing: Listing, logprobs: Tensor, rewards: Tensor) -> Tensor:
    """What the policy will still earn on average, before each token: [R, L]."""
    to_go = rewards.flip(1).cumsum(1).flip(1)
    return listing.mean_by_state(listing.shares(logprobs), to_go)


def _gae_errors(listing: Listing) -> list[Tensor]:
    """GAE of arbitrary numbers, in the padding too, against sums written out."""
    mask, rewards, values = listing.mask, _noise(listing, 5), _noise(listing, 6)
    errors = []
    for lam in (0.0, 0.3, 0.95, 1.0):
        found = gae(rewards, values, mask, lam=lam)
        errors.append((found.returns - found.advantages - values)[mask])
        for row, length in enumerate(mask.sum(1).tolist()):
            r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
            surprises = [r[t] + v[t + 1] - v[t] for t in range(length)]
            for t in range(length):
                sums = {0.0: surprises[t], 1.0: math.fsum(r[t:]) - v[t]}
                discounted = math.fsum(lam ** (k - t) * surprises[k] for k in range(t, length))
                errors.append(found.advantages[row, t] - sums.get(lam, discounted))
    return errors


def _sampled(lab: Lab, temperature: float) -> list[Rollout]:
    """Sixteen rollouts of each prompt by the sampler that PPO uses."""
    prompts = list(lab.world.prompts) * 16
    sampling = Sampling(
        max_new=lab.world.limit, temperature=temperature, stop_ids=(lab.policy.codec.stop_id,)
    )
    return Sampler(lab.policy.model).sample(prompts, sampling, range(len(prompts)))


@torch.no_grad()
def _by_transformers(lab: Lab, rollouts: Sequence[Rollout], temperature: float) -> Tensor:
    """log-softmax(logits / temperature) of the sampled ids by transformers' own attention: [N]."""
    eager = copy.deepcopy(lab.policy.model)
    eager.set_attn_implementation("eager")
    found = []
    for one in rollouts:
        ids = torch.tensor([[*one.prompt, *one.response.ids]], device=eager.device)
        logits = eager(input_ids=ids).logits[0, len(one.prompt) - 1 : -1].cpu()
        chosen = torch.tensor(one.response.ids).unsqueeze(1)
        found.append(torch.log_softmax(logits / temperature, -1).gather(1, chosen).squeeze(1))
    return torch.cat(found)


def _noise(listing: Listing, seed: int) -> Tensor:
    """[R, L] numbers everywhere, also where masked."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(listing.mask.shape, generator=generator, dtype=torch.float64)


PROPERTIES = [
    Property(
        39,
        "REINFORCE with k1 in the reward ascends the objective",
        "E[∇log π (r − β log(π/π_ref) − b)] = ∇J",
        ALONG,
        reinforce_ascends_the_objective,
    ),
    Property(
        40,
        "advantages of every lambda",
        "A = Σ λ^k δ_{t+k}; V = V^π or λ = 1: E[A ∇log π] = ∇J",
        EXACT,
        advantages_of_every_lambda,
    ),
    Property(
        41,
        "true values leave no advantage",
        "E_{a∼π} A^π(s,a) = 0, V^π(s_0) = J(π)",
        EXACT,
        true_values_leave_no_advantage,
    ),
    Property(
        42,
        "the first step of an update is the policy gradient",
        "π = π_old: q = 1, L = −mean A, −∇L ∝ ∇J",
        EXACT,
        the_first_step_of_an_update,
    ),
    Property(
        43,
        "where the policy's clip takes the gradient",
        "∂L/∂log π = 0 where A > 0, q > 1+ε; A < 0, q < 1−ε; A < 0, q > c; else −Aq",
        EXACT,
        ppo_parts.where_the_policy_clip_takes_the_gradient,
    ),
    Property(
        44,
        "where the value's clip takes the gradient",
        "∂L/∂V = 0 where |V − V_old| > c and the clipped error is larger; L ≥ (V − R)²/2",
        EXACT,
        ppo_parts.where_the_value_clip_takes_the_gradient,
    ),
    Property(
        45,
        "standardised over real tokens",
        "mean 0, variance v/(v + 1e-8), S(aA + b) = S(A)",
        EXACT,
        ppo_parts.whitening,
    ),
    Property(
        46,
        "rewards of tokens add up",
        "Σ_t R_t = score − β Σ_t k1_t",
        EXACT,
        ppo_parts.rewards_of_tokens_add_up,
    ),
    Property(
        47,
        "the adaptive weight rests at its target",
        "β ← β(1 + clip(KL/target − 1, ±0.2) min(n/h, 1))",
        EXACT,
        ppo_parts.the_adaptive_weight,
    ),
    Property(
        48,
        "one temperature everywhere",
        "log q_sampler = log softmax(logits/τ); another τ: ratio ≠ 1",
        EXACT,
        temperature_is_the_same_everywhere,
    ),
    Property(
        49,
        "rows add up to the batch",
        "Σ_rows ∇Σ_t L_t / N = ∇ mean L; mean of rows' means ≠",
        EXACT,
        rows_add_up,
    ),
    Property(
        50,
        "pretraining adds its gradient",
        "∇L_ptx = ∇L_PPO + γ ∇L_SFT",
        EXACT,
        pretraining_adds_its_gradient,
    ),
    Property(
        51,
        "the weight decides how far",
        "β → ∞: KL ≤ range²/(8β²) → 0; β = 0: E r → max r",
        EXACT,
        optima.the_weight_decides_how_far,
    ),
    Property(
        52,
        "PPO and DPO meet",
        "argmax J = argmin E L_DPO = π*, J* − J = β KL(π‖π*); GRPO: β π_ref/(λ − r)",
        EXACT,
        optima.ppo_and_dpo_meet,
    ),
]
