"""Files into items: every shape for every kind of project, and what is refused, by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import DataError
from trimtab.feedback.incoming import items_of, read_incoming, read_items
from trimtab.feedback.records import Candidate, Compared, Edited, Graded, Item, Kind, Ranked
from trimtab.formats import write_comparisons
from trimtab.formats.parquet import read_parquet
from trimtab.records import Comparison, Message, Verdict

CHAT = [{"role": "user", "content": "Name a prime."}]
ASKED = (Message("user", "Name a prime."),)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(*rows: object) -> Path:
        path = tmp_path / "rows.jsonl"
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


def texts(item: Item) -> tuple[str, ...]:
    return tuple(answer.text for answer in item.answers)


@pytest.mark.parametrize("kind", ["compare", "edit"])
@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"prompt": "p", "a": "x", "b": "y"}, "p", ("x", "y")),
        ({"prompt": "p", "chosen": "x", "rejected": "y"}, "p", ("x", "y")),
        ({"prompt": CHAT, "chosen": [{"role": "assistant", "content": "7"}],
          "rejected": [{"role": "assistant", "content": "9"}]}, ASKED, ("7", "9")),
        ({"chosen": "A prime is 7", "rejected": "A prime is 9"}, "A prime is", (" 7", " 9")),
        ({"chosen": "\n\nHuman: Name a prime.\n\nAssistant: 7",
          "rejected": "\n\nHuman: Name a prime.\n\nAssistant: 9"}, ASKED, ("7", "9")),
        ({"prompt": "p", "answers": ["x", {"text": "y"}]}, "p", ("x", "y")),
    ],
)  # fmt: skip
def test_every_shape_of_a_pair(file: Any, kind: Kind, row: object, prompt: Any, answers: Any) -> None:
    (item,) = read_items(file(row), kind)
    assert (item.prompt, texts(item), item.gold) == (prompt, answers, None)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "p"}, "p"),
        ({"prompt": CHAT}, ASKED),
        ({"prompt": "p", "completion": "x"}, "p"),
        ({"messages": [*CHAT, {"role": "assistant", "content": "7"}]}, ASKED),
        ({"prompt": "p", "a": "x", "b": "y"}, "p"),
        ({"prompt": "p", "answers": ["x", "y", "z"]}, "p"),
        ({"instruction": "Name a prime.", "output": "7"}, ASKED),
    ],
)
def test_every_row_has_a_prompt_to_answer(file: Any, row: object, prompt: Any) -> None:
    (item,) = read_items(file(row), "demonstrate")
    assert item == Item(prompt=prompt)


def test_what_can_be_rated(file: Any) -> None:
    path = file(
        {"prompt": "p", "completion": "x"},
        {"prompt": "p", "completion": "y", "label": True},
        {"prompt": "p", "completion": "z", "grade": 3},
        {"prompt": "p", "answers": ["v"]},
        {"prompt": "p", "a": "one", "b": "two", "source_b": "m", "stopped_b": False},
    )
    items = read_items(path, "rate")
    assert [texts(item) for item in items] == [("x",), ("y",), ("z",), ("v",), ("one",), ("two",)]
    assert items[-1].answers == (Candidate(text="two", source="m", stopped=False),)


def test_matches_keep_sources_and_lose_verdicts(tmp_path: Path) -> None:
    match = Comparison(
        prompt="p", a="x", b="", source_a="runs/ppo", source_b="runs/dpo", stopped_a=False,
        verdict=Verdict(preferred="b", judge="m"),
    )  # fmt: skip
    write_comparisons(tmp_path / "matches.jsonl.gz", [match])
    (item,) = read_items(tmp_path / "matches.jsonl.gz", "compare")
    assert item.answers == (
        Candidate(text="x", source="runs/ppo", stopped=False),
        Candidate(text="", source="runs/dpo"),
    )
    assert item.gold is None
    hashed = items_of([match], {"runs/dpo": "abc"})[0]
    assert [answer.policy_hash for answer in hashed.answers] == ["", "abc"]
    assert hashed.digest == item.digest  # a hash that is known later makes no second item


def test_lists_of_answers_with_all_that_is_known(file: Any) -> None:
    row = {
        "prompt": "p",
        "answers": ["x", {"text": "y", "source": "m", "policy_hash": "h", "stopped": False}, {"text": "z"}],
        "context": ["one passage", "another"],
        "keywords": ["seven"],
        "gold": [2, 1, 3],
    }
    (item,) = read_items(file(row), "rank")
    assert item == Item(
        prompt="p",
        answers=(
            Candidate(text="x"),
            Candidate(text="y", source="m", policy_hash="h", stopped=False),
            Candidate(text="z"),
        ),
        context=("one passage", "another"),
        keywords=("seven",),
        gold=Ranked(places=(2, 1, 3)),
    )


@pytest.mark.parametrize(
    ("kind", "answers", "gold", "expected"),
    [
        ("compare", 2, "tie", Compared(preferred="tie")),
        ("compare", 2, {"kind": "compared", "preferred": "a", "strength": 3},
         Compared(preferred="a", strength=3)),
        ("rate", 1, 6, Graded(grade=6)),
        ("edit", 2, {"kind": "edited", "preferred": "a", "response": "r"},
         Edited(preferred="a", response="r")),
    ],
)  # fmt: skip
def test_gold_alone_or_whole(file: Any, kind: Kind, answers: int, gold: object, expected: object) -> None:
    row = {"prompt": "p", "answers": ["x", "y"][:answers], "gold": gold, "context": "a passage"}
    (item,) = read_items(file(row), kind)
    assert item.gold == expected and item.context == ("a passage",)


GOOD = {"prompt": "p", "answers": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("kind", "row", "what", "fix"),
    [
        ("rank", {"prompt": "p", "answers": ["x", "y"]}, "3 to 9 answers, this one 2", ""),
        ("rank", {"prompt": "p", "a": "x", "b": "y"}, "no `answers`", '"answers": ['),
        ("rank", {"prompts": "p", "answers": ["x", "y", "z"]}, "no `prompt`", "`prompt` + `answers`"),
        ("rank", {"prompt": "p", "answers": "x"}, "must be a list of answers", "["),
        ("rank", {"prompt": "p", "answers": ["x", "y", 3]}, "an answer is text", "source"),
        (
            "rank",
            {"prompt": "p", "answers": ["x", "y", {"text": "z", "model": "m"}]},
            "an answer is text",
            "",
        ),
        (
            "rank",
            {"prompt": "p", "answers": ["x", "y", {"text": "z", "source": 1}]},
            "source must be text",
            "",
        ),
        ("rank", {**GOOD, "gold": [1, 2]}, "3 answers have 3 places, got 2", ""),
        ("rank", {**GOOD, "gold": [1, 3, 3]}, "without gaps", "[2, 1, 3]"),
        ("rank", {**GOOD, "gold": {"kind": "skipped"}}, "a gold outcome answers the question", ""),
        ("rank", {**GOOD, "context": [1]}, "`context` must be a list of texts", "a passage"),
        ("rank", {**GOOD, "keywords": "w"}, "`keywords` must be a list", ""),
        ("compare", {"prompt": "p", "answers": ["x", "y", "z"]}, "has 2 answers, this one 3", ""),
        ("compare", {"prompt": "p", "chosenn": "x", "rejected": "y"}, "no `chosen`", "rename `chosenn`"),
        ("compare", {"prompt": "p", "a": "x", "b": "y", "gold": "c"}, "preferred is one of", '"a"'),
        ("rate", {"prompt": "p"}, "no answer to rate", "`prompt` + `completion`"),
        ("demonstrate", {"question": "p"}, "the row has no", ""),
        ("compare", "{", "the line is not JSON", "one JSON object a line"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    file: Any, kind: Kind, row: object, what: str, fix: str
) -> None:
    good = {"prompt": "q", "a": "x", "b": "y"} if kind != "rank" else {**GOOD, "prompt": "q"}
    path = file(good, row)
    with pytest.raises(DataError) as refused:
        read_items(path, kind)
    assert refused.value.where == f"{path}:2"
    assert what in refused.value.what and fix in refused.value.fix


def test_rows_that_nobody_can_judge_are_left_out_and_named(file: Any) -> None:
    rows = [
        {"prompt": "p", "a": "x", "b": "y"},
        {"prompt": " ", "a": "x", "b": "y"},
        {"prompt": "p", "a": "same", "b": " same"},
        {"prompt": "p", "answers": ["x", ""]},
        {"prompt": "p", "answers": ["x", "x "]},
    ]
    path = file(*rows)
    found = read_incoming(path, "compare")
    assert [texts(item) for item in found.items] == [("x", "y")]
    assert [(defect.line, defect.kind) for defect in found.left_out] == [
        (2, "empty prompt"), (3, "identical pair"), (4, "empty reply"), (5, "identical pair")
    ]  # fmt: skip
    with pytest.raises(DataError, match="no row of it can be judged"):
        read_items(file(*rows[1:]), "compare")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_items(tmp_path / "nothing.jsonl", "compare")


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    table = pyarrow.Table.from_pylist([{"prompt": "p", "answers": ["x", "y", "z"], "gold": None}])
    pyarrow.parquet.write_table(table, path)
    assert read_parquet(path).entries
    assert [texts(item) for item in read_items(path, "rank")] == [("x", "y", "z")]
