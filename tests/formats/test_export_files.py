"""The folder of an export: its files, its manifest, who can load them, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab import __version__
from trimtab.errors import ConfigError, DataError
from trimtab.formats import (
    EXPORTS,
    FileKind,
    Row,
    prompt_key,
    read_comparisons,
    split_by_prompt,
    write_export,
)
from trimtab.formats.exports.shape import Exported
from trimtab.records import Comparison, Demonstration, Message, Preferred, Rating, Verdict

SHARES = {"train": 0.7, "held_out": 0.3}
WINNERS: tuple[Preferred, Preferred] = ("a", "b")
AT = "2026-01-31T12:00:00Z"
PAIRS = [
    Comparison(
        prompt=(Message("system", ""), Message("user", f"Question {number // 2}")),
        a=f"yes\u2028 {number}",
        b="no 👍\x85",
        verdict=Verdict(preferred=WINNERS[number % 2], judge="mara", strength=1 + number % 3, at=AT),
        source_a="runs/ppo",
        source_b="runs/dpo",
    )
    for number in range(40)
]
TEXT_PAIRS = [replace(pair, prompt=f"text {prompt_key(pair.prompt)}") for pair in PAIRS]
UNSURE = replace(PAIRS[0], verdict=Verdict(preferred="tie"))


def records_for(shape: str) -> list[Exported]:
    if EXPORTS[shape].holds is Comparison:
        return [*PAIRS, UNSURE]
    if EXPORTS[shape].holds is Rating:
        return [Rating(prompt=pair.prompt, response=pair.a, label=pair.chosen == pair.a) for pair in PAIRS]
    return [Demonstration(prompt=pair.prompt, response=pair.chosen, keywords=("yes",)) for pair in PAIRS]


def write(records: Sequence[Exported], folder: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "shape": "preference",
        "file_kind": "jsonl",
        "shares": SHARES,
        "seed": 3,
    } | changes
    return write_export(records, folder, **settings)


def rows_of(file: Path) -> list[Any]:
    data = file.read_bytes()
    lines = (gzip.decompress(data) if file.suffix == ".gz" else data).decode().splitlines()
    return [json.loads(line) for line in lines]


def as_text(rows_by_split: Mapping[str, list[Any]]) -> None:
    """Put back what `datasets` made of `verdict.at`: it takes text in ISO 8601 for times."""
    for row in (row for rows in rows_by_split.values() for row in rows):
        if row["verdict"]["at"] is not None:
            row["verdict"]["at"] = row["verdict"]["at"].strftime("%Y-%m-%dT%H:%M:%SZ")


EVERY = [(shape, kind) for shape in EXPORTS for kind in EXPORTS[shape].kinds]


@pytest.mark.parametrize(("shape", "file_kind"), EVERY)
def test_datasets_loads_it(tmp_path: Path, shape: str, file_kind: FileKind) -> None:
    """All splits at once, offline; with the rows that the same export has in plain JSON lines."""
    import datasets

    manifest = write(records_for(shape), tmp_path / "export", shape=shape, file_kind=file_kind)
    files = {split: str(tmp_path / "export" / part.file) for split, part in manifest.splits.items()}
    builder = "parquet" if file_kind == "parquet" else "json"
    field = {"field": "examples"} if shape == "llm_comparator" else {}
    loaded = datasets.load_dataset(builder, data_files=files, cache_dir=str(tmp_path / "cache"), **field)
    if shape == "llm_comparator":
        expected = {split: json.loads(Path(file).read_text())["examples"] for split, file in files.items()}
    else:
        plain = write(records_for(shape), tmp_path / "plain", shape=shape)
        expected = {split: rows_of(tmp_path / "plain" / part.file) for split, part in plain.splits.items()}
    found = {split: loaded[split].to_list() for split in loaded}
    if shape == "trimtab" and builder == "json":
        as_text(found)
    assert found == expected
    assert {split: len(loaded[split]) for split in loaded} == {
        split: part.rows for split, part in manifest.splits.items()
    }


@pytest.mark.parametrize("pairs", [PAIRS, TEXT_PAIRS])
def test_parquet_names_its_types_though_a_split_knows_nothing(
    tmp_path: Path, pairs: list[Comparison]
) -> None:
    """The first split has neither strength nor verdict, where `datasets` would guess from JSON."""
    import datasets

    splits = split_by_prompt([Row(pair, "", 0) for pair in pairs], SHARES, 3)
    blank = [replace(row.record, verdict=None, source_a="") for row in splits["train"]]
    later = [row.record for row in splits["held_out"]]
    manifest = write([*blank, *later], tmp_path / "export", shape="trimtab", file_kind="parquet")
    files = {split: str(tmp_path / "export" / part.file) for split, part in manifest.splits.items()}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert set(loaded["train"]["verdict"]) == {None}
    assert [verdict["strength"] for verdict in loaded["held_out"]["verdict"]] == [
        pair.verdict.strength for pair in later if pair.verdict
    ]
    assert read_comparisons(files["train"]).records == blank


def test_margin_is_in_every_row_or_in_none(tmp_path: Path) -> None:
    """TRL's collator looks at the first row alone, then takes a number from each."""
    unknown = [pair.judged(Verdict(preferred="a")) for pair in PAIRS[1:]]
    manifest = write([PAIRS[0], *unknown], tmp_path / "some")
    rows = [row for part in manifest.splits.values() for row in rows_of(tmp_path / "some" / part.file)]
    assert sorted(row["margin"] for row in rows) == [0.0] * 39 + [1.0]
    assert sum(row["judge"] == "" for row in rows) == 39
    manifest = write(unknown, tmp_path / "none")
    rows = [row for part in manifest.splits.values() for row in rows_of(tmp_path / "none" / part.file)]
    assert {tuple(row) for row in rows} == {("prompt", "chosen", "rejected")}


@pytest.mark.parametrize("file_kind", ["jsonl", "jsonl.gz", "parquet"])
def test_the_manifest_says_what_is_there(tmp_path: Path, file_kind: FileKind) -> None:
    folder = tmp_path / "export"
    manifest = write(
        [*PAIRS, UNSURE, UNSURE.judged(Verdict(preferred="both_bad"))],
        folder,
        file_kind=file_kind,
        about={"project": "films"},
    )
    found = json.loads((folder / "manifest.json").read_text())
    assert found == manifest.as_dict()
    splits = split_by_prompt([Row(pair, "", 0) for pair in PAIRS], SHARES, 3)
    assert found.pop("splits") == {
        split: {
            "file": f"{split}.{file_kind}",
            "share": share,
            "records": len(splits[split]),
            "rows": len(splits[split]),
            "prompts": len({row.record.prompt for row in splits[split]}),
            "sha256": hashlib.sha256((folder / f"{split}.{file_kind}").read_bytes()).hexdigest(),
        }
        for split, share in SHARES.items()
    }
    assert found == {
        "schema_version": 1,
        "created_by": f"trimtab {__version__}",
        "shape": "preference",
        "file_kind": file_kind,
        "prompts": "chat",
        "ties": "leave_out",
        "seed": 3,
        "given": 42,
        "records": 40,
        "rows": 40,
        "left_out": {"both bad": 1, "tie": 1},
        "about": {"project": "films"},
    }
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        f"train.{file_kind}",
        f"held_out.{file_kind}",
    }


def test_splits_are_by_prompt_and_keep_the_order(tmp_path: Path) -> None:
    manifest = write(PAIRS, tmp_path / "export", shape="trimtab")
    read = {
        split: read_comparisons(tmp_path / "export" / part.file).records
        for split, part in manifest.splits.items()
    }
    expected = split_by_prompt([Row(pair, "", 0) for pair in PAIRS], SHARES, 3)
    assert read == {split: [row.record for row in rows] for split, rows in expected.items()}
    assert not {pair.prompt for pair in read["train"]} & {pair.prompt for pair in read["held_out"]}


def test_a_tie_written_both_ways_stays_in_one_split(tmp_path: Path) -> None:
    ties = [pair.judged(Verdict(preferred="tie")) for pair in PAIRS]
    manifest = write(ties, tmp_path / "export", ties="both_ways")
    for split, part in manifest.splits.items():
        assert part.rows == 2 * part.records, split
    assert (manifest.records, manifest.rows) == (40, 80)


def test_a_split_without_prompts_has_no_file(tmp_path: Path) -> None:
    manifest = write(PAIRS[:1], tmp_path / "export")
    part = next(part for part in manifest.splits.values() if not part.records)
    assert (part.file, part.rows, part.prompts, part.sha256) == ("", 0, 0, "")
    assert len(list((tmp_path / "export").iterdir())) == 2


@pytest.mark.parametrize(("shape", "file_kind"), EVERY)
def test_equal_records_give_equal_bytes(
    tmp_path: Path, shape: str, file_kind: FileKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(records_for(shape), tmp_path / "first", shape=shape, file_kind=file_kind)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write(records_for(shape), tmp_path / "second", shape=shape, file_kind=file_kind)
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 3


def test_no_tool_finds_more_lines_than_rows(tmp_path: Path) -> None:
    manifest = write(PAIRS, tmp_path / "export", shares={"all": 1.0})
    text = (tmp_path / "export" / "all.jsonl").read_text(encoding="utf-8")
    assert len(text.splitlines()) == manifest.rows == 40
    assert json.loads(text.splitlines()[0])["chosen"][0]["content"] == "yes\u2028 0"


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def replace_then_stop(source: Path, target: Path) -> None:
        if len(names) == 2:
            raise OSError("the power went")
        names.append(target.name)
        Path(source).rename(target)

    monkeypatch.setattr(os, "replace", replace_then_stop)
    with pytest.raises(OSError, match="the power went"):
        write(PAIRS, tmp_path / "export")
    assert sorted(names) == ["held_out.jsonl", "train.jsonl"]
    assert not (tmp_path / "export" / "manifest.json").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "held_out.jsonl").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write(PAIRS, tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["held_out.jsonl"]
    (tmp_path / "empty").mkdir()
    assert write(PAIRS, tmp_path / "empty").records == 40


WRONG: list[tuple[Mapping[str, Any], str, str]] = [
    ({"shape": "prefrence"}, "shape", "use trimtab, preference"),
    ({"file_kind": "csv"}, "file_kind", "use jsonl, jsonl.gz, parquet"),
    ({"shape": "llm_comparator"}, "file_kind", "use json"),
    ({"ties": "half"}, "ties", "use leave_out, both_ways, both_ways_with_both_bad"),
    *(
        ({"shape": shape, "ties": "both_ways", "file_kind": EXPORTS[shape].kinds[0]}, "ties", "use leave_out")
        for shape in EXPORTS
        if shape != "preference"
    ),
    ({"shares": {"../train": 1.0}}, "shares", "use letters"),
    ({"shares": {"manifest": 1.0}}, "shares", "use letters"),
    ({"shares": {"": 1.0}}, "shares", "use letters"),
    ({"shares": {"train": 0.5}}, "shares", "for example"),
]


@pytest.mark.parametrize(("changes", "where", "fix"), WRONG)
def test_wrong_choices(tmp_path: Path, changes: Mapping[str, Any], where: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write(records_for(changes.get("shape", "preference")) if changes.get("shape") in EXPORTS else PAIRS,
              tmp_path / "export", **changes)  # fmt: skip
    assert caught.value.where == where and caught.value.fix.startswith(fix)
    assert not (tmp_path / "export").exists()


def test_records_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 2: preference holds records of another kind"):
        write([PAIRS[0], Demonstration(prompt="p", response="r")], tmp_path / "export")


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 left out: tie") as caught:
        write([UNSURE], tmp_path / "export")
    assert caught.value.what == "there is nothing to export as preference"
    with pytest.raises(DataError, match="no records"):
        write([], tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_text_and_chat_prompts_stay_apart_where_a_column_has_one_type(tmp_path: Path) -> None:
    mixed = [*PAIRS[:2], *TEXT_PAIRS[:3]]
    for shape, file_kind in (("preference", "jsonl"), ("rewardbench", "jsonl"), ("trimtab", "parquet")):
        with pytest.raises(DataError, match="3 texts and 2 chats"):
            write(mixed, tmp_path / "refused", shape=shape, file_kind=file_kind)
    manifest = write(mixed, tmp_path / "own", shape="trimtab", shares={"all": 1.0})
    assert manifest.prompts == "text and chat"
    assert read_comparisons(tmp_path / "own" / "all.jsonl").records == mixed
    assert write(mixed, tmp_path / "battles", shape="fastchat", file_kind="parquet").records == 5
