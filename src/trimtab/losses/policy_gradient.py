"""Policy gradients without a value model: REINFORCE, RLOO and GRPO.

Shapes: N = response tokens, G = prompts, S = samples of one prompt, R = responses, L = longest of
them. A response's advantage is one number, the same for all its tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.losses.kl import k3
from trimtab.losses.ppo import PolicyLoss, policy_loss

GROUP_EPSILON = 1e-4
"""Added to a group's standard deviation, in reward: groups of equal rewards teach nothing."""


def reinforce_loss(logprobs: Tensor, rewards: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    """-(reward - baseline) * log policy: its gradient is the policy gradient of the expected reward.

    Args:
        logprobs: [N] nats, with gradient.
        rewards: [N] what came after each token (or of the whole response); a constant.
        baseline: [N] or one number; anything that does not depend on the token drawn leaves the
            mean of the gradient as it is and may lower its variance.

    Returns:
        [N].
    Source: Williams 1992, equation 6. Derived in docs/math.md#reinforce.
    """
    return -(rewards - baseline).detach() * logprobs


def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO: each reward less the mean of the others' of its prompt.

    Args:
        rewards: [G, S], S >= 2.

    Returns:
        [G, S] advantages; unbiased, for a sample is not its own baseline.
    Source: Ahmadian et al. 2024, arXiv:2402.14740, equation 8. Derived in docs/math.md#rloo.
    """
    samples = _samples(rewards)
    return group_centre(rewards) * (samples / (samples - 1))


def group_standardize(rewards: Tensor) -> Tensor:
    """GRPO: each reward's distance from its group's mean in standard deviations.

    Dividing by the group's own deviation makes prompts on which all samples do alike count more, and
    moves the optimum away from the one of equation 4.

    Args:
        rewards: [G, S], S >= 2.

    Returns:
        [G, S] advantages; 0 where a group's rewards are equal.
    Source: Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, section 4.1. Derived in
        docs/math.md#grpo.
    """
    centred = group_centre(rewards)
    return centred / (centred.std(-1, keepdim=True) + GROUP_EPSILON)


def group_centre(rewards: Tensor) -> Tensor:
    """Each reward less its group's mean: GRPO without the division by the deviation.

    Args:
        rewards: [G, S], S >= 2.

    Returns:
        [G, S] advantages; (S - 1)/S of `leave_one_out`.
    Source: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783, section 3.2. Derived in docs/math.md#grpo.
    """
    _samples(rewards)
    shifted = rewards - rewards[..., :1]  # so that equal rewards give 0, however their mean is rounded
    return shifted - shifted.mean(-1, keepdim=True)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip: float,
    kl_weight: float,
) -> PolicyLoss:
    """The clipped policy loss plus kl_weight * k3, token by token.

    The k3 loss pulls towards the reference by KL(reference || policy). On a one-step world the
    policy comes to rest at kl_weight * reference / (constant - reward), not at equation 4
    (with `leave_one_out` or many samples; the other advantages rescale kl_weight there).

    Args:
        logprobs, old_logprobs, advantages, clip: as in `policy_loss`.
        reference_logprobs: [N] nats.
        kl_weight: >= 0, reward per nat.
    Source: Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, equation 3. Derived in
        docs/math.md#grpo.
    """
    if not kl_weight >= 0:
        raise ValueError(f"kl_weight must be >= 0, got {kl_weight}")
    found = policy_loss(logprobs, old_logprobs, advantages, clip=clip)
    return found._replace(loss=found.loss + kl_weight * k3(logprobs, reference_logprobs))


def mean_over_responses(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over each response's tokens, then over responses: GRPO's own average.

    A token of a long response counts less: wrong answers are punished less the longer they are.

    Args:
        values: [R, L].
        mask: [R, L]; a response without a token counts as 0.
    Source: Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, equation 3. See docs/math.md#grpo.
    """
    return (torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)).mean()


def mean_over_slots(values: Tensor, mask: Tensor, *, slots: int) -> Tensor:
    """The sum over tokens by the number of responses times `slots`: unbiased in length.

    Args:
        values: [R, L].
        mask: [R, L].
        slots: tokens that a response may have at most; the same for every batch.
    Source: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783, section 3.2. See docs/math.md#grpo.
    """
    if slots < mask.shape[1]:
        raise ValueError(f"slots must be at least the longest response, {mask.shape[1]}, got {slots}")
    return torch.where(mask, values, 0.0).sum() / (len(values) * slots)


def _samples(rewards: Tensor) -> int:
    samples = rewards.shape[-1]
    if samples < 2:
        raise ValueError(f"a group needs at least 2 samples of a prompt, got {samples}")
    return samples
