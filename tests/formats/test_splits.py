"""Splitting by prompt: nothing lost, nothing shared, the same every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.formats import Row, prompt_key, split_by_prompt
from trimtab.records import Message

SHARES = {"train": 0.5, "judge": 0.3, "held_out": 0.2}
ROWS = [Row(f"prompt {number % 1500}", "x.jsonl", number) for number in range(3000)]


@given(st.lists(st.text("ab ", min_size=1), max_size=30), st.integers(0, 5))
def test_splits_partition_the_rows_and_share_no_prompt(prompts, seed):
    rows = [Row(prompt, "x", line) for line, prompt in enumerate(prompts)]
    splits = split_by_prompt(rows, SHARES, seed)
    assert list(splits) == list(SHARES)
    assert sorted(row.line for split in splits.values() for row in split) == list(range(len(rows)))
    keys = [{prompt_key(row.record) for row in split} for split in splits.values()]
    assert sum(map(len, keys)) == len(set().union(*keys))


def test_shares_are_met_on_average():
    splits = split_by_prompt(ROWS, SHARES, seed=0)
    for name, share in SHARES.items():  # 4 standard errors of a share among 1,500 prompts
        assert len(splits[name]) / len(ROWS) == pytest.approx(share, abs=0.052)


def test_added_rows_do_not_move_a_prompt_and_another_seed_does():
    whole, part = split_by_prompt(ROWS, SHARES, seed=0), split_by_prompt(ROWS[1000:], SHARES, seed=0)
    assert all(set(part[name]) <= set(whole[name]) for name in SHARES)
    assert split_by_prompt(ROWS, SHARES, seed=1) != whole


def test_text_and_chat_prompts_are_keyed_by_what_they_say():
    assert prompt_key((Message("user", "a  b"),)) == prompt_key((Message("user", "a b "),))
    assert prompt_key((Message("user", "a"),)) != prompt_key((Message("system", "a"),))


@pytest.mark.parametrize(
    "shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}, {"a": float("nan")}]
)
def test_shares_that_make_no_sense_are_refused(shares):
    with pytest.raises(ConfigError, match="shares"):
        split_by_prompt(ROWS, shares, seed=0)
