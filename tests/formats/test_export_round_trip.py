"""What is exported and read again is the same, up to what each shape cannot hold, whatever the text."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.formats import (
    FileKind,
    read_comparisons,
    read_demonstrations,
    read_ratings,
    write_export,
)
from trimtab.formats.exports.shape import Exported
from trimtab.formats.own_record import comparison_json, read_comparison
from trimtab.formats.rewardbench import BenchmarkRow, read_benchmark
from trimtab.formats.rows import RowError
from trimtab.records import Comparison, Demonstration, Message, Prompt, Rating, Verdict

HOSTILE = [
    "two\nlines\r\n",
    "\u2028line\u2029ends\x85",
    "\x00\x1b[31m\x0b\x0c",
    "👩‍👩‍👧‍👦🏴‍☠️ é e\u0301",
    "\u202eright to left",
    '"}\n{"verdict": {"preferred": "a"}}',
    "\\u0041 \\ud800 \\",
    "</script><img src=x onerror=alert(1)>",
    "=cmd()",
    "null",
    "\n\nHuman: x\n\nAssistant: y",
    " ",
    "",
    "very long " * 2_000,
]
TEXTS = st.text(max_size=6) | st.sampled_from(HOSTILE)
FILLED = TEXTS.filter(str.strip)
TURNS = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS)
CHATS: st.SearchStrategy[Prompt] = st.builds(
    lambda turns, role, last: (*turns, Message(role, last)),
    st.lists(TURNS, max_size=3),
    st.sampled_from(["system", "user", "tool"]),
    TEXTS,
)
PROMPTS: list[st.SearchStrategy[Prompt]] = [TEXTS, CHATS]
VERDICTS = st.builds(
    Verdict,
    preferred=st.sampled_from(["a", "b", "a", "b", "tie", "both_bad"]),
    judge=TEXTS,
    strength=st.sampled_from([None, 1, 2, 3]),
    shown=st.sampled_from([None, "ab", "ba"]),
    at=st.sampled_from(["", "2026-01-31T12:00:00Z"]),
)
KINDS: list[FileKind] = ["jsonl", "jsonl.gz", "parquet"]
SHARES = {"train": 0.5, "held_out": 0.5}


def comparisons(prompts: st.SearchStrategy[Prompt]) -> st.SearchStrategy[Comparison]:
    return st.builds(
        Comparison,
        prompt=prompts,
        a=TEXTS,
        b=TEXTS,
        verdict=st.one_of(VERDICTS, VERDICTS, st.none()),
        source_a=TEXTS,
        source_b=TEXTS,
        stopped_a=st.booleans(),
        stopped_b=st.booleans(),
        group=TEXTS,
    )


def lists(kind: str) -> st.SearchStrategy[list[Any]]:
    """Of records whose prompts are all text or all chats."""

    def record(prompts: st.SearchStrategy[Prompt]) -> st.SearchStrategy[Any]:
        if kind == "comparison":
            return comparisons(prompts)
        if kind == "rating":
            return st.builds(Rating, prompt=prompts, response=FILLED, label=st.booleans(), judge=TEXTS)
        words = st.lists(FILLED, max_size=2).map(tuple)
        return st.builds(Demonstration, prompt=prompts, response=FILLED, keywords=words)

    return st.one_of(*(st.lists(record(prompts), min_size=1, max_size=5) for prompts in PROMPTS))


def round_trip(records: Sequence[Exported], shape: str, file_kind: FileKind, read: Any) -> list[Any]:
    """What the reader makes of all splits; the export may hold nothing."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            manifest = write_export(records, folder, shape=shape, file_kind=file_kind, shares=SHARES, seed=0)
        except DataError as error:
            assert error.what.startswith("there is nothing to export")
            return []
        readings = [read(Path(folder) / part.file) for part in manifest.splits.values() if part.file]
    assert not [defect for reading in readings for defect in reading.defects]
    return [record for reading in readings for record in reading.records]


def same(found: Sequence[object], expected: Sequence[object]) -> bool:
    """Splits change the order."""
    return sorted(map(repr, found)) == sorted(map(repr, expected))


def answerable(prompt: Prompt) -> bool:
    return bool((prompt if isinstance(prompt, str) else prompt[-1].content).strip())


def decided(records: Sequence[Comparison]) -> list[Comparison]:
    """Those of which a pair may be made: written here once more, from the documentation."""
    return [
        pair
        for pair in records
        if pair.verdict is not None
        and pair.verdict.preferred in ("a", "b")
        and answerable(pair.prompt)
        and len({pair.a.strip(), pair.b.strip(), ""}) == 3
    ]


def readable(pair: Comparison) -> bool:
    """Whether trimtab's reader takes its own record."""
    try:
        return read_comparison(comparison_json(pair)) == pair
    except RowError:
        return False


@settings(max_examples=40)
@given(lists("comparison"), st.sampled_from(KINDS))
def test_own_comparisons_lose_nothing(records: list[Comparison], file_kind: FileKind) -> None:
    found = round_trip(records, "trimtab", file_kind, read_comparisons)
    assert same(found, [pair for pair in records if readable(pair)])


@settings(max_examples=40)
@given(lists("comparison"), st.sampled_from(KINDS))
def test_preference_loses_all_but_the_prompt_and_who_won(
    records: list[Comparison], file_kind: FileKind
) -> None:
    """Sides, sources, shown order, time, whether a response was cut; judge, strength and group are columns
    that trimtab does not read."""
    won = Verdict(preferred="a")
    expected = [
        Comparison(prompt=pair.prompt, a=pair.chosen, b=pair.rejected, verdict=won)
        for pair in decided(records)
    ]
    assert same(round_trip(records, "preference", file_kind, read_comparisons), expected)


@settings(max_examples=25)
@given(lists("comparison"), st.sampled_from(KINDS))
def test_rewardbench_loses_all_but_the_prompt_who_won_and_the_number(
    records: list[Comparison], file_kind: FileKind
) -> None:
    numbers = {id(pair): number for number, pair in enumerate(records, start=1)}
    expected = [
        BenchmarkRow(
            prompt=pair.prompt,
            chosen=(pair.chosen,),
            rejected=(pair.rejected,),
            form="pair",
            subset="all",
            id=str(numbers[id(pair)]),
        )
        for pair in decided(records)
    ]
    assert same(round_trip(records, "rewardbench", file_kind, read_benchmark), expected)


@settings(max_examples=25)
@given(lists("comparison"), st.sampled_from(KINDS))
def test_unpaired_from_pairs_gives_a_good_and_a_bad_one(
    records: list[Comparison], file_kind: FileKind
) -> None:
    """And loses that the two belong together."""
    expected = [
        Rating(prompt=pair.prompt, response=response, label=label)
        for pair in decided(records)
        for response, label in ((pair.chosen, True), (pair.rejected, False))
    ]
    assert same(round_trip(records, "unpaired_from_pairs", file_kind, read_ratings), expected)


@settings(max_examples=25)
@given(lists("rating"), st.sampled_from(KINDS))
def test_unpaired_preference_loses_the_judge(records: list[Rating], file_kind: FileKind) -> None:
    """Who judged is a column that trimtab does not read."""
    expected = [
        Rating(prompt=rating.prompt, response=rating.response, label=rating.label)
        for rating in records
        if answerable(rating.prompt)
    ]
    assert same(round_trip(records, "unpaired_preference", file_kind, read_ratings), expected)


@settings(max_examples=25)
@given(
    lists("rating"), st.lists(st.none() | st.integers(1, 7), min_size=5, max_size=5), st.sampled_from(KINDS)
)
def test_ratings_lose_the_judge(records: list[Rating], grades: list[int | None], file_kind: FileKind) -> None:
    rated = [
        rating if grade is None else replace(rating, label=None, grade=grade)
        for rating, grade in zip(records, grades, strict=False)
    ]
    expected = [replace(rating, judge="") for rating in rated if answerable(rating.prompt)]
    assert same(round_trip(rated, "ratings", file_kind, read_ratings), expected)


@settings(max_examples=25)
@given(lists("demonstration"), st.sampled_from(KINDS))
def test_prompt_completion_loses_nothing(records: list[Demonstration], file_kind: FileKind) -> None:
    expected = [record for record in records if answerable(record.prompt)]
    assert same(round_trip(records, "prompt_completion", file_kind, read_demonstrations), expected)


@settings(max_examples=25)
@given(lists("demonstration"), st.sampled_from(KINDS))
def test_messages_lose_nothing_of_a_chat(records: list[Demonstration], file_kind: FileKind) -> None:
    expected = [
        record for record in records if answerable(record.prompt) and not isinstance(record.prompt, str)
    ]
    assert same(round_trip(records, "messages", file_kind, read_demonstrations), expected)


HALF = "\ud83d"
WHOLE = Comparison(prompt="p", a="x", b="y", verdict=Verdict(preferred="a"), source_a="s", source_b="t")


@pytest.mark.parametrize("file_kind", ["jsonl", "jsonl.gz", "parquet", "json"])
@pytest.mark.parametrize(
    "broken",
    [
        Comparison(prompt=HALF, a="x", b="y", verdict=WHOLE.verdict, source_a="s", source_b="t"),
        Comparison(prompt="p", a="x", b="y" + HALF, verdict=WHOLE.verdict, source_a="s", source_b="t"),
        WHOLE.judged(Verdict(preferred="a", judge=HALF)),
    ],
)
def test_half_a_character_stops_the_export(tmp_path: Path, file_kind: FileKind, broken: Comparison) -> None:
    folder = tmp_path / "export"
    with pytest.raises(DataError, match="record 2: a text holds half a character"):
        write_export([WHOLE, broken], folder, shape="fastchat", file_kind=file_kind, shares=SHARES, seed=0)
    assert not folder.exists()
