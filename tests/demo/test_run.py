"""The demo's story around its stages: what is there is kept, and other settings are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.config import read_yaml
from trimtab.demo import run as demo
from trimtab.demo.assets import PARTS, prompts
from trimtab.demo.run import DemoSettings, make_pairs, run_demo
from trimtab.errors import ConfigError, Interrupted, RunError
from trimtab.formats import read_comparisons
from trimtab.pipeline.settings import PipelineSettings, Planned

FEW = {"train": ["The film"], "dev": ["A story"], "test": ["It is"]}


@pytest.fixture
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_asked", FEW.__getitem__)


@pytest.fixture
def no_stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PipelineSettings, list[Planned]]]:
    """What would have been run."""
    seen: list[tuple[PipelineSettings, list[Planned]]] = []
    monkeypatch.setattr(
        demo, "run_pipeline", lambda pipeline, stages, folder: seen.append((pipeline, stages))
    )
    return seen


def test_pairs_are_made_once(few_prompts: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs(DemoSettings(pairs=3), tmp_path, max_new=6)
    texts = {part: (tmp_path / "pairs" / f"{part}.jsonl").read_text() for part in PARTS}
    assert [len(text.splitlines()) for text in texts.values()] == [3, 1, 1]
    for part in PARTS:
        rows = read_comparisons(str(tmp_path / "pairs" / f"{part}.jsonl")).rows
        assert all(row.record.verdict and row.record.verdict.judge == "the gold scorer" for row in rows)
        assert {row.record.prompt for row in rows} == set(FEW[part])
    (tmp_path / "pairs" / "dev.jsonl").unlink()  # as if interrupted before it
    make_pairs(DemoSettings(pairs=3), tmp_path, max_new=6)
    assert {part: (tmp_path / "pairs" / f"{part}.jsonl").read_text() for part in PARTS} == texts
    capsys.readouterr()
    make_pairs(DemoSettings(pairs=3), tmp_path, max_new=6)
    assert capsys.readouterr().err == "pairs: done before\n"
    with pytest.raises(RunError, match="demo with other settings"):
        make_pairs(DemoSettings(pairs=3, noise=1.0), tmp_path, max_new=6)


def test_seeds_draw_other_pairs(few_prompts: None, tmp_path: Path) -> None:
    for seed in (0, 1):
        make_pairs(DemoSettings(seed=seed, pairs=2), tmp_path / str(seed), max_new=6)
    texts = [
        {
            text
            for part in PARTS
            for line in (tmp_path / str(seed) / "pairs" / f"{part}.jsonl").read_text().splitlines()
            for text in (json.loads(line)["a"], json.loads(line)["b"])
        }
        for seed in (0, 1)
    ]
    assert len(texts[0]) == 8 and not texts[0] & texts[1]


def test_what_is_chosen_reaches_the_stages(few_prompts: None, no_stages: list[Any], tmp_path: Path) -> None:
    report = run_demo(
        DemoSettings(seed=5, device="cpu"), tmp_path, ["max_response=6", "stages.dpo.loss.beta=0.7"]
    )
    assert report == tmp_path / "compare" / "report.html"
    pipeline, stages = no_stages[0]
    assert (pipeline.seed, pipeline.device, pipeline.max_response) == (5, "cpu", 6)
    by_name = {stage.name: stage.settings for stage in stages}
    assert list(by_name) == list(read_yaml(demo.SETTINGS)["stages"])
    assert by_name["dpo"]["loss"]["beta"] == 0.7
    assert by_name["compare"]["policies"]["sft"] == demo.MODEL
    assert by_name["reward"]["data"] == str(tmp_path / "data" / "train.jsonl")
    assert by_name["reward"]["dev"] == str(tmp_path / "pairs" / "dev.jsonl")
    assert pipeline.held_out == str(tmp_path / "pairs" / "test.jsonl")


def test_a_mistake_is_told_before_anything_is_made(few_prompts: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.dpo: bach"):
        run_demo(DemoSettings(), tmp_path / "new", ["stages.dpo.bach=3"])
    assert not (tmp_path / "new").exists()


def test_ctrl_c_among_the_pairs_keeps_those_that_are_done(
    few_prompts: None, no_stages: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.demo import pairs

    usual = pairs.judge_pairs

    def interrupted(drawn: Any, *rest: Any, **options: Any) -> Any:
        if drawn[0].prompt == FEW["dev"][0]:
            raise KeyboardInterrupt
        return usual(drawn, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pairs, "judge_pairs", interrupted)
        with pytest.raises(Interrupted, match="run the same command again"):
            run_demo(DemoSettings(), tmp_path, ["max_response=6"])
    assert (tmp_path / "pairs" / "train.jsonl").exists() and not no_stages
    run_demo(DemoSettings(), tmp_path, ["max_response=6"])
    assert len(no_stages) == 1 and (tmp_path / "pairs" / "test.jsonl").exists()


def test_no_prompt_is_in_two_parts() -> None:
    from trimtab.demo.sentences import key

    keys = {part: {key(prompt) for prompt in prompts(part)} for part in PARTS}
    assert len(keys["train"]) > 1_000 and len(keys["dev"]) > 500 and len(keys["test"]) > 500
    for part in PARTS:
        assert len(keys[part]) == len(prompts(part))
        assert all(part == other or not keys[part] & keys[other] for other in PARTS)


def test_the_prompts_that_settings_were_chosen_on_are_not_reported_on() -> None:
    asked = {part: demo._asked(part) for part in PARTS}
    assert asked["train"] == prompts("train")
    assert asked["test"] == prompts("test")[420:] and len(asked["test"]) > 320
    assert 200 < len(asked["dev"]) < len(prompts("dev"))
