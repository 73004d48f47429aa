"""The shared prompt of two texts, on edge cases by hand and on random texts by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.formats.implicit import read_implicit_chat, read_implicit_text, shared_prompt
from trimtab.formats.rows import RowError
from trimtab.records import Message

TEXTS = st.text(alphabet="ab1 .:\n\u0301é", max_size=12)
TURNS = st.lists(st.sampled_from("xy"), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q: sum? 12", "Q: sum? 13", "Q: sum?"),
        ("Q: sum?12", "Q: sum?34", "Q: sum?"),
        ("Q: sum?\nten", "Q: sum?\nsix", "Q: sum?\n"),
        ("Q: cafe\u0301", "Q: cafe!", "Q:"),
        ("Q: x. Yes", "Q: x. Yes, but", "Q: x. Yes"),
        ("ab", "ab", "ab"),
        ("12", "13", ""),
        ("a", "b", ""),
    ],
)
def test_shared_prompt(chosen, rejected, prompt):
    assert chosen[: shared_prompt(chosen, rejected)] == prompt
    assert rejected[: shared_prompt(rejected, chosen)] == prompt


@given(TEXTS, TEXTS, TEXTS)
def test_a_pair_is_read_losslessly_or_refused_with_a_reason(prompt, first, second):
    chosen, rejected = prompt + first, prompt + second
    try:
        pair = read_implicit_text({"chosen": chosen, "rejected": rejected})
    except RowError as error:
        assert error.kind in ("empty reply", "identical pair", "differing prompts")
        return
    assert (pair.prompt + pair.chosen, pair.prompt + pair.rejected) == (chosen, rejected)
    assert pair.prompt.strip() and pair.chosen.strip() and pair.rejected.strip()
    assert not (pair.prompt[-1].isalnum() and pair.chosen[0].isalnum() and pair.rejected[0].isalnum())


@given(st.from_regex(r"[a-z]{1,5}( [a-z]{1,5}){0,3}[?.]", fullmatch=True))
def test_a_prompt_that_ends_with_punctuation_is_found_whole(prompt):
    pair = read_implicit_text({"chosen": f"{prompt} yes", "rejected": f"{prompt} yonder"})
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, " yes", " yonder")


@pytest.mark.parametrize(
    ("chosen", "rejected", "kind", "field"),
    [
        ("yes", "no", "differing prompts", "rejected"),
        ("Q: x. Yes", "Q: x. Yes, but", "empty reply", "chosen"),
        ("Q: x. Yes, but", "Q: x. Yes", "empty reply", "rejected"),
        ("Q: x", "Q: x", "identical pair", "rejected"),
        ("", "Q: x", "empty reply", "chosen"),
    ],
)
def test_texts_without_a_certain_prompt_are_refused(chosen, rejected, kind, field):
    with pytest.raises(RowError) as caught:
        read_implicit_text({"chosen": chosen, "rejected": rejected})
    assert (caught.value.kind, caught.value.field) == (kind, field)


def chat(turns):
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


@given(TURNS, TURNS)
def test_chats_share_a_prompt_or_are_refused(first, second):
    reply = {"role": "assistant", "content": "A"}
    other = {"role": "assistant", "content": "B"}
    row = {"chosen": [*chat(first), reply], "rejected": [*chat(second), other]}
    if first == second and len(first) % 2 == 1:
        pair = read_implicit_chat(row)
        assert [turn.content for turn in pair.prompt] == first
        assert (pair.prompt[0], pair.chosen, pair.rejected) == (Message("user", first[0]), "A", "B")
    elif first != second:
        with pytest.raises(RowError) as caught:
            read_implicit_chat(row)
        assert caught.value.kind == "differing prompts"


def test_chats_of_differing_length_are_refused_where_they_part():
    row = {"chosen": chat(["q", "a", "r", "b"]), "rejected": chat(["q", "c"])}
    with pytest.raises(RowError) as caught:
        read_implicit_chat(row)
    assert (caught.value.kind, caught.value.field) == ("differing prompts", "rejected[1]")
    assert caught.value.found == "the reply where `chosen` has 'a'"
