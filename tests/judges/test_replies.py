"""Answers as they come over the wire: hostile bytes are a ValueError and nothing else."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.judges.replies import read_reply, without_thoughts

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def body(message: object, **rest: object) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], **rest})


def test_a_plain_answer() -> None:
    reply = read_reply(body({"content": "é"}, usage={"prompt_tokens": 3, "completion_tokens": 0}))
    assert (reply.text, reply.finish, reply.input_tokens, reply.output_tokens) == ("é", "stop", 3, 0)


@pytest.mark.parametrize("content", [None, ["parts"], 1])
def test_an_answer_without_text_is_empty(content: object) -> None:
    assert read_reply(body({"content": content})).text == ""


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": True}, {"prompt_tokens": -1}, {"prompt_tokens": "9"}]
)
def test_a_count_that_is_none(usage: object) -> None:
    reply = read_reply(body({"content": "x"}, usage=usage))
    assert (reply.input_tokens, reply.output_tokens) == (None, None)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        '{"choices": null}',
        '{"choices": []}',
        '{"choices": {}}',
        '{"choices": [7]}',
        '{"choices": [{}]}',
        body(None),
        body("text"),
        "[" * 100_000,
    ],
)
def test_what_is_no_chat_completion(raw: str) -> None:
    with pytest.raises(ValueError):
        read_reply(raw)


@given(VALUES)
def test_no_other_error_ever(tree: object) -> None:
    with contextlib.suppress(ValueError):
        read_reply(json.dumps(tree))


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        (" \n<think>a\n</think>\nb", "\nb"),
        ("<think>they wrote </think>, so 1 or 2</think>b", "b"),
        ("<think>a", ""),
        ("b <think>a</think>", "b <think>a</think>"),
        ("they wrote </think>", "they wrote </think>"),
    ],
)
def test_only_thoughts_that_begin_an_answer_are_taken_off(said: str, left: str) -> None:
    assert without_thoughts(said) == left
