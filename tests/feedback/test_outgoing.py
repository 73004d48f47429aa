"""Judgments as files: what was said is what is exported, in every shape, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import pytest

from trimtab import formats
from trimtab.errors import ConfigError, DataError
from trimtab.feedback.outgoing import export
from trimtab.feedback.records import (
    Candidate,
    Compared,
    Draft,
    Edited,
    Flagged,
    Graded,
    Item,
    Kind,
    Outcome,
    Ranked,
    Skipped,
    Written,
)
from trimtab.feedback.store.facts import Person, Settings
from trimtab.feedback.store.store import Store, open_store
from trimtab.formats.rewardbench import read_benchmark
from trimtab.formats.sources import read_content
from trimtab.records import Comparison, Demonstration, Message, Prompt, Rating

ALL = {"train": 1.0}
KEYS = count()
ANSWERS: dict[Kind, int] = {"demonstrate": 0, "compare": 2, "rank": 3, "rate": 1, "edit": 2}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "feedback.sqlite") as opened:
        yield opened


@pytest.fixture
def mara(store: Store) -> Person:
    return store.add_person("mara")


def item(number: int, kind: Kind, *, prompt: Prompt | None = None, gold: Outcome | None = None) -> Item:
    answers = tuple(
        Candidate(text=f"{name} {number}", source=f"runs/{name}", stopped=name != "two")
        for name in ("one", "two", "three")[: ANSWERS[kind]]
    )
    asked = f"question {number}" if prompt is None else prompt
    return Item(prompt=asked, answers=answers, gold=gold, keywords=("seven",))


def project_of(store: Store, kind: Kind, items: Sequence[Item], **settings: Any) -> int:
    project = store.create_project(f"films {next(KEYS)}", Settings(kind=kind, **settings), seed=3)
    store.add_items(project.id, items)
    return project.id


def judge(
    store: Store, project: int, person: Person, outcomes: Sequence[Outcome], *, blind: bool = True
) -> None:
    """Items in their order; the outcome of each."""
    tasks = sorted(store.claim(project, person.id, len(outcomes)), key=lambda task: task.item)
    assert len(tasks) == len(outcomes)
    for task, outcome in zip(tasks, outcomes, strict=True):
        store.save(
            Draft(
                item=task.item, person=person.id, outcome=outcome, shown=task.shown, blind=blind,
                guidelines=0, seconds=3.0, key=f"key {next(KEYS)}",
            )
        )  # fmt: skip


def judged(store: Store, person: Person, kind: Kind, *outcomes: Outcome, **settings: Any) -> int:
    """A new project, all of it judged by one person."""
    project = project_of(store, kind, [item(number, kind) for number in range(len(outcomes))], **settings)
    judge(store, project, person, outcomes)
    return project


def rows_of(folder: Path, split: str = "train", ending: str = "jsonl") -> list[Any]:
    return [dict(row) for _, row in read_content(folder / f"{split}.{ending}").entries]


SAID = (
    Compared(preferred="a", strength=3, comment="c"),
    Compared(preferred="b"),
    Compared(preferred="tie"),
    Compared(preferred="both_bad"),
    Skipped(reason="hard"),
    Flagged(reason="spam"),
)


def test_comparisons_come_back_as_they_were_said(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(store, mara, "compare", *SAID)
    manifest = export(store, project, tmp_path / "out", shares=ALL)
    found = formats.read_comparisons(tmp_path / "out" / "train.jsonl").records
    stored = {one.item: one for one in store.judgments(project)}
    expected = []
    for one in store.items(project)[:4]:
        judgment = stored[one.id]
        assert isinstance(judgment.outcome, Compared)
        verdict = formats_verdict(judgment.outcome, judgment.shown, judgment.at)
        a, b = one.content.answers
        expected.append(
            Comparison(
                prompt=one.content.prompt, a=a.text, b=b.text, verdict=verdict, source_a="runs/one",
                source_b="runs/two", stopped_b=False,
            )
        )  # fmt: skip
    assert found == expected
    assert {one.verdict.shown for one in found if one.verdict} == {"ab", "ba"}  # both occur
    assert manifest.about == {
        "project": store.project(project).name, "kind": "compare", "judgments": 4, "items": 4, "people": 1,
        "guidelines": [0], "good_from": None, "left_out": {"flagged": 1, "skipped": 1},
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == json.loads(
        json.dumps(manifest.as_dict())
    )


def formats_verdict(outcome: Compared, shown: tuple[int, ...], at: str) -> Any:
    from trimtab.records import Verdict

    order = {(0, 1): "ab", (1, 0): "ba"}[shown]
    return Verdict(
        preferred=outcome.preferred, judge="mara", strength=outcome.strength, shown=order, at=at  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ties", "pairs"),
    [("leave_out", 2), ("both_ways", 4), ("both_ways_with_both_bad", 6)],
)
def test_only_a_choice_makes_pairs_of_ties(
    store: Store, mara: Person, tmp_path: Path, ties: formats.Ties, pairs: int
) -> None:
    project = judged(store, mara, "compare", *SAID)
    export(store, project, tmp_path / "out", shape="preference", ties=ties, shares=ALL)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == pairs
    assert rows[0] == {
        "prompt": "question 0", "chosen": "one 0", "rejected": "two 0", "margin": 3.0, "judge": "mara"
    }  # fmt: skip
    assert (rows[1]["chosen"], rows[1]["rejected"], rows[1]["margin"]) == ("two 1", "one 1", 0.0)
    assert not {"question 4", "question 5"} & {row["prompt"] for row in rows}


def test_rankings_become_the_pairs_of_one_group(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(store, mara, "rank", Ranked(places=(2, 1, 2)), Ranked(places=(3, 2, 1)))
    export(store, project, tmp_path / "out", shares=ALL)
    found = formats.read_comparisons(tmp_path / "out" / "train.jsonl").records
    said = [(pair.a, pair.b, pair.verdict.preferred) for pair in found if pair.verdict]
    assert said == [
        ("one 0", "two 0", "b"), ("one 0", "three 0", "tie"), ("two 0", "three 0", "a"),
        ("one 1", "two 1", "b"), ("one 1", "three 1", "b"), ("two 1", "three 1", "b"),
    ]  # fmt: skip
    groups = [pair.group for pair in found]
    assert len(set(groups[:3])) == len(set(groups[3:])) == 1 and groups[0] != groups[3] and groups[0]
    shown = {one.item: one.shown for one in store.judgments(project)}
    for pair, (i, j), number in zip(found, [(0, 1), (0, 2), (1, 2)] * 2, [0] * 3 + [1] * 3, strict=True):
        order = shown[store.items(project)[number].id]
        assert pair.verdict and pair.verdict.shown == ("ab" if order.index(i) < order.index(j) else "ba")
    export(store, project, tmp_path / "pairs", shape="preference", shares=ALL)
    rows = rows_of(tmp_path / "pairs")
    assert len(rows) == 5 and {row["group"] for row in rows} == set(groups)  # the tie is no pair


def test_an_edit_is_a_demonstration_and_a_ranking(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(
        store,
        mara,
        "edit",
        Edited(preferred="b", response="better"),
        Edited(preferred="a", response="one 1 "),
    )
    export(store, project, tmp_path / "shown", shape="prompt_completion", shares=ALL)
    assert formats.read_demonstrations(tmp_path / "shown" / "train.jsonl").records == [
        Demonstration(prompt="question 0", response="better", keywords=("seven",)),
        Demonstration(prompt="question 1", response="one 1 ", keywords=("seven",)),
    ]
    export(store, project, tmp_path / "pairs", shares=ALL)
    pairs = formats.read_comparisons(tmp_path / "pairs" / "train.jsonl").records
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("two 0", "one 0"), ("better", "two 0"), ("better", "one 0"), ("one 1", "two 1")
    ]  # fmt: skip
    assert [bool(pair.group) for pair in pairs] == [True, True, True, False]
    assert (pairs[1].source_a, pairs[1].source_b, pairs[1].stopped_b) == ("mara", "runs/two", False)
    export(store, project, tmp_path / "battles", shape="fastchat", shares=ALL)
    assert [row["winner"] for row in rows_of(tmp_path / "battles")] == ["model_b", "model_a"]


def test_demonstrations(store: Store, mara: Person, tmp_path: Path) -> None:
    chat = (Message("user", "Name a prime."),)
    project = project_of(store, "demonstrate", [item(0, "demonstrate", prompt=chat)])
    judge(store, project, mara, [Written(response="7")])
    shown = Demonstration(prompt=chat, response="7", keywords=("seven",))
    for shape in ("", "messages"):
        export(store, project, tmp_path / f"out {shape}", shape=shape, shares=ALL)
        file = tmp_path / f"out {shape}" / "train.jsonl"
        assert formats.read_demonstrations(file).records == [shown]


def test_grades_stay_grades_until_good_is_said(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(store, mara, "rate", Graded(grade=5), Graded(grade=4), Skipped())
    export(store, project, tmp_path / "grades", shares=ALL)
    assert formats.read_ratings(tmp_path / "grades" / "train.jsonl").records == [
        Rating(prompt="question 0", response="one 0", grade=5),
        Rating(prompt="question 1", response="one 1", grade=4),
    ]
    export(store, project, tmp_path / "labels", shape="unpaired_preference", good_from=5, shares=ALL)
    assert [row["label"] for row in rows_of(tmp_path / "labels")] == [True, False]
    for options, found in (({}, "None"), ({"good_from": 1}, "1"), ({"good_from": 8}, "8")):
        with pytest.raises(ConfigError) as refused:
            export(store, project, tmp_path / "no", shape="unpaired_preference", **options)
        assert (refused.value.where, refused.value.found) == ("good_from", found)
    with pytest.raises(ConfigError, match="makes no labels"):
        export(store, project, tmp_path / "no", shape="ratings", good_from=5)
    assert not (tmp_path / "no").exists()


def test_gold_and_repeats_only_when_asked_for(store: Store, mara: Person, tmp_path: Path) -> None:
    a = Compared(preferred="a")
    items = [item(number, "compare", gold=a if number < 3 else None) for number in range(30)]
    project = project_of(store, "compare", items, gold_share=0.3, repeat_share=0.3)
    while tasks := store.claim(project, mara.id, 1):
        (task,) = tasks
        store.save(
            Draft(
                item=task.item, person=mara.id, outcome=a, shown=task.shown, blind=True,
                guidelines=0, seconds=1.0, key=f"key {next(KEYS)}", round=task.round,
            )
        )  # fmt: skip
    everything = store.judgments(project, leave_out=())
    gold = {one.id for one in store.items(project) if one.content.gold}
    of_gold = sum(one.item in gold and not one.round for one in everything)
    repeats = sum(one.round for one in everything if one.item not in gold)
    assert of_gold and repeats
    plain = len(everything) - sum(one.item in gold or bool(one.round) for one in everything)
    for options, expected in (
        ({}, plain),
        ({"gold": True}, plain + of_gold),
        ({"repeats": True}, plain + repeats),
        ({"gold": True, "repeats": True}, len(everything)),
    ):
        folder = tmp_path / "-".join(["out", *options])
        assert export(store, project, folder, shares=ALL, **options).records == expected


def test_extras_only_when_asked_for(store: Store, mara: Person, tmp_path: Path) -> None:
    project = project_of(store, "compare", [item(0, "compare")], overlap=2)
    noor = store.add_person("noor")
    tasks = [(person, store.claim(project, person.id, 1)[0]) for person in (mara, noor)]
    store.change_project(project, overlap=1)
    for person, task in tasks:
        store.save(
            Draft(
                item=task.item, person=person.id, outcome=Compared(preferred="a"), shown=task.shown,
                blind=True, guidelines=0, seconds=1.0, key=person.name,
            )
        )  # fmt: skip
    manifest = export(store, project, tmp_path / "plain", shares=ALL)
    assert (manifest.records, manifest.about["left_out"]) == (1, {"extra": 1})
    assert export(store, project, tmp_path / "all", extra=True, shares=ALL).records == 2


def test_votes_that_were_not_blind_are_no_battles(store: Store, mara: Person, tmp_path: Path) -> None:
    project = project_of(store, "compare", [item(number, "compare") for number in range(2)])
    judge(store, project, mara, [Compared(preferred="a")] * 2, blind=False)
    with pytest.raises(DataError) as refused:
        export(store, project, tmp_path / "out", shape="fastchat")
    assert refused.value.found == "left out: 2 not blind"
    assert export(store, project, tmp_path / "own", shares=ALL).records == 2


def test_the_other_shapes_of_a_comparison(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(store, mara, "compare", *SAID)
    export(store, project, tmp_path / "bench", shape="rewardbench", shares=ALL)
    bench = read_benchmark(tmp_path / "bench" / "train.jsonl").records
    assert [(row.chosen, row.rejected) for row in bench] == [
        (("one 0",), ("two 0",)),
        (("two 1",), ("one 1",)),
    ]
    export(store, project, tmp_path / "battles", shape="fastchat", file_kind="json", shares=ALL)
    battles = json.loads((tmp_path / "battles" / "train.json").read_text())
    assert [row["winner"] for row in battles] == ["model_a", "model_b", "tie", "tie (bothbad)"]
    assert {row["judge"] for row in battles} == {"mara"} and all(row["tstamp"] for row in battles)
    export(store, project, tmp_path / "shown", shape="llm_comparator", file_kind="json", shares=ALL)
    document = json.loads((tmp_path / "shown" / "train.json").read_text())
    assert [example["score"] for example in document["examples"]] == [1.5, -1.0, 0.0, 0.0]
    export(store, project, tmp_path / "thumbs", shape="unpaired_from_pairs", shares=ALL)
    thumbs = formats.read_ratings(tmp_path / "thumbs" / "train.jsonl").records
    assert [(one.response, one.label) for one in thumbs] == [
        ("one 0", True), ("two 0", False), ("two 1", True), ("one 1", False)
    ]  # fmt: skip


@pytest.mark.parametrize("file_kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("kind", "outcome", "shapes"),
    [
        ("compare", Compared(preferred="a", strength=2),
         ("trimtab", "preference", "unpaired_from_pairs", "rewardbench", "fastchat")),
        ("rank", Ranked(places=(1, 2, 3)), ("trimtab", "preference")),
        ("rate", Graded(grade=4), ("ratings",)),
        ("demonstrate", Written(response="r"), ("prompt_completion",)),
        ("edit", Edited(preferred="a", response="r"), ("trimtab", "prompt_completion")),
    ],
)  # fmt: skip
def test_datasets_loads_every_split(
    store: Store, mara: Person, tmp_path: Path, kind: Kind, outcome: Outcome, shapes: Sequence[str],
    file_kind: formats.FileKind,
) -> None:  # fmt: skip
    project = judged(store, mara, kind, *[outcome] * 20)
    for shape in shapes:
        manifest = export(
            store, project, tmp_path / shape, shape=shape, file_kind=file_kind,
            shares={"train": 0.7, "held_out": 0.3},
        )  # fmt: skip
        files = {name: str(tmp_path / shape / part.file) for name, part in manifest.splits.items()}
        builder = "json" if file_kind == "jsonl" else "parquet"
        loaded = datasets.load_dataset(builder, data_files=files, cache_dir=str(tmp_path / "cache"))
        assert {name: len(loaded[name]) for name in files} == {
            name: part.rows for name, part in manifest.splits.items()
        }
        assert set(loaded["train"].column_names) <= set(formats.EXPORTS[shape].columns)
        asked = [{row.get("prompt", row.get("question_id")) for row in loaded[name]} for name in files]
        assert all(asked) and not asked[0] & asked[1]


def test_a_shape_of_another_kind_is_refused(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(store, mara, "rate", Graded(grade=5))
    with pytest.raises(ConfigError) as refused:
        export(store, project, tmp_path / "out", shape="preference")
    assert refused.value.found == "preference holds comparisons"
    assert refused.value.fix == "use unpaired_preference, ratings"
    with pytest.raises(ConfigError, match="no such shape"):
        export(store, project, tmp_path / "out", shape="csv")


def test_a_project_without_judgments_is_refused(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(store, mara, "compare", Skipped())
    with pytest.raises(DataError) as refused:
        export(store, project, tmp_path / "out")
    assert refused.value.found == "left out: 1 skipped" and not (tmp_path / "out").exists()


def test_equal_judgments_give_equal_files(store: Store, mara: Person, tmp_path: Path) -> None:
    project = judged(store, mara, "rank", *[Ranked(places=(1, 2, 3))] * 5)
    for name in ("one", "two"):
        export(store, project, tmp_path / name)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert one == two
