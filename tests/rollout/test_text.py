"""Text of ids that come one by one, against decoding them all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import VOCABULARY, tiny_tokenizer
from trimtab.rollout.text import UNFINISHED, Stops, Text, pieces, trimmed

TOKENIZER = tiny_tokenizer()
STORY = "A naïve 😀😀 user asks:\n\u200bwhat — “this”?  日本語, 👩‍👩‍👧 and the rest."
WORDS = ("", "\u2581the", "\u2581user", "s", "\u2581", ".", "\u2581asks")
"""Of a tokenizer that writes a space before each word, and drops the first of all; token 0 writes nothing."""


def byte_level(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=True))


def words(ids: Sequence[int]) -> str:
    return "".join(WORDS[one] for one in ids).replace("\u2581", " ").removeprefix(" ")


some_ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=40)
"""Mostly bytes that are no text."""
story_ids = st.just(TOKENIZER(STORY, add_special_tokens=False)["input_ids"])


@given(some_ids | story_ids)
def test_what_is_given_is_all_that_is_certain(ids: list[int]) -> None:
    text, given_so_far = Text(byte_level), ""
    for count, token in enumerate(ids, start=1):
        given_so_far += text.add(token)
        assert given_so_far == byte_level(ids[:count]).rstrip(UNFINISHED)
    assert given_so_far + text.rest() == byte_level(ids)
    assert text.rest() == "", "it has been given"


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=20))
def test_a_tokenizer_whose_tokens_depend_on_their_neighbours(ids: list[int]) -> None:
    assert "".join(pieces(ids, words)) == words(ids)


def test_half_a_character_is_never_given() -> None:
    ids = TOKENIZER(STORY, add_special_tokens=False)["input_ids"]
    parts = list(pieces(ids, byte_level))
    assert "".join(parts) == STORY
    assert not any(UNFINISHED in part for part in parts)
    assert 20 < len(parts) < len(ids), "characters of several tokens come as one"
    cut = ids[: ids.index(TOKENIZER("😀", add_special_tokens=False)["input_ids"][0]) + 2]
    assert list(pieces(cut, byte_level))[-1] == UNFINISHED, "at the end, what never became a character"


def test_few_ids_are_decoded_at_a_time() -> None:
    """A character has 4 bytes at most: its tokens, and those of the one before."""
    longest = 0

    def watched(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return byte_level(ids)

    stops = Stops(["never to be found, and longer than any token"], watched)
    assert not any(stops.complete(token) for token in TOKENIZER(STORY * 3)["input_ids"])
    assert longest == 8


def first_end(
    ids: Sequence[int], strings: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> int | None:
    """By decoding the response anew after each token."""
    for count in range(1, len(ids) + 1):
        if any(string in decode(ids[:count]) for string in strings):
            return count
    return None


def found_end(
    ids: Sequence[int], strings: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> int | None:
    stops = Stops(strings, decode)
    return next((count for count, token in enumerate(ids, start=1) if stops.complete(token)), None)


@given(some_ids | story_ids, st.data())
def test_a_stop_string_is_found_at_the_token_that_completes_it(ids: list[int], data: st.DataObject) -> None:
    text = byte_level(ids) + "x"
    places = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 12))
    drawn = data.draw(st.lists(places, min_size=1, max_size=3))
    strings = [text[start : start + size].replace(UNFINISHED, "x") for start, size in drawn]
    assert found_end(ids, strings, byte_level) == first_end(ids, strings, byte_level)


@pytest.mark.parametrize(
    ("string", "end"),
    [
        ("the", 1),
        ("he", 1),  # within a token
        ("the users", 3),  # over three
        ("rs asks", 5),  # over one that writes nothing
        (" asks.", 6),
        ("asks the", None),
        ("  ", None),
    ],
)
def test_a_stop_string_may_lie_anywhere_in_tokens(string: str, end: int | None) -> None:
    ids = [1, 2, 3, 0, 6, 5]  # the users asks.
    assert found_end(ids, [string], words) == end == first_end(ids, [string], words)


@given(st.lists(st.text(alphabet=" \n\tab", max_size=4), max_size=8))
def test_trimmed_parts_are_the_trimmed_whole(parts: list[str]) -> None:
    assert "".join(trimmed(parts)) == "".join(parts).strip()


def test_space_waits_until_something_follows() -> None:
    assert list(trimmed(["\n", " a ", " ", "b", "\n"])) == ["a", "  b"]
