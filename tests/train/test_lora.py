"""Stages with LoRA: what learns, what is kept, what others load, and how adapters are merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from typer.testing import CliRunner

from tiny import tiny_llama, tiny_tokenizer, write_gguf
from trimtab.cli.main import app
from trimtab.config import build
from trimtab.data.batches import PackedRow, pack
from trimtab.data.tokens import Example, Response
from trimtab.errors import ConfigError
from trimtab.model import adapters, load
from trimtab.model.device import Numerics
from trimtab.model.names import resolve
from trimtab.model.policy import response_logprobs
from trimtab.model.scalar import rewards
from trimtab.runs.checkpoint import Checkpoint
from trimtab.runs.run import Run, open_run, read_facts, read_metrics
from trimtab.train import dpo
from trimtab.train.lora import load_policy
from trimtab.train.merge import merge
from trimtab.train.models import weights_hash
from trimtab.train.settings import DPOSettings, LoRASettings, SFTSettings

# peft itself asks transformers for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Rows = list[dict[str, Any]]
KINDS = ("sft", "reward", "dpo")
LORA = {"lora": {"rank": 2, "alpha": 8}, "optimizer": {"learning_rate": 2e-2}, "epochs": 4}
EXAMPLE = Example((5, 9, 11, 40), (Response((7, 8, 2), True), Response((30, 31, 32, 33), False)))


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> dict[str, Path]:
    """One finished run of each stage, with adapters."""
    folder = tmp_path_factory.mktemp("lora")
    for kind in KINDS:
        train(kind, settings_of(kind, **LORA), folder / kind)
    return {kind: folder / kind for kind in KINDS}


def row() -> PackedRow:
    return pack([EXAMPLE])


@torch.no_grad()
def computed(kind: str, name: Path) -> Tensor:
    """Log-probabilities of a policy or rewards of a reward model, loaded by name as every command does."""
    if kind == "reward":
        return rewards(load.load_scalar(str(name), device="cpu"), row())
    return response_logprobs(load.load_causal(str(name), device="cpu"), row())


@pytest.mark.parametrize("kind", KINDS)
def test_the_stage_learns_and_saves_adapters_alone(
    kind: str, runs: dict[str, Path], model_folder: Path
) -> None:
    measured = [row["dev_loss"] for row in read_metrics(runs[kind]) if "dev_loss" in row]
    assert len(measured) == 2 and measured[1] < measured[0] - 0.05
    weights = load_file(runs[kind] / "model" / "adapter_model.safetensors")
    head = {"base_model.model.score.weight"} if kind == "reward" else set()
    assert head <= weights.keys() and all(".lora_" in name for name in weights.keys() - head)
    assert len(weights) == 2 * 2 * 7 + len(head)
    assert not (runs[kind] / "model" / "model.safetensors").exists()
    config = json.loads((runs[kind] / "model" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 8, 0)
    assert config["base_model_name_or_path"] == str(model_folder)
    assert read_facts(runs[kind])["trained_parameters"] == sum(value.numel() for value in weights.values())
    assert "trimtab merge" in (runs[kind] / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_loads_the_run(kind: str, runs: dict[str, Path], model_folder: Path) -> None:
    expected = computed(kind, runs[kind])
    kinds = {"reward": AutoModelForSequenceClassification}
    options = {"num_labels": 1} if kind == "reward" else {}
    base = kinds.get(kind, AutoModelForCausalLM).from_pretrained(model_folder, dtype=torch.float32, **options)
    model = peft.PeftModel.from_pretrained(base, runs[kind] / "model").eval()
    found = []
    for response in EXAMPLE.responses:
        with torch.no_grad():
            logits = model(torch.tensor([[*EXAMPLE.prompt, *response.ids]])).logits[0]
        if kind == "reward":
            found.append(logits - read_facts(runs[kind])["reward_bias"])
        else:
            chosen = logits[len(EXAMPLE.prompt) - 1 : -1].log_softmax(-1)
            found.append(chosen[torch.arange(len(response.ids)), torch.tensor(response.ids)])
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-5, rtol=1e-5)
    assert (computed("sft", model_folder) - expected).abs().max() > 0.1 if kind != "reward" else True


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_hold_what_learns_and_a_resumed_run_is_the_unbroken_one(
    kind: str,
    runs: dict[str, Path],
    tmp_path: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Run.log

    def stopped(run: Run, at: int, **values: Any) -> None:
        log(run, at, **values)
        if at == 5:
            raise ZeroDivisionError

    settings = settings_of(kind, checkpoint_every=3, **LORA)
    with monkeypatch.context() as killing, pytest.raises(ZeroDivisionError):
        killing.setattr(Run, "log", stopped)
        train(kind, settings, tmp_path / kind)
    kept = Checkpoint(tmp_path / kind / "checkpoints" / "step-000003", {})
    names = set(kept.tensors(kind))
    assert all(".lora_" in name or name == "score.weight" for name in names)
    assert len(names) == 28 + (kind == "reward")
    moments = {name.rpartition("/")[0] for name in kept.tensors(f"{kind}-optimizer")} - {""}
    assert moments == names
    train(kind, settings, tmp_path / kind, resume=True)
    once, twice = (
        load_file(folder / "model" / "adapter_model.safetensors") for folder in (runs[kind], tmp_path / kind)
    )
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    steps = [{**row, "time": 0} for row in read_metrics(tmp_path / kind)]
    assert steps == [{**row, "time": 0} for row in read_metrics(runs[kind])]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_after_training_the_adapter_switched_off_is_the_base_bit_for_bit(
    precision: str, model_folder: Path, settings_of: Callable[..., Any], tmp_path: Path
) -> None:
    """The run's own policy, in the state in which it has learned."""
    settings: DPOSettings = settings_of("dpo", precision=precision, **LORA)
    trained: list[Any] = []
    with (
        pytest.MonkeyPatch.context() as catching,
        open_run(tmp_path / "dpo", "dpo", settings, resume=False) as run,
    ):
        catching.setattr(dpo, "finish", lambda policy, run: trained.append(policy))
        dpo.train(settings, run)
    (policy,) = trained
    base = load.load_causal(str(model_folder), device="cpu")
    with torch.no_grad(), policy.numerics.autocast():
        before = response_logprobs(base, row())
        on = response_logprobs(policy.model, row())
        with adapters.switched_off(policy.model):
            assert torch.equal(response_logprobs(policy.model, row()), before)
        assert torch.equal(response_logprobs(policy.model, row()), on)
    assert (on - before).abs().max() > 0.1
    held = policy.model.model.layers[0].mlp.up_proj.base_layer.weight.dtype
    assert held == getattr(torch, precision)


def test_the_reference_needs_no_second_model(
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    original = load.load_causal

    def counted(name: str, **options: Any) -> Any:
        loaded.append(name)
        return original(name, **options)

    monkeypatch.setattr(load, "load_causal", counted)
    rows = train("dpo", settings_of("dpo", **LORA), tmp_path / "dpo")
    assert len(loaded) == 1
    assert any(row.get("dev_kl", 0) > 0 for row in rows)


def test_a_stage_begins_from_an_adapter_run_and_writes_the_merged_base(
    runs: dict[str, Path], settings_of: Callable[..., Any], train: Callable[..., Rows], tmp_path: Path
) -> None:
    train("dpo", settings_of("dpo", **{**LORA, "model": str(runs["sft"])}), tmp_path / "dpo")
    config = json.loads((tmp_path / "dpo" / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "dpo" / "base")
    assert torch.equal(computed("dpo", tmp_path / "dpo" / "base"), computed("sft", runs["sft"]))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo" / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "dpo" / "model").eval()
    ids = torch.tensor([[*EXAMPLE.prompt, *EXAMPLE.responses[0].ids]])
    with torch.no_grad():
        expected = load.load_causal(str(tmp_path / "dpo"), device="cpu", attention="sdpa")(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_gguf_base_is_written_for_others(tmp_path: Path, settings_of: Callable[..., Any]) -> None:
    write_gguf(tiny_llama(5, tie_word_embeddings=True), tiny_tokenizer(), tmp_path / "m.gguf", split="smollm")
    settings: SFTSettings = settings_of("sft", **{**LORA, "model": str(tmp_path / "m.gguf")})
    assert settings.lora is not None
    with open_run(tmp_path / "sft", "sft", settings, resume=False) as run:
        policy = load_policy(settings, settings.lora, Numerics(torch.device("cpu"), None), run)
    by_others = AutoModelForCausalLM.from_pretrained(tmp_path / "sft" / "base").eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad(), adapters.switched_off(policy.model):
        expected = load.load_causal(str(tmp_path / "m.gguf"), device="cpu", attention="sdpa")(ids).logits
        torch.testing.assert_close(by_others(ids).logits, expected)


def test_ppo_takes_adapter_runs_as_policy_and_as_reward_model(
    runs: dict[str, Path], settings_of: Callable[..., Any], train: Callable[..., Rows], tmp_path: Path
) -> None:
    changes = {"model": str(runs["sft"]), "reward_model": str(runs["reward"]), "episodes": 8}
    rows = train("ppo", settings_of("ppo", **changes), tmp_path / "ppo")
    assert any("kl" in row for row in rows)
    assert (tmp_path / "ppo" / "model" / "model.safetensors").exists()


def test_the_hash_of_the_weights_covers_base_and_adapter(runs: dict[str, Path], model_folder: Path) -> None:
    found = weights_hash(resolve(str(runs["sft"])))
    own, base = found.split("+")
    assert base == weights_hash(model_folder) and len(own) == 64
    assert (
        weights_hash(resolve(str(runs["dpo"])))
        == f"{weights_hash(resolve(str(runs['dpo']))).split('+')[0]}+{base}"
    )
    assert weights_hash(resolve(str(runs["dpo"]))) != found


# --- merged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_merge_writes_a_model_that_needs_neither(kind: str, runs: dict[str, Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["merge", str(runs[kind]), "--out", str(tmp_path / "new" / "merged")])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "new" / "merged"
    assert torch.equal(computed(kind, folder), computed(kind, runs[kind]))
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        p.name for p in folder.iterdir()
    }
    assert not list(folder.glob("adapter*")) and not (folder / "merged_config.json").exists()
    loader = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    model, report = loader.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (model.config.num_labels == 1) == (kind == "reward")
    card = (folder / "README.md").read_text()
    own, base = weights_hash(resolve(str(runs[kind]))).split("+")
    assert own in card and base in card and f"# {kind}\n" in card


def test_a_whole_model_and_a_place_in_use_are_refused(
    runs: dict[str, Path], model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no adapter to merge"):
        merge(str(model_folder), tmp_path / "merged")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="the place is in use"):
        merge(str(runs["sft"]), tmp_path / "used")
    assert (tmp_path / "used" / "note.txt").read_text() == "mine"


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_filled_in_and_nonsense_is_refused() -> None:
    given = {"model": "m", "data": "d", "lora": {}}
    lora = build(SFTSettings, given).lora
    assert lora == LoRASettings(rank=8, alpha=16, targets="all-linear", base="full")
    for wrong in ({"rank": 0}, {"alpha": 0}, {"targets": []}, {"targets": "q_proj"}, {"base": "8bit"}):
        with pytest.raises(ConfigError):
            build(SFTSettings, {**given, "lora": wrong})
    with pytest.raises(ConfigError, match="there is no such setting"):
        build(SFTSettings, {**given, "lora": {"rnak": 4}})


def test_4_bit_on_a_cpu_is_refused(
    settings_of: Callable[..., Any], train: Callable[..., Rows], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="on CUDA only") as raised:
        train("sft", settings_of("sft", lora={"base": "4bit"}), tmp_path / "sft")
    assert raised.value.where == "lora.base"
