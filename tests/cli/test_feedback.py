"""`trimtab feedback` and `trimtab judge --by people`, as a person meets them; training on an export."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from trimtab import formats
from trimtab.arena.people import ask, read_verdicts, verdict_of
from trimtab.demo.assets import MODEL, PAIRS
from trimtab.errors import StoreError
from trimtab.feedback.records import (
    Compared,
    Draft,
    Edited,
    Judgment,
    Outcome,
    Ranked,
    Skipped,
    Written,
)
from trimtab.feedback.store.facts import Settings, Task
from trimtab.feedback.store.store import open_store
from trimtab.records import Comparison, Preferred, Verdict

Trimtab = Callable[..., Any]
KEYS = count()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "feedback.sqlite"


@pytest.fixture
def matches(tmp_path: Path) -> Path:
    path = tmp_path / "matches.jsonl"
    rows = [
        {"prompt": f"p{n}", "a": f"one {n}", "b": f"two {n}", "source_a": "ppo", "source_b": "dpo"}
        for n in range(4)
    ]
    rows.append({"prompt": "same", "a": "x", "b": "x ", "source_a": "ppo", "source_b": "dpo"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judge(
    place: Path,
    name: str,
    say: Callable[[Task], Outcome | None],
    *,
    project: str | None = None,
    most: int = 100,
) -> int:
    """Everything that is open for a person; `say` gives None for what is left alone. How many were judged."""
    with open_store(place) as store:
        person = store.person_named(name) or store.add_person(name)
        found = store.project_named(project) if project else store.projects()[0]
        assert found is not None
        said = [(task, say(task)) for task in store.claim(found.id, person.id, most)]
        for task, outcome in said:
            if outcome is not None:
                store.save(
                    Draft(
                        item=task.item, person=person.id, outcome=outcome, shown=task.shown, blind=True,
                        guidelines=0, seconds=2.0, key=f"key {next(KEYS)}", round=task.round,
                    )
                )  # fmt: skip
    return len([outcome for _, outcome in said if outcome is not None])


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Import


def test_an_import_makes_the_project_and_never_doubles(trimtab: Trimtab, matches: Path, place: Path) -> None:
    first = trimtab("feedback", "import", matches, "--store", place, "--overlap", 2)
    assert first.code == 0
    assert first.out.splitlines()[:2] == ["made the project 'matches' (compare)", "4 new items in 'matches'"]
    assert f"left out {matches}:5: identical pair" in first.err
    again = json.loads(trimtab("feedback", "import", matches, "--store", place, "--json").out)
    assert (again["made"], again["new"], again["there already"]) == (False, 0, 4)
    with open_store(place) as store:
        (project,) = store.projects()
        assert (project.settings.overlap, len(store.items(project.id))) == (2, 4)


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        ([], "an import takes files, or two models", "--play A B --prompts FILE"),
        (["FILE", "--play", "a", "b", "--prompts", "p"], "an import takes files, or two models", ""),
        (["--play", "a", "b"], "an import takes files, or two models", ""),
        (["FILE", "--project", "film"], "there is no such project", "did you mean 'films'?; --kind compare"),
        (["FILE", "--kind", "rate", "--project", "films"], "the project is of another kind", "--project"),
        (
            ["FILE", "--overlap", "3"],
            "the project has another overlap",
            "change --project 'films' --overlap 3",
        ),
        (["FILE", "--kind", "rank", "--project", "new"], "the row has no `answers`", "answers"),
        (["nothing.jsonl"], "there is no such file", ""),
    ],
)
def test_what_an_import_refuses(
    trimtab: Trimtab, matches: Path, place: Path, words: list[str], what: str, fix: str
) -> None:
    assert trimtab("feedback", "new", "films", "--store", place).code == 0
    given = [matches if word == "FILE" else word for word in words]
    said = trimtab("feedback", "import", *given, "--store", place)
    assert said.code == 1 and what in said.err and fix in said.err
    with open_store(place) as store:
        assert [project.name for project in store.projects()] == ["films"]
        assert store.counts(1).items == 0


def test_a_file_that_cannot_be_read_makes_no_store(trimtab: Trimtab, tmp_path: Path, place: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p"}\n')
    assert trimtab("feedback", "import", tmp_path / "bad.jsonl", "--store", place).code == 1
    assert not place.exists()


def test_two_models_play_and_their_answers_are_items(
    trimtab: Trimtab, model_folder: Path, tmp_path: Path, place: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "say {n}"}}\n' for n in range(3)))
    words = ("--play", model_folder, model_folder, "--prompts", tmp_path / "prompts.jsonl", "--count", "2")
    said = trimtab(
        "feedback", "import", *words, "--max-new", "4", "--device", "cpu", "--store", place, "--json"
    )
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert (result["project"], result["new"]) == ("model0 and model0", 2)
    with open_store(place) as store:
        (first, _) = store.items(1)
    assert first.content.prompt == "say 0"
    (hashed,) = {answer.policy_hash for answer in first.content.answers}
    assert re.fullmatch(r"[0-9a-f]{64}", hashed)


# Projects


def test_projects_are_made_changed_and_listed(trimtab: Trimtab, place: Path, tmp_path: Path) -> None:
    (tmp_path / "told.md").write_text("Be **kind**.")
    made = ("new", "films", "--kind", "rank", "--overlap", "2", "--repeat-share", "0.1")
    assert trimtab("feedback", *made, "--store", place).code == 0
    changed = ("change", "--overlap", "3", "--gold-share", "0.2", "--guidelines", tmp_path / "told.md")
    assert trimtab("feedback", *changed, "--store", place).code == 0
    with open_store(place) as store:
        (project,) = store.projects()
        assert project.settings.kind == "rank" and project.settings.overlap == 3
        assert (project.settings.gold_share, project.settings.repeat_share) == (0.2, 0.1)
        assert store.guidelines(project.id, project.guidelines).text == "Be **kind**."
    (listed,) = json.loads(trimtab("feedback", "projects", "--store", place, "--json").out)
    assert (listed["project"], listed["kind"], listed["items"]) == ("films", "rank", 0)
    assert "films" in trimtab("feedback", "projects", "--store", place).out
    assert "nothing to change" in trimtab("feedback", "change", "--store", place).err


@pytest.mark.parametrize(
    "words",
    [("export", "out"), ("agreement",), ("projects",), ("users", "list"), ("backup", "b"),
     ("change", "--overlap", "2")],
)  # fmt: skip
def test_a_store_that_is_not_there_is_not_made(trimtab: Trimtab, place: Path, words: tuple[str, ...]) -> None:
    said = trimtab("feedback", *words, "--store", place)
    assert said.code == 1 and "there is no store" in said.err and "--store" in said.err
    assert not place.exists()


def test_which_project_is_asked_where_there_are_several(trimtab: Trimtab, place: Path) -> None:
    for name in ("films", "books"):
        trimtab("feedback", "new", name, "--store", place)
    said = trimtab("feedback", "agreement", "--store", place)
    assert said.code == 1 and "which project" in said.err and "--project 'films'" in said.err
    said = trimtab("feedback", "agreement", "--project", "filns", "--store", place)
    assert said.code == 1 and "did you mean 'films'" in said.err


# Agreement, export, users, backup


def test_agreement_on_the_terminal_and_as_json(trimtab: Trimtab, matches: Path, place: Path) -> None:
    trimtab("feedback", "import", matches, "--store", place, "--overlap", 2)
    judge(place, "mara", lambda task: Compared(preferred="a" if task.item < 3 else "b"))
    judge(place, "noor\x1b[2J".replace("\x1b", ""), lambda task: Compared(preferred="a"))
    found = json.loads(trimtab("feedback", "agreement", "--store", place, "--json").out)
    assert (found["shared"], found["agreement"]["estimate"]) == (4, 0.5)
    # a 6, b 2; coincidences: aa 4, ab and ba 2 each. Observed apart 4, expected 2 * 6 * 2 / 7.
    assert found["alpha_nominal"]["estimate"] == pytest.approx(1 - 4 / (24 / 7))
    assert [one["judgments"] for one in found["annotators"]] == [4, 4]
    shown = trimtab("feedback", "agreement", "--store", place).out
    assert "4 of them judged by two or more" in shown and "Krippendorff" in shown and "mara" in shown


def test_an_export_and_what_it_leaves_out(
    trimtab: Trimtab, matches: Path, place: Path, tmp_path: Path
) -> None:
    trimtab("feedback", "import", matches, "--store", place)
    said: list[Outcome] = [
        Compared(preferred="a"), Compared(preferred="tie"), Skipped(), Compared(preferred="b", strength=3)
    ]  # fmt: skip
    judge(place, "mara", lambda task: said[task.item - 1])
    words = ("feedback", "export", tmp_path / "out", "--shape", "preference", "--held-out", "0")
    shown = trimtab(*words, "--store", place)
    assert shown.code == 0, shown.err
    assert f"train: 2 rows of 2 prompts in {tmp_path / 'out' / 'train.jsonl'}" in shown.out
    assert "left out: 1 skipped" in shown.out and "left out: 1 tie" in shown.out
    assert [row["margin"] for row in rows_of(tmp_path / "out" / "train.jsonl")] == [0.0, 3.0]
    both = trimtab(
        "feedback", "export", tmp_path / "both", "--shape", "preference", "--ties", "both_ways",
        "--file-kind", "parquet", "--held-out", "0", "--store", place, "--json",
    )  # fmt: skip
    assert json.loads(both.out)["rows"] == 4
    shown = trimtab("feedback", "export", tmp_path / "llm", "--shape", "llm_comparator", "--store", place)
    assert shown.code == 0 and list((tmp_path / "llm").glob("*.json")), shown.err
    refused = trimtab("feedback", "export", tmp_path / "out", "--store", place)
    assert refused.code == 1 and "not empty" in refused.err


def test_users_come_in_by_links_and_passwords(
    trimtab: Trimtab, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = trimtab(
        "feedback", "users", "add", "mara", "--role", "admin", "--url", "http://h:1/", "--store", place
    )
    assert added.code == 0, added.err
    (token,) = re.findall(r"http://h:1/enter/([\w-]+)", added.out)
    with open_store(place) as store:
        person = store.redeem_sign_in(token)
        assert person is not None and (person.name, person.role) == ("mara", "admin")
    assert re.search(
        r"127.0.0.1:8765/enter/", trimtab("feedback", "users", "link", "Mara", "--store", place).out
    )
    import typer

    monkeypatch.setattr(typer, "prompt", lambda *words, **options: "correct horse battery")
    assert trimtab("feedback", "users", "password", "mara", "--store", place).code == 0
    with open_store(place) as store:
        assert store.verify_password("mara", "correct horse battery")
    trimtab("feedback", "users", "add", "noor", "--store", place)
    assert trimtab("feedback", "users", "deactivate", "noor", "--store", place).code == 0
    listed = json.loads(trimtab("feedback", "users", "list", "--store", place, "--json").out)
    assert [(one["name"], one["active"]) for one in listed] == [("mara", True), ("noor", False)]
    assert trimtab("feedback", "users", "reactivate", "noor", "--store", place).code == 0
    assert "noor" in trimtab("feedback", "users", "list", "--store", place).out
    missing = trimtab("feedback", "users", "link", "nobody", "--store", place)
    assert missing.code == 1 and "mara, noor" in missing.err


def test_backup_and_restore(trimtab: Trimtab, matches: Path, place: Path, tmp_path: Path) -> None:
    trimtab("feedback", "import", matches, "--store", place)
    judge(place, "mara", lambda task: Compared(preferred="a"))
    saved = trimtab("feedback", "backup", tmp_path / "b", "--store", place)
    assert saved.code == 0 and (tmp_path / "b.sha256").read_text().split()[0] in saved.out
    other = tmp_path / "other.sqlite"
    assert trimtab("feedback", "restore", tmp_path / "b", "--store", other).code == 0
    with open_store(other) as store:
        assert len(store.judgments(1)) == 4
    refused = trimtab("feedback", "restore", tmp_path / "b", "--store", place)
    assert refused.code == 1 and "holds judgments" in refused.err
    with (tmp_path / "b").open("ab") as file:
        file.write(b"x")
    changed = trimtab("feedback", "restore", tmp_path / "b", "--store", tmp_path / "third.sqlite")
    assert changed.code == 1 and "the backup was changed" in changed.err


# Serve


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    from trimtab.web import serve

    monkeypatch.setattr(serve, "serve", lambda place, **options: calls.append((place, options)))
    return calls


def test_serve_in_an_empty_folder_has_pairs_to_try(trimtab: Trimtab, place: Path, served: list[Any]) -> None:
    said = trimtab("feedback", "serve", "--store", place, "--port", 0, "--no-open")
    assert said.code == 0 and "60 pairs to try" in said.out
    (given, options) = served[0]
    assert given == str(place)
    assert (options["host"], options["port"], options["open_browser"]) == ("127.0.0.1", 0, False)
    with open_store(place) as store:
        (project,) = store.projects()
        assert (project.name, project.guidelines, len(store.items(project.id))) == ("demo", 1, 60)
    assert "pairs to try" not in trimtab("feedback", "serve", "--store", place).out
    assert served[1][1]["open_browser"] is True


def test_serve_without_the_demo(trimtab: Trimtab, place: Path, served: list[Any]) -> None:
    assert trimtab("feedback", "serve", "--no-demo", "--store", place).out == ""
    assert not place.exists() and len(served) == 1


def test_the_carried_pairs_are_unjudged_and_different() -> None:
    pairs = formats.usable(formats.read_comparisons(PAIRS))
    assert len({(row.record.prompt, row.record.a, row.record.b) for row in pairs}) == len(pairs) == 60
    assert all(row.record.verdict is None and row.record.source_a == MODEL for row in pairs)


# People as a judge


def asked(trimtab: Trimtab, matches: Path, place: Path, out: Path, *words: object) -> Any:
    return trimtab("judge", matches, "--by", "people", "--store", place, "--out", out, *words)


def test_people_are_asked_and_come_back_with_verdicts(
    trimtab: Trimtab, matches: Path, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "judged.jsonl"
    first = asked(trimtab, matches, place, out)
    assert first.code == 0, first.err
    assert "4 of 5 comparisons wait for people in the project 'matches'" in first.out
    assert f"trimtab feedback serve --store {place}" in first.out
    said: dict[int, Outcome | None] = {
        1: Compared(preferred="a", strength=3), 2: Compared(preferred="both_bad"), 3: Skipped(), 4: None
    }  # fmt: skip
    judge(place, "mara", lambda task: said[task.item])
    second = json.loads(asked(trimtab, matches, place, out, "--json").out)
    assert second["missing"] == 2 and second["new"] == 0
    assert second["verdicts"] == {"ppo": 1, "tie": 2}
    found = formats.read_comparisons(out).records
    assert [(one.prompt, one.verdict.preferred) for one in found if one.verdict] == [
        ("p0", "a"), ("p1", "both_bad"), ("same", "tie")
    ]  # fmt: skip
    verdict = found[0].verdict
    assert verdict and (verdict.judge, verdict.strength, bool(verdict.shown)) == ("people", 3, True)
    for name in ("noor", "mara"):  # one judges what mara skipped, and mara what she still holds
        judge(place, name, lambda task: Compared(preferred="b"))
    third = asked(trimtab, matches, place, out)
    assert "missing: 0" in third.out and len(formats.read_comparisons(out).records) == 5
    with open_store(place) as store:
        assert len(store.items(1)) == 4


def test_the_overlap_is_waited_for_and_the_most_frequent_answer_counts(
    trimtab: Trimtab, matches: Path, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "judged.jsonl"
    asked(trimtab, matches, place, out, "--overlap", 2)
    judge(place, "mara", lambda task: Compared(preferred="a"))
    assert json.loads(asked(trimtab, matches, place, out, "--json").out)["missing"] == 4
    judge(place, "noor", lambda task: Compared(preferred="a" if task.item < 3 else "b"))
    assert json.loads(asked(trimtab, matches, place, out, "--json").out)["verdicts"] == {"ppo": 2, "tie": 3}


def test_second_answers_of_one_person_are_no_verdicts(tmp_path: Path, place: Path) -> None:
    pairs = [Comparison(prompt=f"p{n}", a="one", b="two") for n in range(30)]
    with open_store(place) as store:
        settings = Settings(kind="compare", overlap=2, repeat_share=0.5)
        store.create_project("films", settings)
        question = ask(store, "films", pairs, overlap=None)
    for _ in range(40):
        judge(place, "mara", lambda task: Compared(preferred="b" if task.round else "a"), most=1)
    with open_store(place) as store:
        assert any(one.round for one in store.judgments(1))
        assert read_verdicts(store, question) == [None] * 30
        store.change_project(1, overlap=1)
        said = [verdict.preferred for verdict in read_verdicts(store, question) if verdict]
    assert set(said) == {"a"} and len(said) > 15


def test_waiting_ends_when_all_is_judged(
    trimtab: Trimtab, matches: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.cli import people

    looks = iter([1, 2, 3, 4])

    def meanwhile(seconds: float) -> None:
        number = next(looks)
        judge(place, "mara", lambda task: Compared(preferred="b") if task.item == number else None)

    monkeypatch.setattr(people.time, "sleep", meanwhile)
    said = asked(trimtab, matches, place, tmp_path / "judged.jsonl", "--wait", "--project", "films")
    assert said.code == 0 and "missing: 0" in said.out
    assert "4 of 5 comparisons wait" in said.err and "1 missing" in said.err
    assert len(formats.read_comparisons(tmp_path / "judged.jsonl").records) == 5


def test_a_wait_that_is_interrupted_loses_nothing(
    trimtab: Trimtab, matches: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.cli import people

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(people.time, "sleep", interrupt)
    said = asked(trimtab, matches, place, tmp_path / "judged.jsonl", "--wait")
    assert said.code == 130 and "run the same command again" in said.err


def test_what_people_as_a_judge_refuse(trimtab: Trimtab, matches: Path, place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(
        '{"prompt": "p0", "a": "one 0", "b": "two 0", "verdict": {"preferred": "a", "judge": "m"}}\n'
    )
    before = other.read_text()
    said = asked(trimtab, matches, place, other)
    assert said.code == 1 and "the file exists already" in said.err and other.read_text() == before
    said = trimtab("judge", matches, "--by", "people", "--by", "runs/judge", "--out", tmp_path / "x")
    assert said.code == 1 and "people judge alone" in said.err
    trimtab("feedback", "new", "grades", "--kind", "rate", "--store", place)
    said = asked(trimtab, matches, place, tmp_path / "y", "--project", "grades")
    assert said.code == 1 and "does not ask for comparisons" in said.err


def votes(*preferred: Preferred, strength: int | None = None) -> list[Judgment]:
    return [
        Judgment(
            id=n, item=1, project=1, person=n, shown=(1, 0), blind=True, guidelines=0, seconds=1.0,
            outcome=Compared(preferred=one, strength=strength if one in ("a", "b") else None),
            policies=("", ""), client="", key=str(n), round=0, extra=False, supersedes=None,
            at=f"2026-01-0{n}T00:00:00+00:00",
        )
        for n, one in enumerate(preferred, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (("a",),
         Verdict(preferred="a", judge="people", strength=2, shown="ba", at="2026-01-01T00:00:00+00:00")),
        (("a", "b", "a"), Verdict(preferred="a", judge="people", strength=2, at="2026-01-03T00:00:00+00:00")),
        (("a", "b"), Verdict(preferred="tie", judge="people", at="2026-01-02T00:00:00+00:00")),
        (("tie", "both_bad"), Verdict(preferred="tie", judge="people", at="2026-01-02T00:00:00+00:00")),
        (("both_bad", "both_bad", "a"),
         Verdict(preferred="both_bad", judge="people", at="2026-01-03T00:00:00+00:00")),
    ],
)  # fmt: skip
def test_the_most_frequent_answer_is_the_verdict(said: Iterable[Preferred], verdict: Verdict) -> None:
    assert verdict_of(votes(*said, strength=2)) == verdict


# Training on what was exported

TRAIN = (
    "--set", f"model={MODEL}", "--set", "device=cpu", "--set", "epochs=1", "--set", "batch=4",
    "--set", "max_prompt=64", "--set", "max_response=64", "--set", "samples=0",
)  # fmt: skip


@pytest.mark.slow
def test_training_takes_an_export_unchanged(
    trimtab: Trimtab, tmp_path: Path, place: Path, served: list[Any]
) -> None:
    """20 pairs judged, two people's 15 demonstrations, 5 rankings, 5 edits."""
    trimtab("feedback", "serve", "--no-open", "--store", place)
    judge(
        place, "mara",
        lambda task: (
            Compared(preferred="ab"[task.item % 2], strength=1 + task.item % 3) if task.item <= 20 else None
        ),
    )  # fmt: skip
    prompts = [row.record.prompt for row in formats.usable(formats.read_comparisons(PAIRS))]
    rankings, shown = tmp_path / "four.jsonl", tmp_path / "prompts.jsonl"
    texts = [{"prompt": prompt, "answers": [f" {n} is good." for n in "abcd"]} for prompt in prompts[:5]]
    rankings.write_text("".join(json.dumps(row) + "\n" for row in texts))
    shown.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts[:10]))
    edits = tmp_path / "edits.jsonl"
    formats.write_comparisons(edits, formats.read_comparisons(PAIRS).records[:5])
    for name, kind, file in (
        ("rank", "rank", rankings),
        ("write", "demonstrate", shown),
        ("edit", "edit", edits),
    ):
        said = trimtab("feedback", "import", file, "--project", name, "--kind", kind, "--store", place)
        assert said.code == 0, said.err
    judge(place, "noor", lambda task: Ranked(places=(1, 2, 2, 3)), project="rank")
    written = iter([Written(response=" a fine film.")] * 5)
    judge(place, "mara", lambda task: next(written, None), project="write")
    with open_store(place) as store:  # whose leases would keep noor waiting
        store.change_project(store.projects()[2].id, overlap=2)
    judge(place, "noor", lambda task: Written(response=" a dull film."), project="write")
    judge(place, "mara", lambda task: Edited(preferred="a", response=" a finer film."), project="edit")
    for project, shape, stages in (
        ("demo", "trimtab", ("reward", "dpo")),
        ("demo", "preference", ("reward", "dpo")),
        ("rank", "trimtab", ("reward", "dpo")),
        ("write", "prompt_completion", ("sft",)),
        ("edit", "prompt_completion", ("sft",)),
        ("edit", "trimtab", ("reward",)),
    ):
        folder = tmp_path / f"{project}-{shape}"
        words = ("--project", project, "--shape", shape, "--held-out", 0, "--store", place)
        said = trimtab("feedback", "export", folder, *words)
        assert said.code == 0, said.err
        for stage in stages:
            out = tmp_path / "runs" / f"{stage}-{folder.name}"
            said = trimtab(stage, *TRAIN, "--set", f"data={folder / 'train.jsonl'}", "--out", out)
            assert said.code == 0, said.err
            assert (out / "DONE").exists()
            fact = json.loads((out / "run.json").read_text())["data"]["train"]
            pairs = 5 if stage == "reward" else 25  # a reward model reads a ranking as one example
            expected = {"demo": 20, "rank": pairs, "write": 15, "edit": 5}
            assert fact["examples"] == expected[project]


def test_help_brings_no_database_and_no_server() -> None:
    heavy = {"sqlalchemy", "alembic", "fastapi", "uvicorn", "scipy", "torch"}
    code = f"import trimtab.cli.main, sys; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_the_packages_the_message_says_what_to_install(
    trimtab: Trimtab, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trimtab.feedback.store.store", "trimtab.web.serve"):
        monkeypatch.setitem(sys.modules, name, None)
    for words in (("new", "films"), ("serve",)):
        said = trimtab("feedback", *words, "--store", place)
        assert said.code == 1 and "pip install 'trimtab[feedback]'" in said.err


def test_a_store_that_cannot_be_opened_is_a_message(trimtab: Trimtab, place: Path) -> None:
    place.write_text("this is no database" * 100)
    said = trimtab("feedback", "projects", "--store", place)
    assert said.code == 1 and "Traceback" not in said.err
    assert issubclass(StoreError, Exception) and str(place) in said.err
