"""docs/results/collect.py keeps what a report holds, whatever the report has or lacks."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from trimtab.arena.findings import Findings, read_findings, to_json

SCRIPT = Path(__file__).parents[2] / "docs" / "results" / "collect.py"


@pytest.fixture(scope="module")
def collect() -> ModuleType:
    spec = importlib.util.spec_from_file_location("collect", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pipeline_run(folder: Path, findings: Findings) -> Path:
    for stage in ("sft", "compare"):
        (folder / stage / "model").mkdir(parents=True)
        (folder / stage / "run.json").write_text(json.dumps({"stage": stage}))
    (folder / "sft" / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "sft" / "model" / "weights").write_text("large")
    (folder / "compare" / "report.json").write_text(to_json(findings), encoding="utf-8")
    return folder


def test_what_is_kept(collect: ModuleType, findings: Findings, tmp_path: Path) -> None:
    run, kept = pipeline_run(tmp_path / "run", findings), tmp_path / "kept"
    collect.collect(run, kept)
    names = {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()}
    assert names == {"sft/run.json", "sft/metrics.jsonl", "compare/run.json", "report.json", "picture.png"}
    assert read_findings(kept / "report.json") == replace(findings, samples=(), curves=())
    assert (kept / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_is_charged_as_the_tables_are(
    collect: ModuleType, findings: Findings, tmp_path: Path
) -> None:
    figure, axes = collect.plt.subplots()
    costs = [cost for cost in findings.costs if cost.stage != "reward"]
    methods = [sum for sum in collect.method_costs(costs) if sum.method != "sft"]
    collect._bars(axes, methods)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["PPO\nwithout reward", "DPO"]
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(
        sum(method.wall_s for method in methods) / 60
    )
    collect.plt.close(figure)


def test_a_judge_that_gives_no_scores(collect: ModuleType, findings: Findings, tmp_path: Path) -> None:
    policies = tuple(replace(policy, judge_reward=None, proxy_reward=None) for policy in findings.policies)
    collect.draw(replace(findings, policies=policies, costs=()), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
