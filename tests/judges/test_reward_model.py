"""A reward model's scores: of the right ids, in the right order, whatever lies beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import CHAT_TEMPLATE, tiny_tokenizer
from trimtab.data.tokens import Codec, Example, Limits, Response, UnusableRow
from trimtab.judges.judge import Answer, Unreadable
from trimtab.judges.reward_model import RewardModel, by_prompt, encode_answer, encode_answers, score
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
    example = encode_answer(CODEC, Answer(ASKED, "7, surely", True), WIDE, only_text=False)
    assert example.prompt == CODEC.encode_prompt(ASKED, 200)[0]
    assert example.responses == (Response((*ids("7, surely"), STOP), True),)


def test_an_answer_that_was_cut_off_has_none() -> None:
    example = encode_answer(CODEC, Answer(ASKED, "7, sur", False), WIDE, only_text=False)
    assert example.responses == (Response(ids("7, sur"), False),)


def test_an_answer_is_read_whole_or_not_at_all(scorer: Scorer) -> None:
    long = "7, surely, as I said"
    size, prompt = len(ids(long)) + 1, len(CODEC.encode_prompt(ASKED, 200)[0])
    answers = [Answer(ASKED, long, True), Answer(ASKED, long, False)]
    whole = encode_answers(CODEC, answers, Limits(prompt=prompt, response=size), only_text=False)
    responses = [example.responses[0] for example in whole if isinstance(example, Example)]
    assert responses == [Response((*ids(long), STOP), True), Response(ids(long), False)]

    def too_long(what: str, tokens: int, limit: int) -> Unreadable:
        return Unreadable(f"the {what} has {tokens} tokens, more than the {limit} that this judge reads")

    judge = RewardModel(scorer, limits=Limits(prompt=prompt, response=size - 1))
    first, second = judge.score(answers)
    assert first == too_long("response", size, size - 1) and isinstance(second, float)
    judge = RewardModel(scorer, limits=Limits(prompt=prompt - 1, response=size))
    text = "x" * 50
    found = judge.score([answers[0], Answer(text, "7"), Answer("x", "7")])
    assert found[0] == too_long("prompt", prompt, prompt - 1)
    assert found[1] == too_long("prompt", len(ids(text)), prompt - 1)
    assert isinstance(found[2], float)


def test_nothing_that_was_cut_off_cannot_be_scored() -> None:
    assert encode_answer(CODEC, Answer(ASKED, "", True), WIDE, only_text=False).responses == (
        Response((STOP,), True),
    )
    with pytest.raises(UnusableRow, match="empty and was cut off"):
        encode_answer(CODEC, Answer(ASKED, "", False), WIDE, only_text=False)


def test_another_tokenizer_reads_the_text_through_its_own_template(scorer: Scorer) -> None:
    judge = with_other_template(scorer)
    prompt = ids(
        "<|im_start|>system\nYou judge.<|im_end|>\n"
        "<|im_start|>user\nName a prime.<|im_end|>\n<|im_start|>assistant\n"
    )
    ended = encode_answer(judge.codec, Answer(ASKED, "7, surely", True), WIDE, only_text=False)
    assert ended == Example(prompt, (Response((*ids("7, surely"), STOP), True),))
    cut = encode_answer(judge.codec, Answer(ASKED, "nine", False), WIDE, only_text=False)
    assert cut == Example(prompt, (Response(ids("nine"), False),))


# Grouping


def answered(prompt: int, *lengths: int) -> Example:
    return Example((prompt,) * 3, tuple(Response((9,) * length, False) for length in lengths))


def test_an_example_ends_where_a_row_would_be_too_long() -> None:
    given = [(1, 4), (1, 2), (1, 1), (1, 30), (2, 5), (2, 2), (1, 1)]
    grouped = {
        10: [(1, 4, 2, 1), (1, 30), (2, 5, 2), (1, 1)],
        9: [(1, 4, 2), (1, 1), (1, 30), (2, 5), (2, 2), (1, 1)],
    }
    for row_tokens, expected in grouped.items():
        found = by_prompt([answered(*one) for one in given], row_tokens)
        assert found == [answered(*one) for one in expected]
    assert by_prompt([], 10) == []


def test_many_answers_to_one_prompt_stay_in_rows_of_the_given_size(scorer: Scorer) -> None:
    answers = [Answer("say", f"number {number}") for number in range(20)]
    sizes: list[int] = []

    def measure(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        sizes.append(named["input_ids"].numel())

    hook = scorer.model.base_model.register_forward_pre_hook(measure, with_kwargs=True)
    found = RewardModel(scorer, row_tokens=60).score(answers)
    hook.remove()
    assert len(sizes) > 3 and max(sizes) <= 60
    assert found == pytest.approx(RewardModel(scorer).score(answers), abs=1e-5)
