"""The model card against a run folder written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.config import dump_yaml
from trimtab.runs.card import write_card

FACTS: dict[str, Any] = {
    "stage": "dpo",
    "device": "cpu, bfloat16",
    "parents": {"model": {"source": "runs/sft", "weights_sha256": "0123456789abcdef" + "f" * 48}},
    "data": {
        "train": {"source": "a|b.jsonl", "sha256": "a" * 64, "examples": 1700},
        "dev": {"source": "dev.jsonl", "sha256": "b" * 64, "examples": 250},
    },
    "cost": {"wall_s": 61.4, "cpu_s": 119.6, "peak_memory_bytes": 2_340_000_000},
}
SETTINGS = {"beta": 0.1, "optimizer": {"learning_rate": 1e-5, "schedule": "linear"}, "dev": None}
DEV_ROWS: list[dict[str, Any]] = [
    {"step": 0, "dev_loss": 0.69314, "dev_loss_low": 0.69, "dev_loss_high": 0.7, "dev_n": 250},
    {"step": 1, "loss": 0.7},
    {
        "step": 2,
        "dev_loss": 0.61,
        "dev_loss_low": 0.55,
        "dev_loss_high": 0.66,
        "dev_n": 250,
        "dev_loss_change": -0.1,
    },
]


def card(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> str:
    (folder / "run.json").write_text(json.dumps({**FACTS, **changes}))
    (folder / "config.yaml").write_text(dump_yaml(SETTINGS))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_card(folder)
    return (folder / "README.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> list[str]:
    return text.split(f"## {title}\n\n")[1].split("\n\n## ")[0].splitlines()


def test_what_it_was_made_from(tmp_path: Path) -> None:
    text = card(tmp_path, DEV_ROWS)
    assert text.startswith(f"# {tmp_path.name}\n\n")
    assert section(text, "Made from") == [
        "| what | source | SHA-256 |",
        "|---|---|---|",
        "| model | runs/sft | 0123456789abcdef |",
        r"| train | a\|b.jsonl (1700 examples) | aaaaaaaaaaaaaaaa |",
        "| dev | dev.jsonl (250 examples) | bbbbbbbbbbbbbbbb |",
    ]


def test_dev_numbers_before_and_after_with_intervals(tmp_path: Path) -> None:
    assert section(card(tmp_path, DEV_ROWS), "Measured") == [
        "| metric | before | after |",
        "|---|---|---|",
        "| dev_loss | 0.693 [0.690, 0.700] | 0.610 [0.550, 0.660] |",
    ]


def test_training_numbers_where_there_is_no_dev_data(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 2.0, "grad_norm": 1.0}, {"step": 2, "loss": 1.5, "kl": 0.25}]
    assert section(card(tmp_path, rows), "Measured")[2:] == [
        "| loss | 2.000 | 1.500 |",
        "| kl | 0.250 | 0.250 |",
    ]


def test_what_was_never_a_number_is_not_shown(tmp_path: Path) -> None:
    rows = [{"step": 1, "dev_accuracy": None, "dev_loss": None}, {"step": 2, "dev_loss": 1.0}]
    assert section(card(tmp_path, rows), "Measured")[2:] == ["| dev_loss | 1.000 | 1.000 |"]


def test_nothing_measured(tmp_path: Path) -> None:
    assert section(card(tmp_path, []), "Measured") == ["Nothing was measured."]


def test_cost_and_settings(tmp_path: Path) -> None:
    text = card(tmp_path, DEV_ROWS)
    assert section(text, "Cost") == [
        "61 s of wall time, 120 s of processor time, 2.3 GB of memory at most, on cpu, bfloat16."
    ]
    assert section(text, "Settings")[2:] == [
        "| beta | 0.1 |",
        "| optimizer.learning_rate | 1e-05 |",
        "| optimizer.schedule | linear |",
        "| dev | None |",
    ]


@pytest.mark.parametrize(
    ("stage", "story"),
    [
        ("sft", "demonstrations"),
        ("reward", "reward_bias"),
        ("dpo", "direct preference optimization"),
        ("ppo", "PPO"),
    ],
)
def test_every_stage_has_its_story_and_its_limits(tmp_path: Path, stage: str, story: str) -> None:
    text = card(tmp_path, DEV_ROWS, stage=stage)
    assert story in text.split("## Made from")[0]
    assert "Safety has not been evaluated." in "\n".join(section(text, "Limits"))


def test_a_reward_model_says_that_others_see_uncentred_scores(tmp_path: Path) -> None:
    story = card(tmp_path, DEV_ROWS, stage="reward").split("## Made from")[0]
    assert (
        "trimtab takes it off; other loaders (transformers' AutoModelForSequenceClassification, vLLM)"
        in story
    )
    assert "ensemble" not in story


def test_an_ensemble_says_where_its_members_are(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**FACTS, "stage": "reward"}))
    (tmp_path / "config.yaml").write_text(dump_yaml({**SETTINGS, "members": 3}))
    write_card(tmp_path)
    story = (tmp_path / "README.md").read_text(encoding="utf-8").split("## Made from")[0]
    assert "an ensemble of 3: `members/1`" in story
