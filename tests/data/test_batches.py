"""Packed rows against lists built token by token; batches against their definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.data.batches import Span, micro_batches, pack, shuffled_batches
from trimtab.data.tokens import Example, Response
from trimtab.errors import ConfigError

TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=6).map(tuple)
RESPONSES = st.lists(st.builds(Response, TOKENS, st.booleans()), max_size=3).map(tuple)
EXAMPLES = st.lists(st.builds(Example, TOKENS, RESPONSES), min_size=1, max_size=5)


@given(EXAMPLES)
@settings(max_examples=60, deadline=None)
def test_each_response_token_is_predicted_from_the_one_before_it(examples: list[Example]) -> None:
    row = pack(examples)
    ids, positions = row.input_ids[0].tolist(), row.position_ids[0].tolist()
    assert row.input_ids.shape == row.position_ids.shape == (1, sum(example.tokens for example in examples))
    token = response_number = 0
    for example, span in zip(examples, row.spans, strict=True):
        assert span == Span(span.start, len(example.prompt), tuple(len(r.ids) for r in example.responses))
        place = span.start
        assert tuple(ids[place : place + span.prompt]) == example.prompt
        assert positions[place : place + span.prompt] == list(range(span.prompt))
        place += span.prompt
        for response in example.responses:
            before = span.start + span.prompt - 1  # the prompt's last token
            for index, wanted in enumerate(response.ids):
                assert ids[place] == wanted == row.targets[token]
                assert positions[place] == span.prompt + index
                assert row.predictors[token] == before
                assert row.owners[token] == response_number
                before, place, token = place, place + 1, token + 1
            assert row.last[response_number] == place - 1
            assert row.stopped[response_number] == response.stopped
            response_number += 1
    assert row.predictors.shape == row.targets.shape == row.owners.shape == (token,)
    assert row.responses == row.last.numel() == row.stopped.numel() == response_number
    assert [span.start for span in row.spans] == [
        sum(example.tokens for example in examples[:index]) for index in range(len(examples))
    ]


@given(EXAMPLES)
@settings(max_examples=30, deadline=None)
def test_sum_by_response(examples: list[Example]) -> None:
    row = pack(examples)
    lengths = [len(response.ids) for example in examples for response in example.responses]
    values = torch.arange(1.0, sum(lengths) + 1, dtype=torch.float64)
    expected = [part.sum().item() for part in torch.split(values, lengths)] if lengths else []
    assert row.sum_by_response(values).tolist() == expected


def test_one_row_by_hand() -> None:
    first = Example((10, 11), (Response((20, 2), True), Response((30,), False)))
    row = pack([first, Example((12,), (Response((40, 41), False),))])
    assert row.input_ids.tolist() == [[10, 11, 20, 2, 30, 12, 40, 41]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2]]
    assert row.predictors.tolist() == [1, 2, 1, 5, 6]
    assert row.targets.tolist() == [20, 2, 30, 40, 41]
    assert row.owners.tolist() == [0, 0, 1, 2, 2]
    assert row.last.tolist() == [3, 4, 7]
    assert row.stopped.tolist() == [True, False, False]
    assert row.sum_by_response(torch.tensor([1.0, 2, 3, 4, 5])).tolist() == [3, 3, 9]


def test_sums_carry_gradients_to_every_token() -> None:
    row = pack([Example((10,), (Response((20, 2), True), Response((30,), False)))])
    values = torch.ones(3, requires_grad=True)
    (row.sum_by_response(values) * torch.tensor([2.0, 5.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [2, 2, 5]


def test_a_row_moves_whole() -> None:
    row = pack([Example((10, 11), (Response((20, 2), True),))]).to(torch.device("meta"))
    moved = (row.input_ids, row.position_ids, row.predictors, row.targets, row.owners, row.last, row.stopped)
    assert {tensor.device.type for tensor in moved} == {"meta"}
    assert row.spans == (Span(0, 2, (2,)),)


def test_an_empty_prompt_predicts_nothing() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        pack([Example((), (Response((20,), True),))])


LENGTHS = st.lists(st.integers(1, 30), max_size=20)


def of_lengths(lengths: list[int]) -> list[Example]:
    return [Example((1,) * length, ()) for length in lengths]


@given(LENGTHS, st.integers(1, 40))
def test_every_example_is_in_one_group_and_groups_keep_the_budget(lengths: list[int], budget: int) -> None:
    groups = micro_batches(of_lengths(lengths), budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert group
        assert len(group) == 1 or sum(lengths[index] for index in group) <= budget
    assert groups == micro_batches(of_lengths(lengths), budget)


@given(LENGTHS, st.integers(1, 40))
def test_groups_are_full(lengths: list[int], budget: int) -> None:
    # First fit: no later group's example would have fitted into an earlier group.
    groups = micro_batches(of_lengths(lengths), budget)
    used = [sum(lengths[index] for index in group) for group in groups]
    for later in range(len(groups)):
        shortest = min(lengths[index] for index in groups[later])
        assert all(used[earlier] + shortest > budget for earlier in range(later))


def test_longest_first() -> None:
    assert micro_batches(of_lengths([3, 9, 5, 5, 2, 12]), 10) == [[5], [1], [2, 3], [0, 4]]


def test_the_budget_counts_prompt_and_responses() -> None:
    pair = Example((1, 1), (Response((2, 2, 2), True), Response((3,), True)))
    assert micro_batches([pair, pair], 12) == [[0, 1]]
    assert micro_batches([pair, pair], 11) == [[0], [1]]


def test_a_row_has_room_for_a_token() -> None:
    with pytest.raises(ConfigError, match="at least one token") as caught:
        micro_batches(of_lengths([1]), 0)
    assert (caught.value.where, caught.value.found) == ("row_tokens", "0")


@given(st.integers(0, 25), st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_each_epoch_takes_every_example_once(count: int, size: int, epochs: int, seed: int) -> None:
    batches = list(shuffled_batches(count, size, epochs=epochs, seed=seed))
    full, rest = divmod(count, size)
    sizes = [size] * full + ([rest] if rest else [])
    assert [len(batch) for batch in batches] == sizes * epochs
    flat = [index for batch in batches for index in batch]
    for epoch in range(epochs):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert batches == list(shuffled_batches(count, size, epochs=epochs, seed=seed))


def test_orders_differ_between_epochs_and_seeds() -> None:
    flat = [index for batch in shuffled_batches(50, 7, epochs=2, seed=0) for index in batch]
    assert list(range(50)) != flat[:50] != flat[50:]
    assert flat[:50] != [index for batch in shuffled_batches(50, 7, epochs=1, seed=1) for index in batch]
