"""What each shape makes of a record, against lines and files written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from trimtab.errors import DataError
from trimtab.formats import (
    EXPORTS,
    FileKind,
    Ties,
    read_any,
    read_comparisons,
    read_demonstrations,
    read_ratings,
    write_export,
)
from trimtab.formats.exports.shape import Exported
from trimtab.formats.rewardbench import read_benchmark
from trimtab.formats.sources import READERS, read_content
from trimtab.records import Comparison, Demonstration, Message, Preferred, Rating, Verdict

DATA = Path(__file__).parents[1] / "data"
DOCS = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").split("## Exports")[1]
CHAT = (Message("user", "Name a prime."),)
PAIR = Comparison(
    prompt=CHAT,
    a="7",
    b="9",
    verdict=Verdict(preferred="a", judge="mara", strength=3, shown="ba", at="2026-01-31T12:00:00Z"),
    source_a="runs/ppo",
    source_b="runs/dpo",
    group="ranking-12",
)
DEMONSTRATION = Demonstration(prompt=CHAT, response="7")
RATING = Rating(prompt=CHAT, response="7", label=True, judge="mara")
DOCUMENTED: dict[str, Exported] = {
    "trimtab": PAIR,
    "preference": PAIR,
    "unpaired_preference": RATING,
    "unpaired_from_pairs": PAIR,
    "ratings": replace(RATING, label=None, grade=6),
    "prompt_completion": DEMONSTRATION,
    "messages": DEMONSTRATION,
    "rewardbench": PAIR,
    "fastchat": PAIR,
    "llm_comparator": PAIR,
}
OF_COMPARISONS = [name for name, shape in EXPORTS.items() if shape.holds is Comparison]


def exported(
    folder: Path,
    records: Sequence[Exported],
    shape: str,
    file_kind: FileKind = "jsonl",
    ties: Ties = "leave_out",
) -> Any:
    """The rows, or the value of a JSON file, of an export in one split, and its manifest."""
    manifest = write_export(
        records, folder, shape=shape, file_kind=file_kind, shares={"all": 1.0}, seed=0, ties=ties
    )
    text = (folder / f"all.{file_kind}").read_text(encoding="utf-8")
    value = json.loads(text) if file_kind == "json" else [json.loads(line) for line in text.split("\n")[:-1]]
    return value, manifest


def test_the_documented_lines_are_what_is_written(tmp_path: Path) -> None:
    block = re.search(r"```jsonl\n(.*?)```", DOCS, re.DOTALL)
    assert block and list(DOCUMENTED) == list(EXPORTS)
    written: list[object] = []
    for name, record in DOCUMENTED.items():
        kind: FileKind = "json" if name == "llm_comparator" else "jsonl"
        value, _ = exported(tmp_path / name, [record], name, kind)
        written += [value] if kind == "json" else value
    assert [json.dumps(row) for row in written] == block[1].splitlines()


def test_the_documented_table_is_the_real_one() -> None:
    told = {"kept": "kept", "left out": "leave_out", "by choice": "choice", "": "none"}
    kinds = {"comparisons": Comparison, "ratings": Rating, "demonstrations": Demonstration}
    table = re.findall(
        r"^\| `(\w+)` \| (\w+)[\w ]* \| ([\w., ]+?) \| [\w, ]+ \| ?([\w ]*?) ?\|$", DOCS, re.MULTILINE
    )
    assert [(name, kinds[of], tuple(files.split(", ")), told[ties]) for name, of, files, ties in table] == [
        (name, shape.holds, shape.kinds, shape.undecided) for name, shape in EXPORTS.items()
    ]


@pytest.mark.parametrize(
    ("shape", "record", "rows"),
    [
        ("preference", {"a": "9", "b": "7", "preferred": "b"}, [{"chosen": "7", "rejected": "9"}]),
        ("preference", {"strength": 1}, [{"chosen": "7", "rejected": "9", "margin": 1.0}]),
        ("preference", {"judge": "mara", "group": "g"},
         [{"chosen": "7", "rejected": "9", "group": "g", "judge": "mara"}]),
        ("unpaired_from_pairs", {"preferred": "b"},
         [{"completion": "9", "label": True}, {"completion": "7", "label": False}]),
        ("rewardbench", {"preferred": "b", "source_a": "x"},
         [{"chosen": "9", "chosen_model": "", "rejected": "7", "rejected_model": "x",
           "subset": "all", "id": 1}]),
        ("trimtab", {"stopped_a": False},
         [{"a": "7", "b": "9", "verdict": {"preferred": "a", "judge": "", "strength": None, "shown": None,
           "at": None}, "stopped_a": False}]),
    ],
)  # fmt: skip
def test_rows_of_a_text_prompt(
    tmp_path: Path, shape: str, record: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    of_verdict = ("preferred", "strength", "judge")
    judged: dict[str, Any] = {"preferred": "a"} | {key: record[key] for key in of_verdict if key in record}
    rest: dict[str, Any] = {"a": "7", "b": "9"} | {
        key: value for key, value in record.items() if key not in of_verdict
    }
    pair = Comparison(prompt="A prime: ", verdict=Verdict(**judged), **rest)
    found, _ = exported(tmp_path / "export", [pair], shape)
    assert found == [{"prompt": "A prime: ", **row} for row in rows]


def test_demonstrations_and_ratings_of_text(tmp_path: Path) -> None:
    found, _ = exported(
        tmp_path / "demonstrations",
        [Demonstration(prompt="p", response="r", keywords=("k",)), Demonstration(prompt="q", response="s")],
        "prompt_completion",
    )
    assert found == [
        {"prompt": "p", "completion": "r", "keywords": ["k"]},
        {"prompt": "q", "completion": "s", "keywords": []},
    ]
    ratings = [Rating(prompt="p", response="r", label=False), Rating(prompt="p", response="s", grade=7)]
    found, manifest = exported(tmp_path / "ratings", ratings, "unpaired_preference")
    assert found == [{"prompt": "p", "completion": "r", "label": False}]
    assert manifest.left_out == {"no label": 1}
    found, manifest = exported(
        tmp_path / "messages", [Demonstration(prompt="p", response="r"), DEMONSTRATION], "messages"
    )
    assert len(found) == 1 and manifest.left_out == {"text prompt": 1}


def test_rewardbench_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    found, _ = exported(tmp_path / "export", [PAIR, replace(PAIR, verdict=None), PAIR], "rewardbench")
    assert [row["id"] for row in found] == [1, 3]


TEXT_PAIR = replace(PAIR, prompt="A prime: ")
LONG_CHAT = (
    Message("system", ""),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "Bye"),
)
SILENT = Comparison(prompt=LONG_CHAT, a="", b="See you", source_a="runs/dpo", source_b="runs/ppo")
NOOR = Verdict(preferred="tie", judge="noor", shown="ba", at="2026-01-31T13:01:00.500+01:00")
VOTES = [
    TEXT_PAIR.judged(Verdict(preferred="a", judge="mara", strength=3, shown="ab", at="2026-01-31T12:00")),
    replace(TEXT_PAIR, group="").judged(NOOR),
    SILENT.judged(Verdict(preferred="b")),
    SILENT.judged(Verdict(preferred="both_bad")),
    replace(SILENT, verdict=None),
]


@pytest.mark.parametrize(
    ("shape", "golden"), [("fastchat", "export_battles.json"), ("llm_comparator", "export_comparator.json")]
)
def test_files_for_tools_that_only_look(tmp_path: Path, shape: str, golden: str) -> None:
    found, manifest = exported(tmp_path / "export", VOTES, shape, "json")
    assert found == json.loads((DATA / golden).read_text(encoding="utf-8"))
    assert (manifest.ties, manifest.left_out) == ("kept", {"unjudged": 1})


@pytest.mark.parametrize(
    ("strength", "preferred", "shown", "score", "label"),
    [
        (1, "a", "ab", 0.5, "A is slightly better"),
        (2, "a", None, 1.0, "A is better"),
        (None, "b", "ab", -1.0, "B is better"),
        (3, "b", "ba", -1.5, "A is much better"),
    ],
)
def test_scores_for_llm_comparator(
    tmp_path: Path, strength: int | None, preferred: Preferred, shown: Any, score: float, label: str
) -> None:
    verdict = Verdict(preferred=preferred, strength=strength, shown=shown)
    pair = Comparison(prompt="p", a="x", b="y", verdict=verdict)
    found, _ = exported(tmp_path / "export", [pair], "llm_comparator", "json")
    assert found["models"] == [{"name": "A"}, {"name": "B"}]
    (example,) = found["examples"]
    (rating,) = example["individual_rater_scores"]
    assert (example["score"], rating["score"], rating["rating_label"]) == (score, score, label)
    assert rating["is_flipped"] is (None if shown is None else shown == "ba")


def test_llm_comparator_takes_two_models(tmp_path: Path) -> None:
    others = [PAIR, replace(PAIR, source_a="runs/base")]
    with pytest.raises(DataError, match="runs/base and runs/dpo, runs/dpo and runs/ppo"):
        exported(tmp_path / "export", others, "llm_comparator", "json")
    assert not (tmp_path / "export").exists()


def test_fastchat_needs_sources_and_times_that_are_times(tmp_path: Path) -> None:
    _, manifest = exported(tmp_path / "export", [PAIR, replace(PAIR, source_b="")], "fastchat")
    assert manifest.left_out == {"no source": 1}
    late = replace(PAIR, verdict=Verdict(preferred="a", at="yesterday"))
    with pytest.raises(DataError, match=r"record 2, verdict\.at") as caught:
        exported(tmp_path / "other", [PAIR, late], "fastchat")
    assert caught.value.found == "'yesterday'"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"verdict": None}, "unjudged"),
    ({"verdict": Verdict(preferred="tie")}, "tie"),
    ({"verdict": Verdict(preferred="both_bad")}, "both bad"),
    ({"a": " \n"}, "blank answer"),
    ({"b": ""}, "blank answer"),
    ({"b": " 7\n"}, "identical answers"),
    ({"prompt": (Message("system", "Be brief."), Message("user", " "))}, "blank prompt"),
]


@pytest.mark.parametrize("shape", ["preference", "unpaired_from_pairs", "rewardbench"])
@pytest.mark.parametrize(("change", "reason"), BAD)
def test_what_no_pair_is_made_of(tmp_path: Path, shape: str, change: dict[str, Any], reason: str) -> None:
    found, manifest = exported(tmp_path / "export", [PAIR, replace(PAIR, **change)], shape)
    assert manifest.left_out == {reason: 1}
    assert (manifest.given, manifest.records, manifest.rows) == (2, 1, len(found))


@pytest.mark.parametrize("shape", ["trimtab", "fastchat", "llm_comparator"])
def test_what_even_votes_leave_out(tmp_path: Path, shape: str) -> None:
    file_kind: FileKind = "json" if shape == "llm_comparator" else "jsonl"
    tie = Verdict(preferred="tie")
    kept = [PAIR, replace(PAIR, a="", verdict=tie), replace(PAIR, b="7", verdict=tie), replace(PAIR, a="")]
    bad = [
        (replace(PAIR, b="7"), "identical answers"),
        (replace(PAIR, prompt=" "), "blank prompt"),
        *([(replace(PAIR, a="", source_a=""), "blank answer")] if shape != "fastchat" else []),
    ]
    _, manifest = exported(tmp_path / "export", [*kept, *(pair for pair, _ in bad)], shape, file_kind)
    assert manifest.records == len(kept)
    assert manifest.left_out == {reason: 1 for _, reason in bad}


@pytest.mark.parametrize(
    ("ties", "sides", "left_out"),
    [
        ("leave_out", ["ab"], {"both bad": 1, "tie": 1, "unjudged": 1}),
        ("both_ways", ["ab", "cd", "dc"], {"both bad": 1, "unjudged": 1}),
        ("both_ways_with_both_bad", ["ab", "cd", "dc", "ef", "fe"], {"unjudged": 1}),
    ],
)
def test_ties_become_pairs_by_choice_alone(
    tmp_path: Path, ties: Ties, sides: list[str], left_out: dict[str, int]
) -> None:
    verdicts = [
        Verdict(preferred="a", strength=2),
        Verdict(preferred="tie", strength=1),
        Verdict(preferred="both_bad"),
        None,
    ]
    pairs = [
        Comparison(prompt="p", a=a, b=b, verdict=verdict)
        for a, b, verdict in zip("aceg", "bdfh", verdicts, strict=True)
    ]
    found, manifest = exported(tmp_path / "export", pairs, "preference", ties=ties)
    assert [row["chosen"] + row["rejected"] for row in found] == sides
    assert [row["margin"] for row in found] == [2.0] + [0.0] * (len(sides) - 1)
    assert (manifest.ties, manifest.left_out) == (ties, left_out)


CHOICES = [(shape, "leave_out") for shape in OF_COMPARISONS]
CHOICES += [("preference", ties) for ties in get_args(Ties) if ties != "leave_out"]


@pytest.mark.parametrize(("shape", "ties"), CHOICES)
@pytest.mark.parametrize("preferred", [None, "tie", "both_bad"])
def test_what_nobody_won_is_never_a_vote(
    tmp_path: Path, preferred: Preferred | None, shape: str, ties: Ties
) -> None:
    """Through every writer, and of what it wrote through every reader."""
    verdict = None if preferred is None else Verdict(preferred=preferred)
    skipped = replace(PAIR, prompt=(Message("user", "Skip me."),), a="x", b="y", verdict=verdict)
    for file_kind in EXPORTS[shape].kinds:
        folder = tmp_path / file_kind
        write_export(
            [PAIR, skipped], folder, shape=shape, file_kind=file_kind, shares={"all": 1.0}, seed=0, ties=ties
        )
        file = folder / f"all.{file_kind}"
        if shape in ("fastchat", "llm_comparator"):
            assert_no_vote_for_tools(file, shape)
            continue
        votes = votes_of(file)
        one_way = {vote for vote in votes if vote[::-1] not in votes}
        assert one_way == {("7", "9")}
        assert votes == one_way or ties != "leave_out"


def votes_of(file: Path) -> set[tuple[str, str]]:
    """(winner, loser) of every pair that a reader finds decided; all readers must agree."""
    if "label" in column_names(file):
        assert {rating.response for rating in read_ratings(file).records} == {"7", "9"}
        return {("7", "9")}
    pairs = {(pair.chosen, pair.rejected) for pair in read_comparisons(file).records if pair.decided}
    assert {demonstration.response for demonstration in read_demonstrations(file).records} == {
        chosen for chosen, _ in pairs
    }
    benchmark = {(row.chosen[0], row.rejected[0]) for row in read_benchmark(file).records}
    anything = {
        (pair.chosen, pair.rejected)
        for pair in read_any(file).records
        if isinstance(pair, Comparison) and pair.decided
    }
    assert pairs == benchmark == anything
    return pairs


def column_names(file: Path) -> set[str]:
    return {name for _, row in read_content(file).entries for name in row}


def assert_no_vote_for_tools(file: Path, shape: str) -> None:
    if shape == "llm_comparator":
        examples = json.loads(file.read_text())["examples"]
        assert {row["output_text_a"]: row["score"] for row in examples} in (
            {"9": -1.5},
            {"9": -1.5, "y": 0.0},
        )
        return
    reader = READERS.get(file.name.removeprefix("all"))
    rows: list[Any] = [row for _, row in reader(file).entries] if reader else json.loads(file.read_text())
    winners = {row["conversation_a"][-1]["content"]: row["winner"] for row in rows}
    assert winners.pop("7") == "model_a"
    assert set(winners.values()) <= {"tie", "tie (bothbad)"}


def test_a_skip_that_someone_wrote_into_a_file_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a verdict is one of"):
        Verdict(preferred="skip")  # type: ignore[arg-type]
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "p", "a": "7", "b": "9", "verdict": {"preferred": "skip"}}\n')
    for read in (read_comparisons, read_demonstrations, read_any, read_benchmark):
        reading: Any = read(file)
        assert not reading.rows and reading.defects[0].effect == "stops"
