"""From a source to rows that a stage may use."""

import json

import pytest

from trimtab.errors import DataError
from trimtab.formats import (
    leakage,
    read_comparisons,
    read_demonstrations,
    read_prompts,
    refuse_leakage,
    usable,
    write_comparisons,
    write_demonstrations,
    write_prompts,
)
from trimtab.records import Comparison, Demonstration, Message, Verdict

CHAT = (Message("user", "ä"),)


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pair(prompt, chosen="yes", rejected="no"):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_rows_know_their_place_and_left_out_rows_their_reason(tmp_path):
    path = write(tmp_path / "x.jsonl", pair("p"), pair("q", chosen=""), pair("r", rejected="yes"), pair("s"))
    reading = read_comparisons(path)
    assert [row.where for row in usable(reading)] == [f"{path}:1", f"{path}:4"]
    assert [(defect.where, defect.kind) for defect in reading.defects_left_out] == [
        (f"{path}:2", "empty reply"),
        (f"{path}:3", "identical pair"),
    ]


def test_shapes_may_be_mixed(tmp_path):
    own = {"prompt": "q", "a": "no", "b": "yes", "verdict": {"preferred": "b"}}
    path = write(tmp_path / "x.jsonl", own, pair("p"), {"chosen": "Q? Yes", "rejected": "Q? No"})
    assert [record.chosen for record in read_comparisons(path).records] == ["yes", "yes", " Yes"]
    assert [record.response for record in read_demonstrations(path).records] == ["yes", "yes", " Yes"]


def test_prompts_are_taken_once_in_the_order_of_their_first_place(tmp_path):
    path = write(
        tmp_path / "x.jsonl", pair("p"), {"prompt": "q"}, {"prompt": "p "}, pair("q"), {"prompt": "o"}
    )
    assert [(row.record, row.line) for row in read_prompts(path).rows] == [("p", 1), ("q", 2), ("o", 5)]


def test_unreadable_rows_stop_a_stage_with_the_first_few(tmp_path):
    path = write(tmp_path / "x.jsonl", pair("p"), "{", "[]", {"prompt": "p"}, "7", "8")
    with pytest.raises(DataError) as caught:
        usable(read_comparisons(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert f"{path}:3: " in message and f"{path}:4: " in message and f"{path}:5: " not in message
    assert "and 2 more like these" in message


def test_a_source_without_a_usable_row_stops_a_stage(tmp_path):
    path = write(tmp_path / "x.jsonl", pair("p", chosen=""), pair("q", chosen=""))
    with pytest.raises(DataError, match="no row of it can be used") as caught:
        usable(read_comparisons(path))
    assert caught.value.found == "2 empty reply"


def test_leakage_names_both_places(tmp_path):
    train = read_comparisons(write(tmp_path / "train.jsonl", pair("o"), pair("p"), pair("p", chosen="aye")))
    dev = read_prompts(write(tmp_path / "dev.jsonl", {"prompt": "n"}, {"prompt": "p\n"}))
    (leak,) = leakage(train, dev)
    assert (leak.kind, leak.where, leak.field) == ("prompt leakage", f"{tmp_path}/dev.jsonl:2", "prompt")
    assert leak.what == f"the same prompt is in {tmp_path}/train.jsonl:2"
    with pytest.raises(DataError, match=r"train\.jsonl:2"):
        refuse_leakage(train, dev)
    refuse_leakage(dev, read_comparisons(write(tmp_path / "other.jsonl", pair("m"))))


@pytest.mark.parametrize("name", ["x.jsonl", "deep/x.jsonl.gz"])
def test_written_files_read_back(tmp_path, name):
    path = tmp_path / name
    comparisons = [
        Comparison(prompt=CHAT, a="x", b="y", verdict=Verdict(preferred="tie", judge="mara")),
        Comparison(prompt="p", a="", b="y", source_a="runs/ppo"),
    ]
    write_comparisons(path, comparisons)
    assert read_comparisons(path).records == comparisons
    demonstrations = [
        Demonstration(prompt=CHAT, response="x"),
        Demonstration(prompt="p", response="y"),
        Demonstration(prompt="p", response="z", keywords=("ä", "z")),
        Demonstration(prompt=CHAT, response="z", keywords=("z",)),
    ]
    write_demonstrations(path, demonstrations)
    assert read_demonstrations(path).records == demonstrations
    write_prompts(path, [CHAT, "p"])
    assert read_prompts(path).records == [CHAT, "p"]
    assert list(path.parent.iterdir()) == [path]


def test_equal_records_make_equal_files(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_prompts(tmp_path / name, [CHAT])
    assert read_prompts(tmp_path / "a.jsonl.gz").sha256 == read_prompts(tmp_path / "b.jsonl.gz").sha256


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_prompts(tmp_path / "x.jsonl", ["p"])
    with pytest.raises(UnicodeEncodeError):
        write_prompts(tmp_path / "x.jsonl", ["\ud83d"])
    assert read_prompts(tmp_path / "x.jsonl").records == ["p"]
