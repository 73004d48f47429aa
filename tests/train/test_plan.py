"""A plan counts what can be counted, measures the rest, and refuses what will not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from trimtab.config import build, override
from trimtab.demo import assets
from trimtab.errors import DataError, ResourceError, TrimtabError
from trimtab.model import bundles
from trimtab.runs.run import open_run, read_facts
from trimtab.train import plan, rehearsal
from trimtab.train.rehearsal import Counts, Measured, Rehearsal, Sizes, line, probe_groups, rehearse
from trimtab.train.settings import STAGES, EpochSettings

Rows = list[dict[str, Any]]
MIB = 1 << 20
ROOT = Path(__file__).parents[2]

MADE = Rehearsal(
    Counts(
        examples=100,
        tokens=5000,
        dev_examples=10,
        dev_tokens=600,
        steps=20,
        rows=30,
        all_rows=40,
        largest_row=800,
        row_tokens=1000,
        recomputed=0,
        blocks=4,
    ),
    Sizes(
        weights=40 * MIB,
        moments=80 * MIB,
        gradients=40 * MIB,
        trained=40 * MIB,
        libraries=300 * MIB,
        later=10 * MIB,
    ),
    Measured(
        peak=600 * MIB,
        peak_row=400,
        a_token=0.1 * MIB,
        begin_s=5.0,
        step_s=0.5,
        token_s=0.01,
        forward_s=0.004,
        sample_s=2.0,
        checkpoint_s=0.25,
    ),
    ["a prompt\n    -> an answer"],
)


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_what_is_counted_is_what_the_stage_does(
    kind: str, settings_of: Callable[..., Any], train: Callable[..., Rows], tmp_path: Path
) -> None:
    settings = settings_of(kind, row_tokens=100, **({"reference": {"cache": 0}} if kind == "dpo" else {}))
    found = rehearse(kind, settings, tmp_path)
    rows = [row for row in train(kind, settings, tmp_path / "real") if "tokens" in row]
    assert found.counts.steps == len(rows) == 6
    assert found.counts.tokens * settings.epochs == sum(row["tokens"] for row in rows)
    data = read_facts(tmp_path / "real")["data"]
    assert (found.counts.examples, found.counts.dev_examples) == (
        data["train"]["examples"],
        data["dev"]["examples"],
    )
    assert 6 <= found.counts.rows <= 24 and found.counts.largest_row <= 100
    written = (tmp_path / "real" / "model" / "model.safetensors").stat().st_size
    assert found.sizes.weights == pytest.approx(written, rel=0.05)
    assert found.sizes.moments == 2 * found.sizes.gradients
    assert found.measured.token_s > 0 and found.measured.forward_s > 0
    assert found.first_batch[0].count("    -> ") == (1 if kind == "sft" else 2)
    assert "train " in found.first_batch[0]


def test_six_groups_of_three_sizes(settings_of: Callable[..., Any], tmp_path: Path) -> None:
    settings = settings_of("dpo", row_tokens=100, batch=3)
    with open_run(tmp_path / "run", "dpo", settings, resume=False) as run:
        _, examples, _ = rehearsal.STORIES["dpo"].begin(settings, run)
    groups = probe_groups(examples, settings)
    assert len(groups) == rehearsal.GROUPS and len({len(group) for group in groups}) == 1
    tokens = [sum(example.tokens for example in group) for group in groups]
    assert tokens[0] <= tokens[1] <= tokens[2] <= settings.row_tokens
    assert tokens[3] <= tokens[5] <= tokens[2]
    longest = max(example.tokens for example in examples)
    assert any(example.tokens == longest for example in groups[2])


@pytest.mark.parametrize(
    ("tokens", "seconds", "expected"),
    [
        ([10, 20, 40], [0.7, 0.9, 1.3], (0.5, 0.02)),
        ([10, 20, 30], [3.0, 2.0, 1.0], (0.0, 0.1)),  # noise: more tokens are not quicker
        ([10, 10], [1.0, 3.0], (0.0, 0.2)),
    ],
)
def test_seconds_as_a_line(tokens: list[int], seconds: list[float], expected: tuple[float, float]) -> None:
    assert line(tokens, seconds) == pytest.approx(expected)


def test_memory_is_the_sum_of_its_terms(settings_of: Callable[..., Any]) -> None:
    made = plan.plan_from("sft", settings_of("sft"), MADE)
    assert made.memory == {
        "libraries": 300 * MIB,
        "weights": 40 * MIB,
        "gradients": 40 * MIB,
        "moments": 80 * MIB,
        "activations": 80 * MIB,  # 800 tokens
        "rest": 100 * MIB,  # of the 600 that were seen, 40 were activations of 400 tokens
        "later": 10 * MIB,
    }
    assert made.peak == 650 * MIB


def test_time_is_the_sum_of_its_parts(settings_of: Callable[..., Any]) -> None:
    sft = plan.seconds(settings_of("sft", epochs=2, checkpoint_every=8), MADE)
    assert sft == pytest.approx(
        {
            "begin": 5.0,
            "reference": 0.0,
            "evaluation": 2 * 600 * 0.004,
            "training": 20 * 0.5 + 2 * 5000 * 0.01,
            "checkpoints": 3 * 0.25,
            "samples": 2.0,
        }
    )
    dpo = plan.seconds(settings_of("dpo"), MADE)
    assert dpo["reference"] == pytest.approx(5000 * 0.004)
    assert dpo["evaluation"] == pytest.approx(3 * 600 * 0.004)
    three = plan.seconds(settings_of("reward", members=3), MADE)
    one = plan.seconds(settings_of("reward"), MADE)
    assert sum(three.values()) == pytest.approx(3 * sum(one.values()))


def test_disk_holds_two_checkpoints_where_there_are_several(settings_of: Callable[..., Any]) -> None:
    assert plan.disk(settings_of("sft", checkpoint_every=8), MADE) == 240 * MIB
    assert plan.disk(settings_of("sft", checkpoint_every=20), MADE) == 160 * MIB
    assert plan.disk(settings_of("dpo", checkpoint_every=20), MADE) == 160 * MIB + 4 * 5600
    assert plan.disk(settings_of("reward", checkpoint_every=20, members=3), MADE) == 240 * MIB


def test_what_does_not_fit_is_refused_with_what_would(settings_of: Callable[..., Any]) -> None:
    settings = settings_of("sft", max_prompt=64, max_response=12)
    made = plan.plan_from("sft", settings, MADE)
    plan.require_fit(made, settings, 650 * MIB)
    with pytest.raises(ResourceError, match="more memory than it may have") as raised:
        plan.require_fit(made, settings, 620 * MIB)
    assert raised.value.where == "this machine" and raised.value.found == "650 MiB expected, 620 MiB there"
    assert raised.value.fix.startswith("set row_tokens=500, or set memory_limit=620MiB")
    limited = settings_of("sft", max_prompt=64, max_response=12, memory_limit="560MiB")
    with pytest.raises(ResourceError) as raised:
        plan.require_fit(made, limited, 10_000 * MIB)
    assert raised.value.where == "memory_limit"
    assert raised.value.fix == "train adapters (lora.rank=8)"
    assert plan.ways(made, settings, 100 * MIB) == ["use a smaller model, or shorter prompts and responses"]


def test_what_the_stage_would_refuse_the_plan_refuses(
    settings_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(DataError):
        rehearse("sft", settings_of("sft", data=str(empty)), tmp_path)

    def killed(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -9, "", "")

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(ResourceError, match="was killed"):
        plan.make_plan("sft", settings_of("sft"))


def test_errors_cross_from_the_process(settings_of: Callable[..., Any]) -> None:
    settings = settings_of("sft", data="nowhere.jsonl")
    with pytest.raises(TrimtabError, match=r"nowhere\.jsonl") as raised:
        plan.make_plan("sft", settings)
    assert raised.value.fix


def run_for_real(kind: str, arguments: dict[str, str], folder: Path) -> dict[str, Any]:
    """The stage in a process of its own; gives its cost."""
    command = [sys.executable, "-m", "trimtab", kind, "--out", str(folder)]
    for key, value in arguments.items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, check=True, capture_output=True)
    cost: dict[str, Any] = read_facts(folder)["cost"]
    return cost


def agrees(kind: str, arguments: dict[str, str], tmp_path: Path) -> None:
    settings = build(STAGES[kind], override({}, [f"{key}={value}" for key, value in arguments.items()]))
    assert isinstance(settings, EpochSettings)
    made = plan.make_plan(kind, settings)
    cost = run_for_real(kind, arguments, tmp_path / "run")
    assert made.peak == pytest.approx(cost["host_memory_bytes"], rel=0.15)
    assert 1 / 1.5 < made.total_s / cost["wall_s"] < 1.5


@pytest.mark.slow
def test_the_carried_model_takes_what_was_planned(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    prompts = assets.prompts("train")[:600]
    words = [word for prompt in prompts for word in prompt.split()]
    write_pairs(pairs, prompts, words)
    agrees(
        "dpo",
        {
            "model": assets.MODEL,
            "data": str(pairs),
            "max_prompt": "60",
            "max_response": "60",
            "reference.cache": "0",
        },
        tmp_path,
    )


def write_pairs(path: Path, prompts: list[str], words: list[str]) -> None:
    """Each prompt with two responses of different lengths."""
    rows = [
        {
            "prompt": f"{prompt} {index}",
            "chosen": " " + " ".join(words[index : index + 5 + index % 26]),
            "rejected": " " + " ".join(words[index + 7 : index + 12 + index % 17]),
        }
        for index, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.slow
def test_smollm2_takes_what_was_planned(tmp_path: Path) -> None:
    name = "smollm2-135m-instruct"
    if not bundles.location(name).is_dir():
        bundles.get(name)
    pairs = ROOT / "examples" / "hh-harmless" / "held-out.jsonl.gz"
    agrees("sft", {"model": name, "data": str(pairs), "samples": "0", "row_tokens": "512"}, tmp_path)


@pytest.mark.slow
def test_a_limit_is_kept(tmp_path: Path) -> None:
    """With a tenth less than the stage takes by itself; half of that is refused."""
    pairs = tmp_path / "pairs.jsonl"
    prompts = assets.prompts("train")[:300]
    write_pairs(pairs, prompts, [word for prompt in prompts for word in prompt.split()])
    arguments = {"model": assets.MODEL, "data": str(pairs), "max_prompt": "60", "max_response": "60"}
    free = run_for_real("sft", arguments, tmp_path / "free")["host_memory_bytes"]
    limit = int(0.9 * free)
    kept = run_for_real("sft", {**arguments, "memory_limit": str(limit)}, tmp_path / "kept")
    assert kept["host_memory_bytes"] <= limit
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_for_real("sft", {**arguments, "memory_limit": str(limit // 2)}, tmp_path / "refused")
    assert b"does not fit below its memory limit" in raised.value.stderr


def test_a_plan_survives_json(settings_of: Callable[..., Any]) -> None:
    assert plan.read_rehearsal(asdict(MADE)) == MADE
    more = replace(MADE, counts=replace(MADE.counts, largest_row=1600))
    settings = settings_of("sft")
    assert plan.plan_from("sft", settings, more).peak == plan.plan_from("sft", settings, MADE).peak + 80 * MIB
