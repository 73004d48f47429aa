"""Ids against the tokenizer applied to chats written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tiny import CHAT_TEMPLATE, SPECIAL, tiny_tokenizer
from trimtab.data.tokens import (
    Codec,
    Encoded,
    Example,
    Limits,
    UnusableRow,
    encode_comparisons,
    encode_demonstrations,
    encode_prompts,
)
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.formats import Row
from trimtab.records import Comparison, Demonstration, Message, Preferred, Prompt, Verdict

PAD, START, STOP = range(3)
TOKENIZER = tiny_tokenizer()
CODEC = Codec(TOKENIZER, stop_id=STOP, pad_id=PAD)
INJECTED = Message("system", "You are a tiny model.")
ASKED = (Message("user", "Name a prime."),)
WIDE = Limits(prompt=500, response=500)

TEXTS = st.text(max_size=40).filter(lambda text: not any(token in text for token in SPECIAL))


def codec(change: Callable[[PreTrainedTokenizerFast], object] = lambda _: None, stop: int = STOP) -> Codec:
    """One with a tokenizer of its own that `change` has changed."""
    tokenizer = tiny_tokenizer()
    change(tokenizer)
    return Codec(tokenizer, stop_id=stop, pad_id=PAD)


def with_template(template: str | None) -> Codec:
    return codec(lambda tokenizer: setattr(tokenizer, "chat_template", template))


def written(turns: tuple[Message, ...]) -> str:
    """The chat as SmolLM2's template writes it, ready for an answer."""
    if turns[0].role != "system":
        turns = (INJECTED, *turns)
    said = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in turns)
    return said + "<|im_start|>assistant\n"


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def rows(*records: Any) -> list[Row[Any]]:
    return [Row(record, "pairs.jsonl", line) for line, record in enumerate(records, start=1)]


def pair(chosen: str, rejected: str, *, preferred: Preferred = "a", prompt: Prompt = ASKED) -> Comparison:
    return Comparison(prompt=prompt, a=chosen, b=rejected, verdict=Verdict(preferred=preferred))


# One prompt and its response


def test_a_prompt_is_what_the_template_writes_up_to_the_answer() -> None:
    found, shortened = CODEC.encode_prompt(ASKED, 500)
    assert found == ids(written(ASKED))
    assert not shortened


def test_plain_text_is_taken_as_it_is() -> None:
    assert CODEC.encode_prompt(" A prime: ", 500) == (ids(" A prime: "), False)
    response = CODEC.encode_response(" A prime: ", "7", 500)
    assert response.ids == (*ids("7"), STOP)
    assert response.stopped


def test_a_response_ends_at_its_stop_token() -> None:
    response = CODEC.encode_response(ASKED, "7, I think.", 500)
    assert response.ids == (*ids("7, I think."), STOP)  # without the line break that the template adds
    assert response.stopped
    assert CODEC.response_text(ASKED, "7, I think.") == "7, I think.<|im_end|>"


def test_an_empty_response_is_its_stop_token() -> None:
    assert CODEC.encode_response(ASKED, "", 500).ids == (STOP,)


@given(question=TEXTS, answer=TEXTS)
@settings(max_examples=60, deadline=None)
def test_the_parts_say_what_the_whole_says(question: str, answer: str) -> None:
    prompt = (Message("user", question),)
    whole = written(prompt) + answer + "<|im_end|>\n"
    parts = (*CODEC.encode_prompt(prompt, 1000)[0], *CODEC.encode_response(prompt, answer, 1000).ids)
    assert TOKENIZER.decode(parts) + "\n" == whole
    assert TOKENIZER.decode(ids(whole)) == whole


@given(answer=TEXTS, prompt=st.sampled_from(["A prime: ", ASKED]))
@settings(max_examples=60, deadline=None)
def test_any_text_survives(answer: str, prompt: Prompt) -> None:
    ids = CODEC.encode_response(prompt, answer, 1000).ids
    assert CODEC.decode(ids) == answer.strip()
    # Text to continue keeps the space that parts it from its prompt; a chat's template trims.
    assert CODEC.decode_response(prompt, ids) == (answer if isinstance(prompt, str) else answer.strip())


@given(answer=TEXTS, limit=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_a_response_that_is_cut_has_no_stop_token(answer: str, limit: int) -> None:
    full = (*ids(answer), STOP)
    response = CODEC.encode_response("A prime: ", answer, limit)
    assert response.ids == full[:limit]
    assert response.stopped == (len(full) <= limit)
    assert response.stopped == (STOP in response.ids)


def test_a_response_that_was_cut_before_gets_no_stop_token() -> None:
    for prompt in ("A prime: ", ASKED):
        response = CODEC.encode_response(prompt, "7, I th", 500, stopped=False)
        assert (response.ids, response.stopped) == (ids("7, I th"), False)
    exactly = CODEC.encode_response(ASKED, "7, I th", len(ids("7, I th")), stopped=False)
    assert (exactly.ids, exactly.stopped) == (ids("7, I th"), False)
    assert CODEC.encode_response(ASKED, "7, I th", 2, stopped=False).ids == ids("7, I th")[:2]
    with pytest.raises(UnusableRow, match="empty and was cut off"):
        CODEC.encode_response(ASKED, "", 500, stopped=False)


def test_the_limit_counts_the_stop_token() -> None:
    length = len(ids("7, I think."))
    assert CODEC.encode_response(ASKED, "7, I think.", length + 1).stopped
    cut = CODEC.encode_response(ASKED, "7, I think.", length)
    assert (cut.ids, cut.stopped) == (ids("7, I think."), False)


# Prompts that are too long

TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text("ab c", max_size=12)), max_size=6)


@given(turns=TURNS, system=st.booleans(), limit=st.integers(10, 120))
@settings(max_examples=100, deadline=None)
def test_a_long_chat_loses_whole_turns_oldest_first(
    turns: list[tuple[Any, str]], system: bool, limit: int
) -> None:
    head = (Message("system", "Be brief."),) if system else ()
    body = (*(Message(*turn) for turn in turns), Message("user", "Name a prime."))
    # Everything, then every later beginning at a user's turn, then the last turn without its system.
    candidates = [(*head, *body)]
    candidates += [(*head, *body[i:]) for i in range(1, len(body)) if body[i].role == "user"]
    candidates += [body[-1:]]
    expected = next((ids(written(chat)) for chat in candidates if len(ids(written(chat))) <= limit), None)
    if expected is None:
        with pytest.raises(UnusableRow, match=r"the last turn alone needs \d+ tokens, more than the"):
            CODEC.encode_prompt((*head, *body), limit)
        return
    found, shortened = CODEC.encode_prompt((*head, *body), limit)
    assert found == expected
    assert shortened == (found != ids(written((*head, *body))))


def test_the_system_message_stays_first_and_a_user_begins() -> None:
    chat = (
        Message("system", "Be brief."),
        Message("user", "Hello there, my friend."),
        Message("assistant", "Hello."),
        Message("user", "Name a prime."),
    )
    kept = (chat[0], chat[3])
    assert CODEC.encode_prompt(chat, len(ids(written(chat))) - 1) == (ids(written(kept)), True)


def test_long_plain_text_keeps_its_end() -> None:
    text = "one two three four five six seven"
    assert CODEC.encode_prompt(text, 5) == (ids(text)[-5:], True)
    assert CODEC.encode_prompt(text, len(ids(text))) == (ids(text), False)


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_single_turn_that_is_too_long_is_refused(role: Any) -> None:
    with pytest.raises(UnusableRow, match="last turn alone"):
        CODEC.encode_prompt((Message(role, "word " * 50),), 20)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UnusableRow, match="the prompt is empty"):
        CODEC.encode_prompt("", 20)


# Control tokens


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_control_tokens_in_a_turn_are_refused(token: str, role: Any) -> None:
    with pytest.raises(UnusableRow, match=r"control token '<\|"):
        CODEC.encode_prompt((Message(role, f"ignore{token}this"), *ASKED), 500)


def test_control_tokens_in_a_text_or_response_are_refused() -> None:
    for prompt in ("A prime: ", ASKED):
        with pytest.raises(UnusableRow, match="control token"):
            CODEC.encode_response(prompt, "7<|im_end|>8", 500)
    with pytest.raises(UnusableRow, match="control token"):
        CODEC.encode_prompt("A <|im_start|>prime: ", 500)


def test_special_tokens_that_the_tokenizer_does_not_list_are_refused() -> None:
    found = codec(lambda tokenizer: tokenizer.add_tokens([AddedToken("<|tool|>", special=True)]))
    found.tokenizer.add_tokens(["<think>"])
    assert "<|tool|>" not in found.tokenizer.all_special_tokens
    with pytest.raises(UnusableRow, match=r"<\|tool\|>"):
        found.encode_prompt((Message("user", "a <|tool|> b"),), 500)
    assert found.decode(found.encode_response(ASKED, "<think> b", 500).ids) == "<think> b"


def test_a_stop_token_that_does_not_count_as_special() -> None:
    def end_with_a_plain_token(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.add_tokens(["<|end|>"])
        tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "<|end|>")

    found = codec(end_with_a_plain_token, stop=300)
    response = found.encode_response(ASKED, "7", 500)
    assert response.ids == (*ids("7"), 300)
    assert found.decode(response.ids) == "7"
    with pytest.raises(UnusableRow, match=r"<\|end\|>"):
        found.encode_response(ASKED, "7<|end|>8", 500)


# Templates and tokenizers that do not fit


def test_pad_must_not_be_the_stop_token() -> None:
    tokenizer = tiny_tokenizer(pad_token="<|im_end|>")
    with pytest.raises(ModelError, match="pad token is the stop token") as caught:
        Codec(tokenizer, stop_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)
    assert caught.value.found == "both are id 2"


def test_chats_need_a_template() -> None:
    found = with_template(None)
    assert found.encode_prompt("A prime: ", 500)[0] == ids("A prime: ")
    with pytest.raises(ModelError, match="no chat template"):
        found.encode_prompt(ASKED, 500)


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    found = with_template(CHAT_TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'"))
    with pytest.raises(ModelError, match="rewrites the prompt once a response follows"):
        found.encode_response(ASKED, "7", 500)


def test_a_template_that_does_not_end_the_response_is_refused() -> None:
    found = with_template(
        CHAT_TEMPLATE.replace(
            "'<|im_end|>' + '\n'", "('' if message['role'] == 'assistant' else '<|im_end|>\n')"
        )
    )
    with pytest.raises(ModelError, match="does not end a response with the stop token") as caught:
        found.encode_response(ASKED, "7", 500)
    assert caught.value.found == "'7' has no '<|im_end|>'"


def test_a_row_that_the_template_refuses_is_left_out() -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    found = with_template(template + CHAT_TEMPLATE)
    encoded = encode_prompts(found, rows((Message("system", "Be brief."), *ASKED), ASKED), WIDE)
    assert encoded.left_out == [("pairs.jsonl:1", "the chat template refuses it: no system")]
    assert encoded.wheres == ["pairs.jsonl:2"]


def split_otherwise(tokenizer: PreTrainedTokenizerFast) -> None:
    """The same vocabulary, and other ids for "12 3"."""
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_what_calls_set_does_not_change_the_fingerprint() -> None:
    def pad_and_truncate(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer(["one", "another one"], padding=True, truncation=True, max_length=2)

    assert codec(pad_and_truncate).fingerprint == CODEC.fingerprint


def test_a_saved_tokenizer_has_the_same_fingerprint(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert Codec(loaded, stop_id=STOP, pad_id=PAD).fingerprint == CODEC.fingerprint


def test_the_fingerprint_changes_with_what_changes_ids() -> None:
    prints = {
        CODEC.fingerprint,
        codec(lambda tokenizer: tokenizer.add_tokens(["<new>"])).fingerprint,
        with_template(CHAT_TEMPLATE + " ").fingerprint,
        with_template(None).fingerprint,
        codec(stop=START).fingerprint,
        codec(split_otherwise).fingerprint,
    }
    assert len(prints) == 6
    assert codec().fingerprint == CODEC.fingerprint


def test_the_template_hash() -> None:
    assert with_template(None).template_hash == ""
    assert codec().template_hash == CODEC.template_hash != with_template(CHAT_TEMPLATE + " ").template_hash


# Many rows


def test_both_responses_share_the_prompt_and_the_chosen_comes_first() -> None:
    encoded = encode_comparisons(CODEC, rows(pair("7", "nine"), pair("7", "nine", preferred="b")), WIDE)
    seven, nine = (*ids("7"), STOP), (*ids("nine"), STOP)
    assert [example.prompt for example in encoded.examples] == [ids(written(ASKED))] * 2
    assert [[r.ids for r in example.responses] for example in encoded.examples] == [
        [seven, nine],
        [nine, seven],
    ]
    assert encoded.wheres == ["pairs.jsonl:1", "pairs.jsonl:2"]
    assert encoded.left_out == []
    assert +encoded.counts == {"chats": 2}
    assert encoded.tokens == 2 * (len(ids(written(ASKED))) + len(seven) + len(nine))


def test_the_pairs_of_one_ranking_share_one_judgment() -> None:
    ranked = [replace(pair("7", answer), group="r1") for answer in ("nine", "eight", "two")]
    undecided = replace(pair("7", "six", preferred="tie"), group="r1")
    alone = pair("7", "three")
    encoded = encode_comparisons(CODEC, rows(*ranked, undecided, alone), WIDE)
    assert [example.weight for example in encoded.examples] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])


def test_a_response_of_a_pair_that_was_cut_before_is_counted() -> None:
    cut = Comparison(prompt=ASKED, a="7", b="nine", stopped_b=False, verdict=Verdict(preferred="b"))
    encoded = encode_comparisons(CODEC, rows(cut), WIDE)
    (example,) = encoded.examples
    assert [(r.ids, r.stopped) for r in example.responses] == [
        (ids("nine"), False),
        ((*ids("7"), STOP), True),
    ]
    assert encoded.counts["responses cut"] == 1


def test_pairs_that_cannot_be_used_are_left_out_with_the_reason() -> None:
    long = "the same beginning, at length, and then "
    encoded = encode_comparisons(
        CODEC,
        rows(
            pair("7", "9", preferred="tie"),
            pair("7", "9", preferred="both_bad"),
            Comparison(prompt=ASKED, a="7", b="9"),
            pair(long + "7", long + "9"),
            pair("<|im_end|>", "9"),
            pair("7", "9", prompt=(Message("user", "word " * 50),)),
            pair("7", "9"),
        ),
        Limits(prompt=60, response=8),
    )
    assert encoded.wheres == ["pairs.jsonl:7"]
    reasons = [reason for _, reason in encoded.left_out]
    assert [where for where, _ in encoded.left_out] == [f"pairs.jsonl:{line}" for line in range(1, 7)]
    assert reasons[:3] == ["no winner: a tie, or not yet judged"] * 3
    assert reasons[3] == "the responses are the same in their first 8 tokens"
    assert "control token '<|im_end|>'" in reasons[4]
    assert "more than the 60 of max_prompt" in reasons[5]


def test_what_is_cut_is_counted() -> None:
    chat = (Message("user", "word " * 30), Message("assistant", "yes"), *ASKED)
    encoded = encode_comparisons(
        CODEC,
        rows(
            pair("seven, surely", "nine, surely", prompt=chat),
            pair("7", "nine, surely"),
            pair("7", "9"),
        ),
        Limits(prompt=len(ids(written(ASKED))), response=4),
    )
    assert encoded.counts == {"chats": 3, "prompts shortened": 1, "responses cut": 3}
    assert [[r.stopped for r in example.responses] for example in encoded.examples] == [
        [False, False],
        [True, False],
        [True, True],
    ]


def test_demonstrations_have_one_response_and_prompts_none() -> None:
    shown = encode_demonstrations(CODEC, rows(Demonstration(prompt=ASKED, response="7")), WIDE)
    assert [[r.ids for r in example.responses] for example in shown.examples] == [[(*ids("7"), STOP)]]
    asked = encode_prompts(CODEC, rows("A prime: ", ASKED), WIDE)
    assert asked.examples == [Example(ids("A prime: "), ()), Example(ids(written(ASKED)), ())]


def test_no_usable_row_is_an_error_with_the_commonest_reason() -> None:
    useless = rows(pair("<|im_end|>", "9"), pair("7", "9", preferred="tie"), pair("1", "2", preferred="tie"))
    with pytest.raises(DataError, match="no row can be used") as caught:
        encode_comparisons(CODEC, useless, WIDE)
    assert caught.value.where == "pairs.jsonl:1"
    assert caught.value.found == "3 rows; most often: no winner: a tie, or not yet judged"


def test_no_rows_at_all() -> None:
    with pytest.raises(DataError, match="no rows at all"):
        encode_prompts(CODEC, [], WIDE)


@pytest.mark.parametrize("name", ["prompt", "response"])
def test_limits_leave_room_for_a_token(name: str) -> None:
    assert getattr(Limits(**{name: 1}), name) == 1
    with pytest.raises(ConfigError, match="at least one token") as caught:
        Limits(**{name: 0})
    assert (caught.value.where, caught.value.found) == (f"max_{name}", "0")


def test_nothing_encoded_yet_has_no_tokens() -> None:
    assert Encoded().tokens == 0
