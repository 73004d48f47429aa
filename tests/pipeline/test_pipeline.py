"""A pipeline: names become paths, what is done is skipped, what has changed is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trimtab import formats
from trimtab.config import build, dump_yaml
from trimtab.errors import ConfigError, DataError, Interrupted, RunError
from trimtab.pipeline import run as pipeline_run
from trimtab.pipeline.run import StageFailed, run_pipeline
from trimtab.pipeline.settings import PipelineSettings, Planned, plan
from trimtab.runs.run import is_done, read_facts, read_metrics

STAGES: dict[str, dict[str, Any]] = {
    "sft": {"data": "train", "dev": "held_out", "batch": 8, "optimizer": {"learning_rate": 1e-3}},
    "reward": {"model": "sft", "data": "train", "batch": 8, "max_response": 10},
    "judge": {"stage": "reward", "model": "sft", "data": "judge", "batch": 8, "seed": 9},
    "dpo": {"model": "sft", "data": "train", "dev": "held_out", "batch": 8},
    "ppo": {
        "model": "sft",
        "reward_model": "reward",
        "data": "train",
        "episodes": 8,
        "rollouts": 8,
        "minibatch": 8,
        "epochs": 1,
    },
    "compare": {
        "policies": {"ppo": "ppo", "dpo": "dpo", "sft": "sft", "other": "models/other"},
        "reference": "sft",
        "judge": "judge",
        "proxy": "reward",
        "held_out": "held_out",
        "prompts": 3,
        "costs": {"sft": "sft", "reward": "reward", "judge": "judge", "dpo": "dpo", "ppo": "ppo"},
    },
}


def pairs(count: int, tag: str) -> str:
    draw = random.Random(tag)
    rows = [
        {"prompt": f"{tag} {index}", "chosen": "a" * draw.randint(2, 6), "rejected": "b" * draw.randint(2, 6)}
        for index in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def pipeline(folder: Path, model: object = "some/model", **changes: Any) -> PipelineSettings:
    """Settings of a pipeline over files in `folder`, which are written unless they are there."""
    for name, count in (("pairs", 40), ("held_out", 6)):
        if not (folder / f"{name}.jsonl").exists():
            (folder / f"{name}.jsonl").write_text(pairs(count, name), encoding="utf-8")
    tree = {
        "name": "test",
        "model": str(model),
        "comparisons": str(folder / "pairs.jsonl"),
        "held_out": str(folder / "held_out.jsonl"),
        "shares": {"train": 0.7, "judge": 0.3},
        "device": "cpu",
        "precision": "float32",
        "max_prompt": 64,
        "max_response": 8,
        "stages": STAGES,
    }
    return build(PipelineSettings, {**tree, **changes})


def planned(settings: PipelineSettings, folder: Path) -> dict[str, Planned]:
    return {stage.name: stage for stage in plan(settings, folder, where="test.yaml")}


def test_names_become_paths(tmp_path: Path) -> None:
    stages = planned(pipeline(tmp_path), Path("runs/x"))
    assert list(stages) == list(STAGES)
    assert stages["judge"].kind == "reward" and stages["judge"].folder == Path("runs/x/judge")
    assert stages["sft"].settings["model"] == "some/model"
    assert stages["sft"].settings["data"] == "runs/x/data/train.jsonl"
    assert stages["sft"].settings["dev"] == "runs/x/data/held_out.jsonl"
    assert stages["judge"].settings["data"] == "runs/x/data/judge.jsonl"
    assert stages["ppo"].settings["model"] == "runs/x/sft"
    assert stages["ppo"].settings["reward_model"] == "runs/x/reward"
    compare = stages["compare"].settings
    assert compare["policies"] == {
        "ppo": "runs/x/ppo",
        "dpo": "runs/x/dpo",
        "sft": "runs/x/sft",
        "other": "models/other",
    }
    assert compare["reference"] == "runs/x/sft" and compare["proxy"] == "runs/x/reward"
    assert compare["judge"] == compare["costs"]["judge"] == "runs/x/judge"
    assert compare["held_out"] == "runs/x/data/held_out.jsonl"


def test_common_settings_are_inherited_unless_a_stage_has_its_own(tmp_path: Path) -> None:
    stages = planned(pipeline(tmp_path, seed=5, row_tokens=99), Path("x"))
    for stage in stages.values():
        assert stage.settings["device"] == "cpu" and stage.settings["precision"] == "float32"
        assert stage.settings["max_prompt"] == 64 and stage.settings["row_tokens"] == 99
        assert stage.settings["seed"] == (9 if stage.name == "judge" else 5)
        assert stage.settings["max_response"] == (10 if stage.name == "reward" else 8)


@pytest.mark.parametrize(
    ("stages", "where", "said"),
    [
        (
            {"sfd": {"data": "train"}},
            "test.yaml: stages.sfd",
            "set stage to one of sft, reward, dpo, ppo, compare",
        ),
        ({"sft": {"data": "train", "batchs": 3}}, "test.yaml: stages.sft: batchs", "did you mean batch?"),
        (
            {"sft": {"data": "train", "optimizer": {"lr": 1}}},
            "test.yaml: stages.sft: optimizer.lr",
            "known here: learning_rate",
        ),
        ({"sft": {}}, "test.yaml: stages.sft: data", "add data"),
    ],
)
def test_what_is_unknown_is_named_before_anything_runs(
    stages: dict[str, Any], where: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        plan(pipeline(tmp_path, stages=stages), tmp_path, where="test.yaml")
    assert raised.value.where == where and said in raised.value.fix


def test_held_out_cannot_be_a_file_and_a_share(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a file and a share at once"):
        pipeline(tmp_path, shares={"train": 0.8, "held_out": 0.2})


class Stages:
    """Stands in for the processes of stages: the exit code of each, and what was started."""

    def __init__(self, **codes: int) -> None:
        self.codes, self.started = codes, list[str]()

    def __call__(self, command: list[str], **_: Any) -> subprocess.Popen[bytes]:
        folder = Path(command[command.index("--out") + 1])
        self.started.append(folder.name)
        code = self.codes.get(folder.name, 0)
        if not code:
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_bytes(Path(command[4]).read_bytes())
            (folder / "run.json").write_text('{"cost": {"wall_s": 1, "cpu_s": 1, "peak_memory_bytes": 1}}')
            (folder / "DONE").touch()
        program = f"import os; os.kill(os.getpid(), {-code})" if code < 0 else f"raise SystemExit({code})"
        return _popen([sys.executable, "-S", "-c", program])


_popen = subprocess.Popen


def go(
    settings: PipelineSettings, folder: Path, monkeypatch: pytest.MonkeyPatch, **codes: int
) -> tuple[Stages, BaseException | None]:
    stages = Stages(**codes)
    monkeypatch.setattr(pipeline_run.subprocess, "Popen", stages)
    try:
        run_pipeline(settings, plan(settings, folder, where="test.yaml"), folder)
    except (StageFailed, Interrupted, RunError, DataError) as error:
        return stages, error
    return stages, None


def test_stages_run_in_order_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = pipeline(tmp_path)
    assert go(settings, tmp_path / "out", monkeypatch)[0].started == list(STAGES)
    assert "[6/6] compare" in capsys.readouterr().err
    stages, error = go(settings, tmp_path / "out", monkeypatch)
    assert stages.started == [] and error is None
    assert capsys.readouterr().err.count("done before") == 6


def test_a_failing_stage_gives_its_exit_code_and_ends_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pipeline(tmp_path)
    stages, error = go(settings, tmp_path / "out", monkeypatch, judge=3)
    assert stages.started == ["sft", "reward", "judge"]
    assert isinstance(error, StageFailed) and (error.name, error.exit_code) == ("judge", 3)
    assert go(settings, tmp_path / "out", monkeypatch)[0].started == ["judge", "dpo", "ppo", "compare"]


@pytest.mark.parametrize("code", [130, -2, -15])
def test_an_interrupted_stage_interrupts_the_pipeline(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, error = go(pipeline(tmp_path), tmp_path / "out", monkeypatch, reward=code)
    assert stages.started == ["sft", "reward"]
    assert isinstance(error, Interrupted) and "run the same command again" in error.fix


def test_a_killed_stage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could say nothing itself."""
    _, error = go(pipeline(tmp_path), tmp_path / "out", monkeypatch, reward=-9)
    assert isinstance(error, RunError)
    assert error.found == "SIGKILL" and "stages.reward.row_tokens" in error.fix
    assert error.where == str(tmp_path / "out" / "reward")


def test_other_settings_of_a_finished_stage_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(pipeline(tmp_path), tmp_path / "out", monkeypatch, dpo=1)
    changed = {**STAGES, "reward": {**STAGES["reward"], "batch": 4}}
    stages, error = go(pipeline(tmp_path, stages=changed), tmp_path / "out", monkeypatch)
    assert isinstance(error, RunError) and error.found == "batch: 8 -> 4" and stages.started == []
    assert error.where == str(tmp_path / "out" / "reward")
    unfinished = {**STAGES, "dpo": {**STAGES["dpo"], "batch": 4}}
    stages, error = go(pipeline(tmp_path, stages=unfinished), tmp_path / "out", monkeypatch)
    assert error is None and stages.started == ["dpo", "ppo", "compare"]


def test_splits_share_no_prompt_and_hold_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(pipeline(tmp_path), tmp_path / "out", monkeypatch)
    prompts = {}
    for name in ("train", "judge", "held_out"):
        rows = formats.usable(formats.read_comparisons(tmp_path / "out" / "data" / f"{name}.jsonl"))
        prompts[name] = {formats.prompt_key(row.record.prompt) for row in rows}
    assert len(prompts["train"]) + len(prompts["judge"]) == len(prompts["train"] | prompts["judge"]) == 40
    assert len(prompts["train"]) > len(prompts["judge"]) > 0 and len(prompts["held_out"]) == 6
    account = json.loads((tmp_path / "out" / "data" / "splits.json").read_text())
    assert account["rows"] == {name: len(found) for name, found in prompts.items()}


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"seed": 1}, "seed: 0 -> 1"), ({"shares": {"train": 0.6, "judge": 0.4}}, "shares.judge")],
)
def test_another_split_is_refused(
    changes: dict[str, Any], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(pipeline(tmp_path), tmp_path / "out", monkeypatch, sft=1)
    stages, error = go(pipeline(tmp_path, **changes), tmp_path / "out", monkeypatch)
    assert isinstance(error, RunError) and found in error.found and stages.started == []


def test_data_that_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(pipeline(tmp_path), tmp_path / "out", monkeypatch, sft=1)
    train = (tmp_path / "out" / "data" / "train.jsonl").read_bytes()
    (tmp_path / "pairs.jsonl").write_text(pairs(40, "pairs").replace("aa", "ac"), encoding="utf-8")
    stages, error = go(pipeline(tmp_path), tmp_path / "out", monkeypatch)
    assert isinstance(error, RunError) and "data or their split have changed" in error.what
    assert stages.started == [] and (tmp_path / "out" / "data" / "train.jsonl").read_bytes() == train


def test_held_out_prompts_among_the_comparisons_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking = pairs(5, "held_out") + pairs(3, "pairs")
    (tmp_path / "held_out.jsonl").write_text(leaking, encoding="utf-8")
    stages, error = go(pipeline(tmp_path), tmp_path / "out", monkeypatch)
    assert isinstance(error, DataError) and "the same prompt" in error.what and stages.started == []
    assert not (tmp_path / "out" / "data").exists()


def test_an_empty_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.jsonl").write_text(pairs(1, "pairs"), encoding="utf-8")
    stages, error = go(pipeline(tmp_path), tmp_path / "out", monkeypatch)
    assert isinstance(error, DataError) and error.what == "a split got no rows" and stages.started == []
    assert not (tmp_path / "out" / "data" / "splits.json").exists()


def test_six_stages_in_processes_of_their_own(tmp_path: Path, model_folder: Path) -> None:
    stages = json.loads(json.dumps(STAGES))
    del stages["compare"]["policies"]["other"]
    settings = pipeline(tmp_path, model_folder, stages=stages)
    config = tmp_path / "test.yaml"
    config.write_text(dump_yaml(settings.model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, "-m", "trimtab", "run", str(config), "--out", str(tmp_path / "out")]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith(f"{tmp_path / 'out' / 'compare' / 'report.html'}\n")
    assert "where the time went" in first.stderr and "done before" not in first.stderr
    for name in STAGES:
        folder = tmp_path / "out" / name
        assert is_done(folder)
        assert (folder / "model").exists() == (name != "compare")
    assert read_metrics(tmp_path / "out" / "sft")[0]["dev_n"] == 6
    assert read_facts(tmp_path / "out" / "ppo")["parents"]["model"]["source"] == str(tmp_path / "out" / "sft")
    report = json.loads((tmp_path / "out" / "compare" / "report.json").read_text())
    assert [policy["name"] for policy in report["policies"]] == ["ppo", "dpo", "sft"]

    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and again.stderr.count("done before") == 6
    assert again.stdout.startswith(report["headline"]) and first.stdout.endswith(again.stdout)
