"""RewardBench rows in both of its shapes, and what is said about those that are broken."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from trimtab.errors import DataError
from trimtab.formats import usable
from trimtab.formats.rewardbench import BenchmarkRow, benchmark_shapes, read_benchmark
from trimtab.formats.rows import RowError
from trimtab.formats.shapes import read_row
from trimtab.records import Message

USER = {"role": "user", "content": "Name a prime."}
SEVEN = {"role": "assistant", "content": "7"}
NINE = {"role": "assistant", "content": "9"}
CHAT = (Message("user", "Name a prime."),)
PAIR = {"prompt": "Name a prime.", "chosen": "7", "rejected": "9", "subset": "hep-go", "id": 12}
BEST = {
    "prompt": "Name a prime.",
    "chosen": ["7", "5"],
    "rejected": ["9", "8"],
    "subset": "Ties",
    "id": "tied:3",
    "num_correct": 2,
    "total_completions": 4,
}


def read(row):
    return read_row(row, benchmark_shapes("chat"))


def pair(prompt="Name a prime.", chosen="7", rejected="9", **rest):
    return BenchmarkRow(prompt=prompt, chosen=(chosen,), rejected=(rejected,), form="pair", **rest)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (PAIR, pair(subset="hep-go", id="12")),
        (
            {"prompt": "Name a prime.", "chosen": "7", "rejected": "9", "chosen_model": "x"},
            pair(subset="all"),
        ),
        ({**PAIR, "prompt": [USER]}, pair(CHAT, subset="hep-go", id="12")),
        ({"prompt": "other", "chosen": [USER, SEVEN], "rejected": [USER, NINE]}, pair(CHAT)),
        ({"chosen": [USER, SEVEN], "rejected": [USER, NINE]}, pair(CHAT)),
        ({"prompt": "Name a prime.", "chosen": [SEVEN], "rejected": [NINE]}, pair()),
        # What would be a defect of data to train on counts in a benchmark.
        ({**PAIR, "rejected": ""}, pair(rejected="", subset="hep-go", id="12")),
        ({**PAIR, "rejected": "7"}, pair(rejected="7", subset="hep-go", id="12")),
        (
            BEST,
            BenchmarkRow(
                prompt="Name a prime.",
                chosen=("7", "5"),
                rejected=("9", "8"),
                form="best of n",
                subset="Ties",
                id="tied:3",
            ),
        ),
        (
            {"prompt": "Name a prime.", "a": "9", "b": "7", "verdict": {"preferred": "b"}, "subset": "ours"},
            pair(subset="ours", chosen_stood="second"),
        ),
        (
            {"prompt": "Name a prime.", "a": "7", "b": "9", "verdict": {"preferred": "a"}},
            pair(chosen_stood="first"),
        ),
        (
            {
                "chosen": "\n\nHuman: Name a prime.\n\nAssistant: 7",
                "rejected": "\n\nHuman: Name a prime.\n\nAssistant: 9",
            },
            pair(CHAT),
        ),
    ],
)
def test_a_row_is_read(row, expected):
    assert read(row) == expected


@pytest.mark.parametrize(
    ("change", "field", "found"),
    [
        ({"chosen": ["7"]}, "num_correct", "2, but `chosen` has 1"),
        ({"rejected": ["9"]}, "total_completions", "4, but `chosen` and `rejected` have 3"),
        ({"num_correct": "2"}, "num_correct", "'2', but"),
        ({"rejected": []}, "rejected", "[]"),
        ({"rejected": "9"}, "rejected", "'9'"),
        ({"chosen": ["7", 5]}, "chosen[1]", "5"),
        ({"chosen": "7"}, "chosen", "'7'"),
        ({"id": "3"}, "id", "'3'"),
        ({"id": 3}, "id", "'3'"),
        ({"id": "tied:x"}, "id", "'tied:x'"),
        ({"id": 3.5}, "id", "3.5"),
        ({"prompt": "  "}, "prompt", "'  '"),
        ({"prompt": 7}, "prompt", "7"),
        ({"subset": 7}, "subset", "7"),
    ],
)
def test_a_broken_best_of_n_row_names_field_and_value(change, field, found):
    with pytest.raises(RowError) as caught:
        read({**BEST, **change})
    assert caught.value.field == field
    assert found in caught.value.found


@pytest.mark.parametrize(
    ("row", "kind", "field"),
    [
        ({"prompt": "x", "chosen": "7"}, "missing field", "rejected"),
        ({"prompt": "x", "chosen": 7, "rejected": "9"}, "wrong value", "chosen"),
        ({"prompt": "x", "chosen": "7", "rejected": None}, "wrong value", "rejected"),
        (
            {"chosen": [USER, SEVEN], "rejected": [{**USER, "content": "A prime?"}, NINE]},
            "differing prompts",
            "rejected",
        ),
        ({"chosen": [USER, SEVEN], "rejected": [USER]}, "empty reply", "rejected"),
        ({"chosen": [SEVEN], "rejected": [NINE]}, "empty prompt", "prompt"),
        ({"chosen": [SEVEN, SEVEN], "rejected": [SEVEN, NINE]}, "wrong value", "chosen[0].role"),
        ({"prompt": [USER, SEVEN], "chosen": "7", "rejected": "9"}, "wrong value", "prompt[1].role"),
        ({"prompt": "x", "a": "7", "b": "9"}, "no winner", "verdict"),
        ({"prompt": "x", "a": "7", "b": "9", "verdict": {"preferred": "tie"}}, "no winner", "verdict"),
    ],
)
def test_a_broken_pair_names_field_and_kind(row, kind, field):
    with pytest.raises(RowError) as caught:
        read(row)
    assert (caught.value.kind, caught.value.field) == (kind, field)


def test_an_error_names_file_line_field_and_what_was_found(tmp_path):
    path = tmp_path / "bench.jsonl"
    path.write_text(f"{json.dumps(PAIR)}\n{json.dumps({**PAIR, 'chosen': 7})}\n")
    reading = read_benchmark(path)
    assert [row.line for row in reading.rows] == [1]
    (defect,) = reading.defects
    assert (defect.where, defect.field, defect.found) == (f"{path}:2", "chosen", "7")
    with pytest.raises(DataError, match=r"bench\.jsonl:2: `chosen` must be text"):
        usable(reading)


@pytest.mark.parametrize(
    "rows", [[PAIR], [BEST], [{**PAIR, "chosen": [USER, SEVEN], "rejected": [USER, NINE]}]]
)
def test_parquet_gives_the_rows_that_jsonl_gives(tmp_path, rows):
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "bench.parquet")
    lines, table = (read_benchmark(tmp_path / name) for name in ("bench.jsonl", "bench.parquet"))
    assert lines.records == table.records
    assert not lines.defects and not table.defects


def test_plain_text_is_a_question_in_rewardbenchs_own_rows():
    assert read(PAIR).asked and read(BEST).asked
    assert not read({**PAIR, "subset": " "}).asked
    assert not read({"prompt": "The sky is", "chosen": " blue", "rejected": " red"}).asked
    assert read({**BEST, "subset": ""}).asked
    assert read(PAIR).prompt == "Name a prime."


@pytest.mark.parametrize(
    "change",
    [{"form": "pairs"}, {"chosen": ()}, {"rejected": ()}, {"chosen": ("7", "5")}],
)
def test_a_row_that_breaks_a_rule_cannot_exist(change):
    with pytest.raises(ValueError):
        BenchmarkRow(**{"prompt": "x", "chosen": ("7",), "rejected": ("9",), "form": "pair"} | change)
