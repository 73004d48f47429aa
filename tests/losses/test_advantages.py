"""Token rewards, GAE and standardisation: sums written out, a world of seven responses, and weights."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.losses.advantages import (
    ADVANTAGES,
    EPSILON,
    centre,
    gae,
    scale_to_unit_variance,
    standardize,
    token_rewards,
    unchanged,
)

SHAPES: list[Callable[..., Tensor]] = [standardize, centre, unchanged]
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)
DTYPES = [torch.float32, torch.float64]
NAN = float("nan")


def mask_of(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def noise(lengths: list[int], seed: int) -> Tensor:
    """Values everywhere, also where masked, so that a leak from padding shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), generator=generator, dtype=torch.float64)


def real(values: Tensor, lengths: list[int]) -> list[float]:
    return [value for row, length in enumerate(lengths) for value in values[row, :length].tolist()]


def with_padding(values: Tensor, mask: Tensor, rubbish: float) -> Tensor:
    return torch.where(mask, values, rubbish)


# --- Token rewards ---


@given(LENGTHS, st.floats(0, 2))
@settings(max_examples=50)
def test_token_rewards_are_the_penalty_everywhere_and_the_score_at_the_end(
    lengths: list[int], weight: float
) -> None:
    mask, kl, scores = mask_of(lengths), noise(lengths, 1), noise(lengths, 7)[:, 0]
    rewards = token_rewards(scores, kl, mask, kl_weight=weight)
    for row, length in enumerate(lengths):
        expected = [-weight * kl[row, step].item() for step in range(length)]
        expected[-1] += scores[row].item()
        assert rewards[row, :length].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)
        penalty = weight * math.fsum(kl[row, :length].tolist())
        assert math.fsum(rewards[row].tolist()) == pytest.approx(scores[row].item() - penalty, abs=1e-12)
    assert (rewards[~mask] == 0).all()


def test_a_response_of_one_token_gets_both_on_it() -> None:
    rewards = token_rewards(
        torch.tensor([2.0]), torch.tensor([[0.5]]), torch.ones(1, 1).bool(), kl_weight=0.5
    )
    assert rewards.tolist() == [[1.75]]


def test_a_response_without_a_token_cannot_carry_its_score() -> None:
    mask = torch.tensor([[True, False], [False, False], [True, True], [False, False]])
    with pytest.raises(ValueError, match=r"^responses without a token cannot carry a score: \[1, 3\]$"):
        token_rewards(torch.ones(4), torch.zeros(4, 2), mask, kl_weight=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_token_rewards_have_the_type_of_the_log_ratios(dtype: torch.dtype) -> None:
    other = torch.float64 if dtype == torch.float32 else torch.float32
    mask = mask_of([2, 1])
    found = token_rewards(torch.ones(2, dtype=other), torch.ones(2, 2, dtype=dtype), mask, kl_weight=0.5)
    assert found.dtype == dtype
    assert found.tolist() == [[-0.5, 0.5], [0.5, 0.0]]


@pytest.mark.parametrize("rubbish", [1e30, math.inf, NAN])
def test_padding_takes_no_part_in_anything(rubbish: float) -> None:
    lengths = [3, 1, 2]
    mask, kl, values = mask_of(lengths), noise(lengths, 1), noise(lengths, 2)
    dirty_kl, dirty = with_padding(kl, mask, rubbish), with_padding(values, mask, rubbish)
    scores = torch.ones(3, dtype=torch.float64)
    assert torch.equal(
        token_rewards(scores, kl, mask, kl_weight=0.3), token_rewards(scores, dirty_kl, mask, kl_weight=0.3)
    )
    for one, other in zip(gae(kl, values, mask, lam=0.9), gae(dirty_kl, dirty, mask, lam=0.9), strict=True):
        assert torch.equal(one, other)
    for shape in (*SHAPES, scale_to_unit_variance):
        assert torch.equal(shape(values, mask), shape(dirty, mask))


# --- GAE ---


@given(LENGTHS, st.floats(0, 1) | st.sampled_from([0.0, 1.0]))
@settings(max_examples=50)
def test_gae_is_the_weighted_sum_of_later_surprises(lengths: list[int], lam: float) -> None:
    mask, rewards, values = mask_of(lengths), noise(lengths, 2), noise(lengths, 3)
    found = gae(rewards, values, mask, lam=lam)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        surprises = [r[t] + v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = math.fsum(lam ** (k - t) * surprises[k] for k in range(t, length))
            assert found.advantages[row, t].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert found.returns[row, t].item() == pytest.approx(expected + v[t], rel=1e-12, abs=1e-12)
    assert (found.advantages[~mask] == 0).all() and (found.returns[~mask] == 0).all()


def test_lambda_1_is_what_came_after_less_what_was_expected() -> None:
    lengths = [4, 2]
    mask, rewards, values = mask_of(lengths), noise(lengths, 4), noise(lengths, 5)
    found = gae(rewards, values, mask, lam=1)
    for row, length in enumerate(lengths):
        for t in range(length):
            came = math.fsum(rewards[row, t:length].tolist())
            assert found.returns[row, t].item() == pytest.approx(came, rel=1e-12)
            assert found.advantages[row, t].item() == pytest.approx(came - values[row, t].item(), rel=1e-12)


def test_lambda_0_is_one_step_ahead() -> None:
    lengths = [4, 1]
    mask, rewards, values = mask_of(lengths), noise(lengths, 4), noise(lengths, 5)
    found = gae(rewards, values, mask, lam=0)
    for row, length in enumerate(lengths):
        r, v = rewards[row].tolist(), [*values[row, :length].tolist(), 0.0]
        expected = [r[t] + v[t + 1] for t in range(length)]
        assert found.returns[row, :length].tolist() == pytest.approx(expected, rel=1e-12)


@given(LENGTHS, st.floats(0, 1))
@settings(max_examples=30)
def test_values_that_are_right_for_each_response_leave_no_advantage(lengths: list[int], lam: float) -> None:
    mask, rewards = mask_of(lengths), noise(lengths, 6)
    to_come = torch.where(mask, rewards, 0.0).flip(1).cumsum(1).flip(1)
    found = gae(rewards, to_come, mask, lam=lam)
    torch.testing.assert_close(found.advantages, torch.zeros_like(rewards), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gae_of_rows_without_a_token_is_0(dtype: torch.dtype) -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    found = gae(torch.ones(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype), mask, lam=0.95)
    for tensor in found:
        assert tensor.shape == (2, 3) and tensor.dtype == dtype and (tensor == 0).all()


@pytest.mark.parametrize("lam", [-1e-9, -0.1, 1 + 1e-9, 1.5, 2.0, NAN])
def test_lambda_is_a_share(lam: float) -> None:
    with pytest.raises(ValueError, match=rf"^lam must be in \[0, 1\], got {re.escape(str(lam))}$"):
        gae(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), lam=lam)


# --- A world of seven responses: token 0 ends it, after 1 or 2 comes one more token ---

PATHS = [[(0, 0)], *[[(0, a), (a, b)] for a in (1, 2) for b in range(3)]]  # (state, token)
SCORES = [1.0, -0.5, 2.0, 0.3, 0.7, -1.2, 0.1]
LOGITS = [0.3, -0.2, 0.5, 1.0, 0.1, -0.4, -0.9, 0.6, 0.2]  # of three states
REFERENCE = [0.0, 0.4, -0.3, 0.2, 0.2, 0.5, 0.7, -0.6, 0.1]
BETA = 0.4


def tables(logits: list[float]) -> list[list[float]]:
    """Probabilities of the tokens in each state."""
    rows = [[math.exp(logit) for logit in logits[start : start + 3]] for start in (0, 3, 6)]
    return [[odds / math.fsum(row) for odds in row] for row in rows]


def probability(table: list[list[float]], path: list[tuple[int, int]]) -> float:
    return math.prod(table[state][token] for state, token in path)


def objective(logits: list[float]) -> float:
    """Expected score less BETA times the divergence of whole responses."""
    policy, reference = tables(logits), tables(REFERENCE)
    found = []
    for path, score in zip(PATHS, SCORES, strict=True):
        mine, theirs = probability(policy, path), probability(reference, path)
        found.append(mine * (score - BETA * math.log(mine / theirs)))
    return math.fsum(found)


def objective_slopes(step: float = 1e-5) -> list[float]:
    found = []
    for index in range(len(LOGITS)):
        up, down = list(LOGITS), list(LOGITS)
        up[index] += step
        down[index] -= step
        found.append((objective(up) - objective(down)) / (2 * step))
    return found


def exact_values() -> list[float]:
    """Of each state, from the last step backwards in plain floats."""
    policy, reference = tables(LOGITS), tables(REFERENCE)

    def token_value(state: int, token: int, then: float) -> float:
        here = policy[state][token]
        return here * (then - BETA * math.log(here / reference[state][token]))

    one = math.fsum(token_value(1, token, SCORES[1 + token]) for token in range(3))
    two = math.fsum(token_value(2, token, SCORES[4 + token]) for token in range(3))
    ends = token_value(0, 0, SCORES[0])
    return [math.fsum([ends, token_value(0, 1, one), token_value(0, 2, two)]), one, two]


class World:
    """All responses at once, right-padded, with rubbish in the padding."""

    def __init__(self) -> None:
        self.logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
        self.mask = mask_of([len(path) for path in PATHS])
        states = torch.tensor([[path[0][0], path[-1][0]] for path in PATHS])
        tokens = torch.tensor([[path[0][1], path[-1][1]] for path in PATHS])
        self.states = states
        self.logprobs = torch.log_softmax(self.logits.view(3, 3), 1)[states, tokens]
        reference = torch.log_softmax(torch.tensor(REFERENCE, dtype=torch.float64).view(3, 3), 1)
        scores = torch.tensor(SCORES, dtype=torch.float64)
        log_ratio = (self.logprobs - reference[states, tokens]).detach()
        self.rewards = token_rewards(scores, log_ratio, self.mask, kl_weight=BETA)
        self.weights = (self.logprobs * self.mask).sum(1).exp().detach()

    def advantages(self, values: list[float], lam: float) -> Tensor:
        return gae(self.rewards, torch.tensor(values, dtype=torch.float64)[self.states], self.mask, lam=lam)[
            0
        ]

    def ascent(self, advantages: Tensor) -> list[float]:
        """E[sum_t A_t grad log policy_t], exactly."""
        total = (self.weights[:, None] * advantages * self.logprobs).sum()
        return torch.autograd.grad(total, self.logits, retain_graph=True)[0].tolist()


WRONG = [0.9, -0.8, 1.7]  # values of the three states, all off


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_with_exact_values_every_lambda_gives_the_exact_gradient(lam: float) -> None:
    world = World()
    assert exact_values()[0] == pytest.approx(objective(LOGITS), rel=1e-12)
    advantages = world.advantages(exact_values(), lam)
    assert world.ascent(advantages) == pytest.approx(objective_slopes(), abs=1e-9)
    for state in range(3):  # E[A | state] = 0
        here = world.mask & (world.states == state)
        mean = (world.weights[:, None] * advantages * here).sum().item()
        assert mean == pytest.approx(0, abs=1e-14)


def test_with_wrong_values_only_lambda_1_gives_the_exact_gradient() -> None:
    world = World()
    assert world.ascent(world.advantages(WRONG, 1.0)) == pytest.approx(objective_slopes(), abs=1e-9)
    found = world.ascent(world.advantages(WRONG, 0.95))
    assert max(abs(a - b) for a, b in zip(found, objective_slopes(), strict=True)) > 1e-3


def test_a_weighted_centre_is_a_baseline_that_every_token_shares() -> None:
    """It is a constant for the batch: with one constant taken off, the exact gradient stays."""
    world = World()
    advantages = world.advantages(exact_values(), 1.0)
    centred = centre(advantages + 5, world.mask, world.weights)
    assert world.ascent(centred) == pytest.approx(objective_slopes(), abs=1e-9)
    tokens = (world.weights[:, None] * world.mask).sum().item()
    mean = (world.weights[:, None] * (advantages + 5) * world.mask).sum().item() / tokens
    expected = torch.where(world.mask, advantages + 5 - mean, 0.0)
    torch.testing.assert_close(centred, expected, rtol=1e-12, atol=1e-13)


# --- Standardise, centre, leave ---


@given(LENGTHS, st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=50)
def test_all_three_from_their_definitions(lengths: list[int], shift: float, scale: float) -> None:
    mask, values = mask_of(lengths), noise(lengths, 6) * scale + shift
    tokens = real(values, lengths)
    mean, variance = statistics.fmean(tokens), statistics.pvariance(tokens)
    deviation = math.sqrt(variance + 1e-8)
    expected = {
        "standardized": [(token - mean) / deviation for token in tokens],
        "centred": [token - mean for token in tokens],
        "plain": tokens,
    }
    assert set(ADVANTAGES) == set(expected)
    for name, plain in expected.items():
        found = ADVANTAGES[name](values, mask)
        # A mean is off by its rounding, which a single token divides by 1e-4.
        assert real(found, lengths) == pytest.approx(plain, rel=1e-10, abs=1e-10), name
        assert found.shape == values.shape and (found[~mask] == 0).all()


def test_the_table_of_what_may_be_done() -> None:
    assert {"standardized": standardize, "centred": centre, "plain": unchanged} == ADVANTAGES


def test_standardised_values_have_mean_0_and_variance_1_over_real_tokens() -> None:
    mask, values = mask_of([3, 5, 1]), noise([3, 5, 1], 6) * 4 + 9
    found = standardize(values, mask)
    variance = statistics.pvariance(real(values, [3, 5, 1]))
    assert found[mask].mean().item() == pytest.approx(0, abs=1e-14)
    assert found[mask].var(correction=0).item() == pytest.approx(variance / (variance + 1e-8), rel=1e-12)
    torch.testing.assert_close(standardize(values * 3 + 1, mask), found, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(standardize(-values, mask), -found, rtol=1e-12, atol=1e-13)
    assert torch.equal(found > 0, mask & (values > values[mask].mean()))


def test_what_stands_under_the_root_is_1e_8() -> None:
    """On values whose variance is as small as that: +-1e-4 becomes +-1/sqrt(2)."""
    assert EPSILON == 1e-8
    found = standardize(torch.tensor([[-1e-4, 1e-4]], dtype=torch.float64), torch.ones(1, 2).bool())
    assert found.tolist()[0] == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], rel=1e-12)


@given(LENGTHS, st.integers(-1000, 1000).map(lambda tenths: tenths / 10))
@settings(max_examples=50)
def test_equal_values_become_0_up_to_rounding(lengths: list[int], value: float) -> None:
    mask = mask_of(lengths)
    values = torch.full(mask.shape, value, dtype=torch.float64)
    rounding = 16 * torch.finfo(values.dtype).eps * abs(value)  # of shares of 1/n and of their sum
    assert centre(values, mask).abs().max() <= rounding
    assert standardize(values, mask).abs().max() <= rounding * 1e4  # 1 / sqrt(1e-8)
    assert torch.equal(unchanged(values, mask), mask * values)


def test_equal_values_become_0_where_their_mean_is_rounded() -> None:
    assert standardize(torch.full((4, 5), 100.1), torch.ones(4, 5).bool()).abs().max() <= 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [None, torch.ones(2), torch.zeros(2)])
def test_batches_without_a_token_are_zeros(dtype: torch.dtype, weights: Tensor | None) -> None:
    values, mask = torch.full((2, 3), 7.0, dtype=dtype), torch.zeros(2, 3, dtype=torch.bool)
    for name, shape in ADVANTAGES.items():
        found = shape(values, mask, weights)
        assert found.dtype == dtype and found.tolist() == [[0, 0, 0]] * 2, name
    assert scale_to_unit_variance(values, mask).tolist() == [[0, 0, 0]] * 2


def test_a_row_without_a_token_takes_no_part() -> None:
    values, mask = noise([3, 3, 3], 1), mask_of([3, 0, 2])
    for shape in (*SHAPES, scale_to_unit_variance):
        found = shape(values, mask)
        torch.testing.assert_close(found[[0, 2]], shape(values[[0, 2]], mask[[0, 2]]), rtol=1e-12, atol=1e-14)
        assert (found[1] == 0).all()


# --- Weights ---


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5))
@settings(max_examples=50)
def test_whole_weights_are_repeated_rows(rows: list[tuple[int, int]]) -> None:
    lengths, counts = [length for length, _ in rows], torch.tensor([count for _, count in rows])
    mask, values = mask_of(lengths), noise(lengths, 8) + 3
    for shape in SHAPES:
        weighted = shape(values, mask, counts)
        repeated = shape(values.repeat_interleave(counts, 0), mask.repeat_interleave(counts, 0))
        torch.testing.assert_close(weighted.repeat_interleave(counts, 0), repeated, rtol=1e-10, atol=1e-10)
        assert weighted.dtype == torch.float64


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 1e6])
def test_only_the_ratio_of_weights_counts(shape: Callable[..., Tensor], scale: float) -> None:
    """Also where they sum to less than 1, as probabilities of a few responses do."""
    values, mask = noise([2, 1, 3], 9), mask_of([2, 1, 3])
    weights = torch.tensor([0.2, 0.5, 0.1], dtype=torch.float64)
    found = shape(values, mask, weights * scale)
    torch.testing.assert_close(found, shape(values, mask, weights), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("total", [0.3, 1.0, 4.0])
def test_a_weighted_mean_in_plain_floats(total: float) -> None:
    values, shares = [[1.0], [5.0]], [0.25, 0.75]
    found = centre(
        torch.tensor(values, dtype=torch.float64),
        torch.ones(2, 1).bool(),
        torch.tensor(shares, dtype=torch.float64) * total,
    )
    assert found.flatten().tolist() == pytest.approx([-3, 1], rel=1e-12)
    scaled = standardize(
        torch.tensor(values, dtype=torch.float64),
        torch.ones(2, 1).bool(),
        torch.tensor(shares, dtype=torch.float64) * total,
    )
    deviation = math.sqrt(0.25 * 9 + 0.75 * 1 + 1e-8)
    assert scaled.flatten().tolist() == pytest.approx([-3 / deviation, 1 / deviation], rel=1e-12)


def test_equal_weights_are_none() -> None:
    values, mask = noise([2, 3], 9), mask_of([2, 3])
    for shape in SHAPES:
        torch.testing.assert_close(
            shape(values, mask, torch.full((2,), 0.7)), shape(values, mask), rtol=1e-12, atol=1e-13
        )


def test_a_response_without_weight_shifts_no_other() -> None:
    values, mask = noise([2, 3], 9), mask_of([2, 3])
    found = standardize(values, mask, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found[:1], standardize(values[:1], mask[:1]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [torch.float32, torch.float64, torch.int64])
def test_the_type_is_that_of_the_advantages(dtype: torch.dtype, weights: torch.dtype) -> None:
    values, mask = noise([2, 3], 9).to(dtype), mask_of([2, 3])
    for shape in SHAPES:
        assert shape(values, mask, torch.ones(2, dtype=weights)).dtype == dtype
        assert shape(values, mask).dtype == dtype
    assert scale_to_unit_variance(values, mask).dtype == dtype


# --- Scaling that keeps the mean ---


def test_scaling_is_a_division_and_a_constant() -> None:
    """(r - m)/s + m = r/s + m(1 - 1/s): each token gets m(1 - 1/s) beside its scaled reward."""
    lengths = [3, 5, 1]
    mask, rewards = mask_of(lengths), noise(lengths, 6) * 4 + 9
    tokens = real(rewards, lengths)
    mean, deviation = statistics.fmean(tokens), math.sqrt(statistics.pvariance(tokens) + 1e-8)
    found = scale_to_unit_variance(rewards, mask)
    assert real(found, lengths) == pytest.approx([(r - mean) / deviation + mean for r in tokens], rel=1e-12)
    constants = [new - old / deviation for new, old in zip(real(found, lengths), tokens, strict=True)]
    assert constants == pytest.approx([mean * (1 - 1 / deviation)] * len(tokens), rel=1e-12)
    assert found[mask].mean().item() == pytest.approx(mean, rel=1e-12)
    assert (found[~mask] == 0).all()


def test_both_agree_with_a_published_vector() -> None:
    """The `whiten` example of "The N implementation details of RLHF with PPO", with and without its mean."""
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]], dtype=torch.float64)
    kept_mean = [0.0508, 0.4381, 0.8254, 1.2127, 1.6000, 1.9873, 2.3746, 2.7619, 3.1492]
    mask = torch.ones(3, 3, dtype=torch.bool)
    assert scale_to_unit_variance(values, mask).flatten().tolist() == pytest.approx(kept_mean, abs=5e-5)
    moved = [value - 1.6 for value in kept_mean]
    assert standardize(values, mask).flatten().tolist() == pytest.approx(moved, abs=5e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_stay_finite(dtype: torch.dtype) -> None:
    values, mask = torch.tensor([[1e4, -1e4, 1e4], [0.0, 1e-4, 7.0]], dtype=dtype), mask_of([3, 1])
    for shape in (*SHAPES, scale_to_unit_variance):
        assert torch.isfinite(shape(values, mask)).all()
    for tensor in gae(values, -values, mask, lam=0.95):
        assert torch.isfinite(tensor).all()
