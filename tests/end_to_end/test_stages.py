"""Every stage end to end on a tiny model: each must move what it is there to move.

The planted preference: responses made of the letter a are chosen, those made of other letters lose.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from endpoint import Say, scripted_endpoint
from trimtab.arena.compare import compare
from trimtab.arena.settings import CompareSettings
from trimtab.config import build
from trimtab.runs.run import is_done, open_run, read_metrics
from trimtab.train import dpo, ppo, reward, sft
from trimtab.train.settings import STAGES, StageSettings

TRAIN = {"sft": sft.train, "reward": reward.train, "dpo": dpo.train, "ppo": ppo.train}
PAIRS = 64


def pairs(count: int, seed: int, tag: str) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        chosen = "a" * draw.randint(3, 8)
        rejected = "".join(draw.choice("bcdxyz") for _ in range(draw.randint(3, 8)))
        question = f"{tag} {index} {draw.choice(['one', 'two', 'six'])}"
        rows.append({"prompt": question, "chosen": chosen, "rejected": rejected})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run_stage(kind: str, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    common = {
        "device": "cpu",
        "precision": "float32",
        "max_prompt": 64,
        "max_response": 12,
        "row_tokens": 512,
    }
    made: StageSettings = build(STAGES[kind], {**common, **settings})
    with open_run(folder, kind, made, resume=False) as run:
        TRAIN[kind](made, run)  # type: ignore[arg-type]
    assert is_done(folder)
    return read_metrics(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module")
def data(folder: Path) -> dict[str, str]:
    return {
        "train": write(folder / "train.jsonl", pairs(PAIRS, 1, "train")),
        "judge": write(folder / "judge.jsonl", pairs(PAIRS, 2, "judge")),
        "held_out": write(folder / "held_out.jsonl", pairs(24, 3, "held")),
    }


@pytest.fixture(scope="module")
def sft_run(folder: Path, data: dict[str, str], model_folder: Path) -> Path:
    # Responses of both kinds, so that the reference is undecided between them.
    rows = pairs(PAIRS, 4, "shown")
    shown = [
        {"prompt": row["prompt"], "completion": row[side]} for row in rows for side in ("chosen", "rejected")
    ]
    out = folder / "sft"
    run_stage(
        "sft",
        out,
        model=str(model_folder),
        data=write(folder / "shown.jsonl", shown),
        dev=data["held_out"],
        epochs=8,
        optimizer={"learning_rate": 5e-3},
    )
    return out


@pytest.fixture(scope="module")
def reward_run(folder: Path, data: dict[str, str], sft_run: Path) -> Path:
    out = folder / "reward"
    run_stage(
        "reward",
        out,
        model=str(sft_run),
        data=data["train"],
        dev=data["held_out"],
        epochs=6,
        optimizer={"learning_rate": 3e-3},
    )
    return out


def test_sft_loss_falls(sft_run: Path) -> None:
    rows = read_metrics(sft_run)
    dev = [row["dev_loss"] for row in rows if "dev_loss" in row]
    training = [row["loss"] for row in rows if "loss" in row]
    assert dev[-1] < 0.5 * dev[0]
    assert training[-1] < 0.5 * training[0]
    assert training[0] == pytest.approx(math.log(300), rel=0.1)  # an untrained model knows nothing


def test_reward_model_learns_the_pairs(reward_run: Path) -> None:
    rows = [row for row in read_metrics(reward_run) if "loss" in row]
    assert sum(row["accuracy"] for row in rows[-4:]) / 4 > 0.95
    config = json.loads((reward_run / "model" / "config.json").read_text())
    assert config["reward_bias"] != 0


def test_dpo_margin_grows_from_an_exact_start(folder: Path, data: dict[str, str], sft_run: Path) -> None:
    rows = run_stage(
        "dpo",
        folder / "dpo",
        model=str(sft_run),
        data=data["train"],
        dev=data["held_out"],
        epochs=4,
        optimizer={"learning_rate": 1e-3},
    )
    training = [row for row in rows if "margin" in row]
    assert training[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert training[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert training[-1]["margin"] > 0.2
    dev = [row["dev_margin"] for row in rows if "dev_margin" in row]
    assert dev[0] == pytest.approx(0, abs=1e-5) and dev[-1] > 0.2


def test_ppo_reward_rises_from_an_exact_start(
    folder: Path, data: dict[str, str], sft_run: Path, reward_run: Path
) -> None:
    rows = run_stage(
        "ppo",
        folder / "ppo",
        model=str(sft_run),
        reward_model=str(reward_run),
        data=data["train"],
        dev=data["held_out"],
        episodes=320,
        rollouts=32,
        minibatch=8,
        epochs=2,
        kl={"weight": 0.02},
        optimizer={"learning_rate": 2e-3, "schedule": "constant"},
        value_optimizer={"learning_rate": 2e-3, "schedule": "constant"},
    )
    updates = [row for row in rows if "score" in row]
    assert len(updates) == 10
    assert updates[0]["first_ratio_error"] < 1e-5
    assert updates[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert all(row["first_ratio_error"] < 1e-4 for row in updates)
    standard_error = updates[0]["score_std"] / math.sqrt(32)
    assert updates[-1]["score"] > updates[0]["score"] + 2 * standard_error
    dev = [row for row in rows if "dev_proxy_reward" in row]
    assert dev[-1]["dev_proxy_reward_low"] > dev[0]["dev_proxy_reward_high"]
    assert dev[-1]["dev_kl"] > 0.1


def test_the_comparison_finds_the_planted_difference(
    folder: Path, data: dict[str, str], sft_run: Path, reward_run: Path
) -> None:
    run_stage(
        "reward",
        folder / "judge",
        model=str(sft_run),
        data=data["judge"],
        epochs=6,
        optimizer={"learning_rate": 3e-3},
    )
    settings = build(
        CompareSettings,
        {
            "policies": {"ppo": str(folder / "ppo"), "dpo": str(folder / "dpo"), "sft": str(sft_run)},
            "reference": str(sft_run),
            "judge": str(folder / "judge"),
            "proxy": str(reward_run),
            "held_out": data["held_out"],
            "costs": {
                "sft": str(sft_run),
                "reward": str(reward_run),
                "judge": str(folder / "judge"),
                "ppo": str(folder / "ppo"),
                "dpo": str(folder / "dpo"),
            },
            "max_prompt": 64,
            "max_response": 12,
            "precision": "float32",
        },
    )
    with open_run(folder / "compare", "compare", settings, resume=False) as run:
        result = compare(settings, run)
    assert result.judge.accuracy.low > 0.6
    against_sft = {match.left: match for match in result.matches if match.right == "sft"}
    assert against_sft["ppo"].win_rate.low > 0.5
    kl = {policy.name: policy.kl for policy in result.policies}
    assert kl["sft"].estimate == 0
    assert kl["ppo"].low > 0 and kl["dpo"].low > 0
    stages = {cost.stage for cost in result.costs}
    assert stages == {"sft", "reward", "judge", "ppo", "reference", "dpo", "measuring"}
    assert all(cost.wall_s > 0 for cost in result.costs)
    page = (folder / "compare" / "report.html").read_text(encoding="utf-8")
    assert result.headline.split(":")[0] in page


def test_a_language_model_judges_the_comparison(
    folder: Path, data: dict[str, str], sft_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scores, so no reward against KL; all the rest of the report stands."""
    monkeypatch.setenv("JUDGE_KEY", "key")
    with scripted_endpoint() as server:
        server.script = lambda asked: Say(asked.verdict("1" if "a" in asked.part("response 1") else "2"))
        (folder / "llm.yaml").write_text(
            f"model: m\nbase_url: {server.url}\napi_key_env: JUDGE_KEY\ncache: {folder / 'cache'}\n"
        )
        settings = build(
            CompareSettings,
            {
                "policies": {"dpo": str(folder / "dpo"), "sft": str(sft_run)},
                "reference": str(sft_run),
                "judge": f"llm:{folder / 'llm.yaml'}",
                "held_out": data["held_out"],
                "max_prompt": 64,
                "max_response": 12,
                "precision": "float32",
            },
        )
        with open_run(folder / "by-llm", "compare", settings, resume=False) as run:
            result = compare(settings, run)
    assert all(policy.judge_reward is None for policy in result.policies)
    assert result.matches[0].difference is None
    assert any("questions" in caveat for caveat in result.caveats)
    page = (folder / "by-llm" / "report.html").read_text(encoding="utf-8")
    assert "Who was preferred" in page and "Reward against distance" not in page


def test_saved_models_load_with_transformers_alone(sft_run: Path, reward_run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sft_run / "model")
    chat = [{"role": "user", "content": "train 3 one"}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    policy = AutoModelForCausalLM.from_pretrained(sft_run / "model")
    assert policy.config.use_cache is True
    written = policy.generate(**ids, max_new_tokens=4, do_sample=False)
    assert written.shape[1] > ids["input_ids"].shape[1]
    scorer = AutoModelForSequenceClassification.from_pretrained(reward_run / "model")
    with torch.no_grad():
        assert scorer(**ids).logits.shape == (1, 1)
