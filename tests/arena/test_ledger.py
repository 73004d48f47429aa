"""Costs read back from run folders: nothing counted twice, nothing made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.arena.ledger import require_costs_of_the_compared, stage_costs
from trimtab.arena.settings import CompareSettings
from trimtab.errors import ConfigError, RunError

Rows = list[dict[str, Any]]


def run_folder(
    folder: Path,
    *,
    parts: dict[str, tuple[float, float]],
    rows: Rows,
    settings: str = "",
    done: bool = True,
    stage: str = "",
    **facts: Any,
) -> str:
    """A run that took 100 s, 150 s of processor time, at most 7 bytes of memory; `parts` likewise.

    Of the stage that the folder is named after, unless `stage` says otherwise.
    """
    folder.mkdir()
    times = {name: {"wall_s": wall, "cpu_s": cpu} for name, (wall, cpu) in parts.items()}
    cost = {"wall_s": 100.0, "cpu_s": 150.0, "peak_memory_bytes": 7, "parts": times}
    said = {"stage": stage or folder.name, "cost": cost, "device": "cpu, float32", **facts}
    (folder / "run.json").write_text(json.dumps(said))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(settings)
    if done:
        (folder / "DONE").touch()
    return str(folder)


def test_what_is_not_training_stands_apart(tmp_path: Path) -> None:
    rows = [{"step": 0, "dev_loss": 1.0}, {"step": 1, "tokens": 30}, {"step": 2, "tokens": 12}]
    parts = {
        "reference": (20.0, 33.0),
        "training": (60.0, 90.0),
        "evaluation": (7.0, 8.0),
        "checkpoints": (3.0, 1.0),
    }
    folder = run_folder(tmp_path / "mine", parts=parts, rows=rows, stage="dpo")
    reference, dpo, measuring = stage_costs({"dpo": folder})
    assert (reference.stage, reference.wall_s, reference.cpu_s) == ("reference", 20.0, 33.0)
    assert (reference.tokens_trained, reference.tokens_generated) == (0, 0)
    assert (reference.peak_memory_bytes, reference.host_memory_bytes) == (None, None)
    assert (measuring.peak_memory_bytes, measuring.host_memory_bytes) == (None, None)
    assert measuring.tokens_generated is None  # answers to dev prompts, which no log counts
    assert (measuring.stage, measuring.wall_s, measuring.cpu_s) == ("measuring", 10.0, 9.0)
    assert (dpo.stage, dpo.wall_s, dpo.cpu_s, dpo.tokens_trained) == ("dpo", 70.0, 108.0, 42)
    assert dpo.run == "mine" and dpo.device == "cpu, float32" and dpo.peak_memory_bytes == 7


def test_ppo_trains_two_models_every_epoch_and_samples_once(tmp_path: Path) -> None:
    rows: Rows = [
        {"step": 0, "dev_length": 9},
        {"step": 1, "tokens": 100, "length": 2.5},
        {"step": 2, "tokens": 50, "length": 4},
    ]
    settings = "epochs: 3\nrollouts: 8\n"
    folder = run_folder(tmp_path / "ppo", parts={"sampling": (50.0, 60.0)}, rows=rows, settings=settings)
    ppo, _ = stage_costs({"ppo": folder})
    assert (ppo.tokens_trained, ppo.tokens_generated) == (2 * 3 * 150, 8 * 2.5 + 8 * 4)
    assert (ppo.wall_s, ppo.cpu_s) == (100.0, 150.0)


def test_stages_are_in_the_order_given(tmp_path: Path) -> None:
    runs = {
        name: run_folder(tmp_path / name, parts={}, rows=[], stage=stage)
        for name, stage in (("judge", "reward"), ("sft", "sft"))
    }
    found = [cost.stage for cost in stage_costs(runs) if cost.stage != "measuring"]
    assert found == ["judge", "sft"]


def test_an_unfinished_run_has_no_cost_yet(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "sft", parts={}, rows=[], done=False)
    with pytest.raises(RunError, match="the run is not finished") as raised:
        stage_costs({"sft": folder})
    assert raised.value.found == "costs.sft" and "--resume" in raised.value.fix
    with pytest.raises(RunError, match="not a run folder"):
        stage_costs({"sft": str(tmp_path / "none")})


@pytest.mark.parametrize("name", ["sfd", "reference", "measuring"])
def test_an_unknown_stage_is_named(tmp_path: Path, name: str) -> None:
    folder = run_folder(tmp_path / name, parts={}, rows=[])
    with pytest.raises(ConfigError, match="no such stage") as raised:
        stage_costs({name: folder})
    assert raised.value.where == f"costs.{name}"
    assert raised.value.fix == "one of sft, reward, judge, dpo, ppo"


@pytest.mark.parametrize(
    ("named", "stage", "needed"),
    [("dpo", "ppo", "dpo"), ("ppo", "dpo", "ppo"), ("judge", "judge", "reward"), ("sft", "reward", "sft")],
)
def test_a_run_of_another_stage_is_refused(tmp_path: Path, named: str, stage: str, needed: str) -> None:
    folder = run_folder(tmp_path / "mine", parts={}, rows=[{"tokens": 3, "length": 2}], stage=stage)
    with pytest.raises(ConfigError, match=f"a run of the stage {needed}") as raised:
        stage_costs({named: folder})
    assert raised.value.where == f"costs.{named}"
    assert raised.value.found == f"{folder}, a run of the stage {stage}"


@pytest.mark.parametrize(("threads", "said"), [(3, "3 threads"), (1, "1 thread")])
def test_the_machine_is_told(tmp_path: Path, threads: int, said: str) -> None:
    facts = {"hardware": {"processor": "Test CPU"}, "threads": threads}
    folder = run_folder(tmp_path / "sft", parts={}, rows=[], **facts)
    assert {cost.device for cost in stage_costs({"sft": folder})} == {f"cpu, float32, Test CPU, {said}"}


def test_the_hosts_memory_is_not_taken_for_a_devices(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "sft", parts={}, rows=[], device="cuda, bfloat16")
    own = stage_costs({"sft": folder})[0]
    assert (own.peak_memory_bytes, own.host_memory_bytes) == (None, 7)
    facts = json.loads((tmp_path / "sft" / "run.json").read_text())
    facts["cost"]["host_memory_bytes"] = 9
    (tmp_path / "sft" / "run.json").write_text(json.dumps(facts))
    own = stage_costs({"sft": folder})[0]
    assert (own.peak_memory_bytes, own.host_memory_bytes) == (7, 9)


class TestFamilies:
    """Runs that say what they were made from."""

    @pytest.fixture
    def runs(self, tmp_path: Path) -> dict[str, str]:
        """As pipelines make them."""
        found: dict[str, str] = {}

        def made(name: str, stage: str, **parents: str) -> None:
            said = {role: {"source": source, "finished": "then"} for role, source in parents.items()}
            if stage == "sft":
                said = {"model": {"source": "some/hub-model", "finished": ""}}
            found[name] = run_folder(
                tmp_path / name, stage=stage, parents=said, settings="epochs: 1\nrollouts: 1\n", rows=[],
                parts={"reference": (20.0, 30.0)} if stage == "dpo" else {},
            )  # fmt: skip

        made("sft", "sft")
        made("reward", "reward", model=found["sft"])
        made("judge", "reward", model=found["sft"])
        made("dpo", "dpo", model=f"{found['sft']}/")
        made("ppo", "ppo", model=found["sft"], reward_model=found["reward"])
        made("other", "sft")
        return found

    def test_a_run_needs_what_it_was_made_from(self, runs: dict[str, str]) -> None:
        del runs["other"]
        needs = {cost.stage: cost.needs for cost in stage_costs(runs) if cost.stage != "measuring"}
        assert needs == {
            "sft": (),
            "reward": ("sft",),
            "judge": ("sft",),
            "reference": (),
            "dpo": ("sft", "reference"),
            "ppo": ("sft", "reward"),
        }

    def test_another_run_of_the_stage_does_not_pay_for_it(self, runs: dict[str, str]) -> None:
        ppo = stage_costs({"ppo": runs["ppo"], "sft": runs["other"], "reward": runs["reward"]})[0]
        assert ppo.needs == ("sft sft", "reward")

    def test_a_parent_that_is_gone_is_still_needed(self, runs: dict[str, str]) -> None:
        (Path(runs["sft"]) / "DONE").unlink()
        assert stage_costs({"ppo": runs["ppo"]})[0].needs == ("the run sft", "reward")

    def test_a_run_that_does_not_say_is_charged_by_the_rule(self, tmp_path: Path) -> None:
        assert stage_costs({"sft": run_folder(tmp_path / "sft", parts={}, rows=[])})[0].needs is None

    def settings(self, runs: dict[str, str], **changed: str) -> CompareSettings:
        named = {stage: runs[stage] for stage in ("sft", "reward", "judge", "dpo", "ppo")}
        return CompareSettings(
            policies={"ppo": runs["ppo"], "dpo": runs["dpo"]},
            reference=runs["sft"],
            judge=runs["judge"],
            held_out="held_out.jsonl",
            costs=named | changed,
        )

    def test_the_costs_of_those_compared_pass(self, runs: dict[str, str]) -> None:
        require_costs_of_the_compared(self.settings(runs))
        require_costs_of_the_compared(self.settings(runs, dpo=runs["dpo"] + "/"))

    @pytest.mark.parametrize(
        ("stage", "fix"),
        [("ppo", "ppo"), ("dpo", "dpo"), ("judge", "judge"), ("sft", "sft"), ("reward", "reward")],
    )
    def test_the_cost_of_a_stranger_is_refused(self, runs: dict[str, str], stage: str, fix: str) -> None:
        with pytest.raises(ConfigError, match="this run") as raised:
            require_costs_of_the_compared(self.settings(runs, **{stage: runs["other"]}))
        assert (raised.value.where, raised.value.found) == (f"costs.{stage}", runs["other"])
        assert raised.value.fix.replace("/,", ",") == f"name {runs[fix]}, or leave it out"

    def test_what_policies_do_not_say_is_not_asked_of_them(self, runs: dict[str, str]) -> None:
        for policy in ("ppo", "dpo"):
            path = Path(runs[policy]) / "run.json"
            facts = json.loads(path.read_text())
            path.write_text(json.dumps({name: fact for name, fact in facts.items() if name != "parents"}))
        require_costs_of_the_compared(self.settings(runs, sft=runs["other"]))
