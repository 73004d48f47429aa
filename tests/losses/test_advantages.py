"""Token rewards and GAE against sums written out, and standardisation against numbers from elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.losses.advantages import gae, standardize, token_rewards

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def mask_of(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def noise(lengths: list[int], seed: int) -> torch.Tensor:
    """Values everywhere, also where masked, so that a leak from padding shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), generator=generator, dtype=torch.float64)


@given(LENGTHS, st.floats(0, 2))
@settings(max_examples=50, deadline=None)
def test_token_rewards_sum_to_score_less_penalty(lengths: list[int], weight: float) -> None:
    mask, kl = mask_of(lengths), noise(lengths, 1)
    scores = torch.arange(len(lengths), dtype=torch.float64)
    rewards = token_rewards(scores, kl, mask, kl_weight=weight)
    torch.testing.assert_close(rewards.sum(1), scores - weight * (kl * mask).sum(1))
    assert (rewards[~mask] == 0).all()
    last = torch.tensor(lengths) - 1
    without = token_rewards(torch.zeros_like(scores), kl, mask, kl_weight=weight)
    changed = (rewards - without).nonzero().tolist()
    assert all(last[row] == step for row, step in changed)


@given(LENGTHS, st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_gae_is_the_weighted_sum_of_later_surprises(lengths: list[int], lam: float) -> None:
    mask, rewards, values = mask_of(lengths), noise(lengths, 2), noise(lengths, 3)
    found = gae(rewards, values, mask, lam=lam)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        surprises = [r[t] + v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum(lam ** (k - t) * surprises[k] for k in range(t, length))
            assert found.advantages[row, t].item() == pytest.approx(expected, abs=1e-10)
            assert found.returns[row, t].item() == pytest.approx(expected + v[t], abs=1e-10)
    assert (found.advantages[~mask] == 0).all() and (found.returns[~mask] == 0).all()


def test_lambda_1_is_what_came_after_less_what_was_expected() -> None:
    mask, rewards, values = mask_of([4, 2]), noise([4, 2], 4), noise([4, 2], 5)
    found = gae(rewards, values, mask, lam=1.0).advantages
    assert found[0, 1].item() == pytest.approx((rewards[0, 1:].sum() - values[0, 1]).item())
    assert found[1, 0].item() == pytest.approx((rewards[1, :2].sum() - values[1, 0]).item())


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_lambda_is_a_share(lam: float) -> None:
    with pytest.raises(ValueError, match="lam"):
        gae(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), lam=lam)


def test_standardised_values_have_mean_0_and_variance_1_over_real_tokens() -> None:
    mask, values = mask_of([3, 5, 1]), noise([3, 5, 1], 6) * 4 + 9
    found = standardize(values, mask)
    assert found[mask].mean().item() == pytest.approx(0, abs=1e-12)
    assert found[mask].var(correction=0).item() == pytest.approx(1, rel=1e-6)
    assert (found[~mask] == 0).all()
    torch.testing.assert_close(standardize(values * 3 + 1, mask), found)


def test_standardised_equal_values_are_0_and_finite() -> None:
    values = torch.full((2, 2), 3.0)
    assert standardize(values, torch.ones(2, 2, dtype=torch.bool)).tolist() == [[0, 0], [0, 0]]


def test_standardise_agrees_with_a_published_vector() -> None:
    """The `whiten` example of "The N implementation details of RLHF with PPO", its mean taken off."""
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]], dtype=torch.float64)
    kept_mean = [0.0508, 0.4381, 0.8254, 1.2127, 1.6000, 1.9873, 2.3746, 2.7619, 3.1492]
    found = standardize(values, torch.ones(3, 3, dtype=torch.bool)) + values.mean()
    assert found.flatten().tolist() == pytest.approx(kept_mean, abs=1e-4)
