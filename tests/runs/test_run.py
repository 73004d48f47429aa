"""The life of a run folder: begun, interrupted, resumed, finished, and never taken for another."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.config import Settings, read_yaml
from trimtab.errors import RunError
from trimtab.runs import checkpoint
from trimtab.runs import run as run_module
from trimtab.runs.cost import Cost, Part
from trimtab.runs.run import is_done, open_run, read_facts, read_metrics


class Inner(Settings):
    rate: float = 0.1


class Stage(Settings):
    data: str = "a.jsonl"
    checkpoint_every: int = 10
    row_tokens: int = 512
    inner: Inner = Inner()


GROUPS = {"weights": {"w": torch.tensor([1.0, 2.0])}}


def interrupted(folder: Path, *, steps: int = 4, saved: int = 2) -> None:
    """A run that logged `steps` steps and saved a checkpoint after `saved` of them."""
    with open_run(folder, "sft", Stage(), resume=False) as run:
        for step in range(1, steps + 1):
            run.log(step, loss=1.0 / step)
            run.sample(step, [{"response": f"after {step}"}])
            if step == saved:
                run.save(step, GROUPS, kl_weight=0.5)


def refused(folder: Path, settings: Settings, *, resume: bool) -> RunError:
    with pytest.raises(RunError) as caught:
        open_run(folder, "sft", settings, resume=resume)
    return caught.value


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("resume", [False, True])
def test_a_fresh_folder(tmp_path: Path, resume: bool) -> None:
    folder = tmp_path / "deep" / "run"
    with open_run(folder, "sft", Stage(data="b"), resume=resume) as run:
        assert (run.step, run.resumed_from, run.stage) == (0, None, "sft")
        assert read_yaml(folder / "config.yaml") == Stage(data="b").model_dump(mode="json")
        facts = read_facts(folder)
    assert facts["stage"] == "sft"
    assert facts["python"] == sys.version.split()[0]
    assert facts["packages"]["torch"] == torch.__version__
    assert not is_done(folder)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        assert run.folder == tmp_path


def test_a_run_that_was_killed_as_it_began_is_taken(tmp_path: Path) -> None:
    for name in (".lock", ".config.yaml.tmp"):
        (tmp_path / name).write_text("data:")
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        assert run.step == 0


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    error = refused(tmp_path, Stage(), resume=resume)
    assert (error.what, error.where) == ("the folder is not empty and holds no run", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    assert "a file" in refused(tmp_path / "run", Stage(), resume=True).what


def test_an_interrupted_run_needs_resume(tmp_path: Path) -> None:
    interrupted(tmp_path)
    error = refused(tmp_path, Stage(), resume=False)
    assert error.what == "this run was interrupted"
    assert "--resume" in error.fix
    assert len(read_metrics(tmp_path)) == 4, "nothing was touched"


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_is_not_done_again(tmp_path: Path, resume: bool) -> None:
    interrupted(tmp_path)
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        run.finish()
    assert is_done(tmp_path)
    assert refused(tmp_path, Stage(), resume=resume).what == "this run is finished"


def test_resuming_goes_back_to_the_checkpoint(tmp_path: Path) -> None:
    interrupted(tmp_path, steps=4, saved=2)
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        assert run.step == 2
        assert run.resumed_from is not None
        assert run.resumed_from.state["kl_weight"] == 0.5
        assert run.resumed_from.tensors("weights")["w"].tolist() == [1.0, 2.0]
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
        run.log(3, loss=9.0)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert [row["response"] for row in rows(tmp_path / "samples.jsonl")] == ["after 1", "after 2"]


def test_what_was_logged_after_the_checkpoint_of_the_same_step_is_made_again(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        run.log(1, loss=1.0)
        run.save(1, GROUPS)
        run.log(1, dev_loss=0.9)
        run.sample(1, [{"response": "seven"}])
    with open_run(tmp_path, "sft", Stage(), resume=True):
        assert [row.get("loss") for row in read_metrics(tmp_path)] == [1.0]
        assert rows(tmp_path / "samples.jsonl") == []


def test_resuming_without_a_checkpoint_begins_again(tmp_path: Path) -> None:
    interrupted(tmp_path, steps=3, saved=99)
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        assert (run.step, run.resumed_from) == (0, None)
    assert read_metrics(tmp_path) == []
    assert (tmp_path / "samples.jsonl").read_text() == ""


def test_what_a_model_says_does_not_break_lines(tmp_path: Path) -> None:
    said = "one\u2028two\x85three\x1cfour\r\nfive\n"
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        run.sample(1, [{"response": said}, {"response": "after it"}])
        run.save(1, GROUPS)
    open_run(tmp_path, "sft", Stage(), resume=True).__exit__()
    assert [row["response"] for row in rows(tmp_path / "samples.jsonl")] == [said, "after it"]


def test_other_settings_are_named(tmp_path: Path) -> None:
    interrupted(tmp_path)
    error = refused(tmp_path, Stage(data="b.jsonl", inner=Inner(rate=0.2)), resume=True)
    assert error.what == "the run was started with other settings"
    assert error.found == "data: a.jsonl -> b.jsonl; inner.rate: 0.1 -> 0.2"
    assert len(read_metrics(tmp_path)) == 4, "nothing was touched"
    assert read_yaml(tmp_path / "config.yaml")["data"] == "a.jsonl"


def test_a_refused_run_can_be_opened_at_once(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with pytest.raises(RunError):
        open_run(tmp_path, "sft", Stage(data="b.jsonl"), resume=True)
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        assert run.step == 2


def test_where_and_how_often_may_change(tmp_path: Path) -> None:
    interrupted(tmp_path)
    changed = Stage(checkpoint_every=3, row_tokens=64)
    with open_run(tmp_path, "sft", changed, resume=True):
        assert read_yaml(tmp_path / "config.yaml") == changed.model_dump(mode="json")


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from trimtab.config import Settings;"
        "from trimtab.runs.run import open_run;"
        "run = open_run(Path(sys.argv[1]), 'sft', Settings(), resume=True);"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        for resume in (False, True):
            error = refused(tmp_path, Settings(), resume=resume)
            assert error.what == "another process is working on this run"
        other.send_signal(signal.SIGKILL)
        other.wait()
    with open_run(tmp_path, "sft", Settings(), resume=True):
        pass


def test_metrics_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        run.log(1, loss=0.5, note="é", nothing=None)
        (row,) = rows(tmp_path / "metrics.jsonl")
        assert {key: row[key] for key in ("step", "loss", "note", "nothing")} == {
            "step": 1,
            "loss": 0.5,
            "note": "é",
            "nothing": None,
        }
        assert row["time"].endswith("+00:00")
        run.log(2, loss=0.4)
        assert len(rows(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b'{"step": 2, "note": "\xc3', b"\n"])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.5}\n' + torn)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_torn_last_line_is_gone_after_resuming(tmp_path: Path) -> None:
    interrupted(tmp_path, steps=2, saved=2)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        run.log(3, loss=0.1)
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_facts_add_up(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        run.describe(seed=3)
        run.describe(device="cpu, float32")
        facts = read_facts(tmp_path)
    assert (facts["stage"], facts["seed"], facts["device"]) == ("sft", 3, "cpu, float32")


def test_a_resumed_run_knows_what_it_said_before(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        assert run.earlier_fact("seed") is None
        run.describe(seed=3, started="2026-01-01T00:00:00+00:00")
        run.log(0, loss=1.0)
        assert run.earlier_fact("seed") is None
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        assert run.earlier_fact("seed") == 3
        assert read_facts(tmp_path)["started"] == "2026-01-01T00:00:00+00:00"


def test_what_a_run_is_made_from_stays_the_same(tmp_path: Path) -> None:
    train, dev = {"sha256": "aa", "examples": 3}, {"sha256": "bb", "examples": 1}
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        run.describe_input("data", "train", train)
        run.describe_input("data", "dev", dev)
        run.describe_input("parents", "model", {"weights_sha256": "cc"})
        run.log(0, loss=1.0)
        facts = read_facts(tmp_path)
    assert facts["data"] == {"train": train, "dev": dev}
    assert facts["parents"] == {"model": {"weights_sha256": "cc"}}
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        run.describe_input("data", "train", train)
        with pytest.raises(RunError, match="has changed: data dev") as caught:
            run.describe_input("data", "dev", {"sha256": "dd", "examples": 1})
    assert caught.value.found == "sha256: bb -> dd"


def test_a_folder_without_facts_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this is not a run folder") as caught:
        read_facts(tmp_path)
    assert caught.value.found == "no run.json"


def test_rows_left_out_are_listed(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        run.leave_out([])
        assert not (tmp_path / "left_out.jsonl").exists()
        run.leave_out([("a.jsonl:3", "too long"), ("a.jsonl:9", "é")])
        run.leave_out([("a.jsonl:3", "too long"), ("a.jsonl:9", "é")])  # a resumed run says it again
    assert rows(tmp_path / "left_out.jsonl") == [
        {"where": "a.jsonl:3", "reason": "too long"},
        {"where": "a.jsonl:9", "reason": "é"},
    ]


def test_cost_adds_up_over_the_parts_of_a_run(tmp_path: Path) -> None:
    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        run.meter.before = Cost(wall_s=1000.0, cpu_s=500.0, peak_memory_bytes=1 << 50)
        run.meter.parts["training"] = Part(40.0, 70.0)
        run.save(1, GROUPS)
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        with run.meter.timed("training"), run.meter.timed("evaluation"):
            pass
        run.finish()
    cost = read_facts(tmp_path)["cost"]
    assert 1000 < cost["wall_s"] < 1100
    assert 500 < cost["cpu_s"] < 600
    assert cost["peak_memory_bytes"] == 1 << 50
    assert cost["parts"].keys() == {"training", "evaluation"}
    assert 40 <= cost["parts"]["training"]["wall_s"] < 50
    assert 70 <= cost["parts"]["training"]["cpu_s"] < 80
    assert 0 <= cost["parts"]["evaluation"]["wall_s"] < 10


def test_done_comes_after_the_facts_and_before_checkpoints_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path)
    seen: list[tuple[str, bool, bool]] = []
    write = run_module.write_text

    def watch(path: Path, text: str) -> None:
        cost_is_there = "cost" in read_facts(tmp_path)
        seen.append((path.name, cost_is_there, checkpoint.latest(tmp_path) is not None))
        write(path, text)

    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        monkeypatch.setattr(run_module, "write_text", watch)
        run.finish()
    assert seen == [("DONE", True, True)]
    assert not (tmp_path / "checkpoints").exists()


def test_an_error_before_done_leaves_a_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path, saved=2)

    def fail(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with open_run(tmp_path, "sft", Stage(), resume=True) as run, monkeypatch.context() as broken:
        broken.setattr(run_module, "write_text", fail)
        with pytest.raises(KeyboardInterrupt):
            run.finish()
    assert not is_done(tmp_path)
    with open_run(tmp_path, "sft", Stage(), resume=True) as run:
        assert run.step == 2


def test_an_error_after_done_leaves_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        raise KeyboardInterrupt

    with open_run(tmp_path, "sft", Stage(), resume=False) as run:
        monkeypatch.setattr(checkpoint, "remove_all", fail)
        with pytest.raises(KeyboardInterrupt):
            run.finish()
    assert is_done(tmp_path)
