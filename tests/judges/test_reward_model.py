"""A reward model's scores: of the right ids, in the right order, whatever lies beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import CHAT_TEMPLATE, tiny_tokenizer
from trimtab.data.tokens import Codec, Example, Limits, Response, UnusableRow
from trimtab.judges.reward_model import Answer, encode_answer, score
from trimtab.model.device import Numerics
from trimtab.model.scalar import Scorer, new_scorer
from trimtab.records import Message

STOP = 2
CODEC = Codec(tiny_tokenizer(), stop_id=STOP, pad_id=0)
ASKED = (Message("user", "Name a prime."),)
WIDE = Limits(prompt=200, response=50)


@pytest.fixture(scope="module")
def scorer(model_folder: Path) -> Scorer:
    numerics = Numerics(torch.device("cpu"), None)
    return new_scorer(str(model_folder), numerics, torch.Generator().manual_seed(0), bytes_per_parameter=4)


def with_other_template(scorer: Scorer) -> Scorer:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("You are a tiny model.", "You judge.")
    return Scorer(scorer.model, Codec(tokenizer, stop_id=STOP, pad_id=0), scorer.numerics, "runs/judge")


def ids(text: str) -> tuple[int, ...]:
    return tuple(CODEC.tokenizer(text, add_special_tokens=False)["input_ids"])


EXAMPLES = [
    Example((5, 6, 7), (Response((8, 9, 10, 2), True), Response((11, 12), False))),
    Example((13,), (Response((2,), True),)),
    Example((14, 15), ()),
    Example(
        (20, 21, 22, 23, 24), (Response((30, 31, 2), True), Response((32, 2), True), Response((33,), False))
    ),
]


@pytest.mark.parametrize("row_tokens", [1, 12, 1000])
def test_scores_do_not_depend_on_the_grouping(scorer: Scorer, row_tokens: int) -> None:
    found = score(scorer, EXAMPLES, row_tokens=row_tokens, name="scores")
    assert [len(scores) for scores in found] == [2, 1, 0, 3]
    for example, scores in zip(EXAMPLES, found, strict=True):
        for response, one in zip(example.responses, scores, strict=True):
            (alone,) = score(scorer, [Example(example.prompt, (response,))], row_tokens=1000, name="alone")
            assert one == pytest.approx(alone[0], abs=1e-5)
    flat = [one for scores in found for one in scores]
    assert len({round(one, 4) for one in flat}) == len(flat), "equal scores would hide a mix-up"


def test_no_gradient_is_kept(scorer: Scorer) -> None:
    score(scorer, EXAMPLES, row_tokens=1000, name="scores")
    assert all(parameter.grad is None for parameter in scorer.model.parameters())


# Texts


def test_an_answer_that_ended_has_its_stop_token() -> None:
    example = encode_answer(CODEC, Answer(ASKED, "7, surely", True), WIDE)
    assert example.prompt == CODEC.encode_prompt(ASKED, 200)[0]
    assert example.responses == (Response((*ids("7, surely"), STOP), True),)


def test_an_answer_that_was_cut_off_has_none() -> None:
    example = encode_answer(CODEC, Answer(ASKED, "7, sur", False), WIDE)
    assert example.responses == (Response(ids("7, sur"), False),)


def test_an_answer_that_is_too_long_here_is_cut() -> None:
    limits = Limits(prompt=200, response=3)
    for stopped in (True, False):
        example = encode_answer(CODEC, Answer(ASKED, "7, surely, as I said", stopped), limits)
        assert example.responses == (Response(ids("7, surely, as I said")[:3], False),)


def test_nothing_that_was_cut_off_cannot_be_scored() -> None:
    assert encode_answer(CODEC, Answer(ASKED, "", True), WIDE).responses == (Response((STOP,), True),)
    with pytest.raises(UnusableRow, match="empty and was cut off"):
        encode_answer(CODEC, Answer(ASKED, "", False), WIDE)


def test_another_tokenizer_reads_the_text_through_its_own_template(scorer: Scorer) -> None:
    judge = with_other_template(scorer)
    prompt = ids(
        "<|im_start|>system\nYou judge.<|im_end|>\n"
        "<|im_start|>user\nName a prime.<|im_end|>\n<|im_start|>assistant\n"
    )
    ended = encode_answer(judge.codec, Answer(ASKED, "7, surely", True), WIDE)
    assert ended == Example(prompt, (Response((*ids("7, surely"), STOP), True),))
    cut = encode_answer(judge.codec, Answer(ASKED, "nine", False), WIDE)
    assert cut == Example(prompt, (Response(ids("nine"), False),))
