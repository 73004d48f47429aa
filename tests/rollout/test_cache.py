"""The store and its layouts, against attention over whole sequences computed one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trimtab.data.batches import Span
from trimtab.rollout import cache
from trimtab.rollout.cache import DecodeLayout, KeyValueStore, PrefillLayout

HEADS, KEY_HEADS, SIZE = 6, 2, 4
SCALING = 0.3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attend_by_hand(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query [H, D] over all keys and values [K, S, D], head after head: [H, D]."""
    share = HEADS // KEY_HEADS
    heads = [
        (query[head] @ keys[head // share].T * SCALING).softmax(-1) @ values[head // share]
        for head in range(HEADS)
    ]
    return torch.stack(heads)


def filled_store(lengths: list[int], positions: int = 9) -> tuple[KeyValueStore, list[Tensor], list[Tensor]]:
    """A store prefilled with one packed row, in another order than its rows, and what is in it."""
    store = KeyValueStore(len(lengths), positions, torch.float64)
    order = list(reversed(range(len(lengths))))
    spans, start = [], 0
    for row in order:
        spans.append(Span(start, lengths[row], ()))
        start += lengths[row]
    key, value = normal(1, KEY_HEADS, start, SIZE, seed=1), normal(1, KEY_HEADS, start, SIZE, seed=2)
    PrefillLayout(store, tuple(spans), tuple(order)).attend(
        3, normal(1, HEADS, start, SIZE, seed=3), key, value, SCALING
    )
    pieces = {
        row: slice(span.start, span.start + span.prompt) for row, span in zip(order, spans, strict=True)
    }
    return (
        store,
        [key[0, :, pieces[row]] for row in range(len(lengths))],
        [value[0, :, pieces[row]] for row in range(len(lengths))],
    )


@pytest.mark.parametrize("short", [0, 128])
def test_neighbours_of_one_length_are_read_as_if_alone(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch (short prompts) and packed (long ones); both keep the same."""
    monkeypatch.setattr(cache, "SHORT", short)
    lengths = [2, 3, 3, 3, 1, 4, 4]
    query, key, value = (
        normal(1, heads, sum(lengths), SIZE, seed=seed)
        for seed, heads in enumerate((HEADS, KEY_HEADS, KEY_HEADS))
    )
    store, rows = KeyValueStore(7, 9, torch.float64), (4, 0, 6, 2, 1, 5, 3)
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    spans = tuple(Span(start, length, ()) for start, length in zip(starts, lengths, strict=True))
    attended = PrefillLayout(store, spans, rows).attend(0, query, key, value, SCALING)
    for span, row in zip(spans, rows, strict=True):
        for place in range(span.start, span.start + span.prompt):
            seen = slice(span.start, place + 1)
            expected = attend_by_hand(query[0, :, place], key[0, :, seen], value[0, :, seen])
            torch.testing.assert_close(attended[0, :, place], expected)
        tokens = slice(span.start, span.start + span.prompt)
        stored = store.layer(0, key, value)
        assert torch.equal(stored.keys[row, :, : span.prompt], key[0, :, tokens])
        assert torch.equal(stored.values[row, :, : span.prompt], value[0, :, tokens])


def test_prefill_attends_within_each_prompt_only() -> None:
    query = normal(1, HEADS, 7, SIZE, seed=3)
    key, value = normal(1, KEY_HEADS, 7, SIZE, seed=1), normal(1, KEY_HEADS, 7, SIZE, seed=2)
    layout = PrefillLayout(KeyValueStore(2, 9, torch.float64), (Span(0, 3, ()), Span(3, 4, ())), (0, 1))
    attended = layout.attend(0, query, key, value, SCALING)
    for first, last in [(0, 0), (0, 2), (3, 3), (3, 5), (3, 6)]:
        seen = slice(first, last + 1)
        expected = attend_by_hand(query[0, :, last], key[0, :, seen], value[0, :, seen])
        torch.testing.assert_close(attended[0, :, last], expected)


def test_decode_attends_to_each_rows_own_past_and_the_new_token() -> None:
    lengths = [2, 5, 1]
    store, keys, values = filled_store(lengths)
    counts = torch.tensor(lengths)
    for step in range(3):
        query = normal(3, HEADS, 1, SIZE, seed=10 + step)
        key, value = (
            normal(3, KEY_HEADS, 1, SIZE, seed=20 + step),
            normal(3, KEY_HEADS, 1, SIZE, seed=30 + step),
        )
        attended = DecodeLayout(store, counts + step).attend(3, query, key, value, SCALING)
        assert attended.shape == (3, HEADS, 1, SIZE)
        for row in range(3):
            keys[row] = torch.cat([keys[row], key[row]], dim=1)
            values[row] = torch.cat([values[row], value[row]], dim=1)
            expected = attend_by_hand(query[row, :, 0], keys[row], values[row])
            torch.testing.assert_close(attended[row, :, 0], expected)


def test_copied_rows_are_what_the_others_are() -> None:
    store, keys, values = filled_store([2, 5, 1])
    store.copy(torch.tensor([1, 0]), torch.tensor([0, 2]))  # read before anything is written
    stored = store.layer(3, keys[0][None], values[0][None])
    assert stored.keys.shape == (3, KEY_HEADS, 9, SIZE)
    for row, was in ((0, 1), (1, 1), (2, 0)):
        assert torch.equal(stored.keys[row, :, : keys[was].shape[1]], keys[was])
        assert torch.equal(stored.values[row, :, : values[was].shape[1]], values[was])


def test_a_batch_may_be_the_first_rows_only() -> None:
    store, keys, values = filled_store([2, 5, 1])
    query, key = normal(2, HEADS, 1, SIZE, seed=10), normal(2, KEY_HEADS, 1, SIZE, seed=11)
    attended = DecodeLayout(store, torch.tensor([2, 5])).attend(3, query, key, key, SCALING)
    for row in range(2):
        seen = [torch.cat([kept[row], key[row]], dim=1) for kept in (keys, values)]
        torch.testing.assert_close(attended[row, :, 0], attend_by_hand(query[row, :, 0], *seen))


def test_layers_are_kept_apart_and_in_the_stores_dtype() -> None:
    store = KeyValueStore(1, 4, torch.bfloat16)
    layout = PrefillLayout(store, (Span(0, 2, ()),), (0,))
    first, second = (
        normal(1, KEY_HEADS, 2, SIZE, seed=1).float(),
        normal(1, KEY_HEADS, 2, SIZE, seed=2).float(),
    )
    query = normal(1, HEADS, 2, SIZE).float()
    layout.attend(0, query, first, first, SCALING)
    layout.attend(1, query, second, second, SCALING)
    for layer, expected in enumerate([first, second]):
        stored = store.layer(layer, first, first)
        assert stored.keys.dtype == torch.bfloat16
        assert torch.equal(stored.keys[:, :, :2], expected.bfloat16())
        assert not stored.values[:, :, 2:].any()
