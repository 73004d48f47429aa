"""Rankings as one example: what is joined, in which order, and what it counts."""

from __future__ import annotations

import itertools

import pytest
import torch

from tiny import tiny_tokenizer
from trimtab.data.rankings import best_of, encode_rankings, joined, order_of, pairs_in, pairs_of
from trimtab.data.tokens import Codec, Example, Limits, Pair, Response
from trimtab.formats.rows import Row
from trimtab.records import Comparison, Verdict

CODEC = Codec(tiny_tokenizer(), stop_id=2, pad_id=0)
CPU = torch.device("cpu")
A, B, C, D = (Response((number, 2), True) for number in (10, 11, 12, 13))


def pair(better: Response, worse: Response, group: str = "r", *, strength: int | None = None) -> Example:
    return Example((5, 6), (better, worse), weight=0.5, pairs=(Pair(0, 1, strength),), group=group)


def said(example: Example) -> set[tuple[Response, Response]]:
    return {(example.responses[p.better], example.responses[p.worse]) for p in pairs_of(example)}


def test_pairs_of_a_group_share_prompt_and_responses() -> None:
    (found,) = joined([pair(A, B), pair(C, A, strength=3), pair(C, B)])
    assert found.responses == (A, B, C) and found.prompt == (5, 6)
    assert found.pairs == (Pair(0, 1), Pair(2, 0, 3), Pair(2, 1))
    assert found.weight == 1.5 and found.group == "r"
    assert found.tokens == 2 + 3 * 2


def test_what_does_not_belong_together_stays_apart() -> None:
    other_prompt = Example((7,), (A, B), pairs=(Pair(0, 1),), group="r")
    given = [pair(A, B), pair(A, B, ""), other_prompt, pair(C, D, "s"), pair(A, B, ""), pair(B, C)]
    found = joined(given)
    assert [one.group for one in found] == ["r", "", "r", "s", ""]
    assert found[0].responses == (A, B, C) and found[1:] == given[1:5]


def test_every_order_is_found_and_nothing_else_is_one() -> None:
    for order in itertools.permutations((A, B, C, D)):
        pairs = [pair(*both) for both in itertools.combinations(order, 2)]
        (whole,) = joined(pairs[::-1])
        places = order_of(whole)
        assert places is not None and tuple(whole.responses[place] for place in places) == order
        assert best_of(whole) == order[0]
        (with_a_gap,) = joined(pairs[1:])
        assert order_of(with_a_gap) is None
    (circle,) = joined([pair(A, B), pair(B, C), pair(C, A)])
    assert order_of(circle) is None
    (contradiction,) = joined([pair(A, B), pair(B, A)])
    assert order_of(contradiction) is None
    assert order_of(Example((5,), (A, B))) == (0, 1)


def test_pairs_in_a_row_point_at_its_responses() -> None:
    (ranking,) = joined([pair(A, B), pair(A, C, strength=2), pair(B, C)])
    found = pairs_in([Example((5,), (D, A), 2.0), ranking], CPU)
    assert found.better.tolist() == [0, 2, 2, 3] and found.worse.tolist() == [1, 3, 4, 4]
    assert found.strengths.tolist() == [0, 0, 2, 0]
    assert found.weights.tolist() == [2.0, 0.5, 0.5, 0.5] and found.weights.dtype == torch.float32
    assert found.owners.tolist() == [0, 1, 1, 1]


def compared(better: str, worse: str, group: str = "", *, strength: int | None = None) -> Comparison:
    verdict = Verdict(preferred="b", strength=strength)
    return Comparison(prompt="A prime: ", a=worse, b=better, verdict=verdict, group=group)


def test_a_file_of_pairs_becomes_rankings() -> None:
    tie = Comparison(prompt="A prime: ", a="7", b="5", verdict=Verdict(preferred="tie"), group="r")
    records = [
        compared("7", "nine", "r", strength=1),
        compared("2", "4"),
        compared("7", "eight", "r"),
        tie,
        compared("nine", "eight", "r", strength=3),
    ]
    rows = [Row(record, "pairs.jsonl", line) for line, record in enumerate(records, start=1)]
    found = encode_rankings(CODEC, rows, Limits())
    ranking, alone = found.examples
    texts = [CODEC.decode(response.ids) for response in ranking.responses]
    assert texts == ["7", "nine", "eight"]
    assert ranking.pairs == (Pair(0, 1, 1), Pair(0, 2), Pair(1, 2, 3))
    assert ranking.weight == pytest.approx(1) and alone.weight == 1
    assert found.wheres == ["pairs.jsonl:1", "pairs.jsonl:2"]
    assert found.counts["pairs"] == 4 and found.counts["rankings"] == 1
    assert found.left_out == [("pairs.jsonl:4", "no winner: a tie, or not yet judged")]


def test_responses_that_the_limit_made_equal_are_one_branch() -> None:
    records = [compared("7", "nine and so on", "r"), compared("7", "nine and so forth", "r")]
    rows = [Row(record, "pairs.jsonl", line) for line, record in enumerate(records, start=1)]
    (ranking,) = encode_rankings(CODEC, rows, Limits(response=2)).examples
    assert len(ranking.responses) == 2 and len(ranking.pairs) == 2
    assert said(ranking) == {ranking.responses}
