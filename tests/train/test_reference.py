"""The reference: computed once for all runs on the same data, and moving as TR-DPO has it."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tiny import tiny_llama
from trimtab import formats
from trimtab.arena.ledger import stage_costs
from trimtab.config import build
from trimtab.data.tokens import Example, Limits, encode_comparisons
from trimtab.errors import ConfigError, Interrupted
from trimtab.model.device import Numerics
from trimtab.model.load import load_tokenizer
from trimtab.model.policy import load_policy
from trimtab.runs.cost import Part
from trimtab.runs.run import Run, read_facts
from trimtab.train import reference, reference_cache
from trimtab.train.reference_cache import Kept
from trimtab.train.settings import DPOSettings

Rows = list[dict[str, Any]]
Start = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_REFERENCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the forward passes over data, in order."""
    names: list[str] = []
    over_rows = reference.over_rows

    def counted(*arguments: Any, name: str, **named: Any) -> list[torch.Tensor]:
        names.append(name)
        return over_rows(*arguments, name=name, **named)

    monkeypatch.setattr(reference, "over_rows", counted)
    return names


@pytest.fixture
def start(
    tmp_path: Path,
    cache: Path,
    passes: list[str],
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
) -> Start:
    """Run DPO in a folder of its own; afterwards `passes` are those of this run."""
    numbers = itertools.count()

    def run(**changes: Any) -> Path:
        passes.clear()
        folder = tmp_path / f"run-{next(numbers)}"
        train("dpo", settings_of("dpo", **{"epochs": 1, "samples": 0, **changes}), folder)
        return folder

    return run


def stored(folder: Path) -> torch.Tensor:
    return load_file(folder / "reference.safetensors")["logprobs"]


def test_another_beta_and_another_loss_need_no_pass(
    start: Start, passes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = start()
    assert passes == ["reference", "dev_reference", "dev pairs", "dev pairs"]
    assert "from the cache" not in capsys.readouterr().err
    for changes in ({"loss": {"beta": 0.3}}, {"loss": "ipo", "seed": 4, "row_tokens": 64}):
        again = start(**changes)
        assert passes == ["dev pairs", "dev pairs"]
        assert "reference: from the cache" in capsys.readouterr().err
        assert torch.equal(stored(again), stored(first))
        said = read_facts(again)["reference_passes"]["reference"]
        assert said["from"] == "the cache"
        assert said["wall_s"] == read_facts(first)["reference_passes"]["reference"]["wall_s"] > 0


def test_the_run_folder_needs_no_cache_to_go_on(
    start: Start, cache: Path, tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    whole = start(epochs=2)
    with pytest.MonkeyPatch.context() as pressing:
        press_ctrl_c_at(3, pressing)
        with pytest.raises(Interrupted):
            train("dpo", settings_of("dpo", samples=0), tmp_path / "halved")
    shutil.rmtree(cache)
    train("dpo", settings_of("dpo", samples=0), tmp_path / "halved", resume=True)
    for folder in (whole, tmp_path / "halved"):
        assert read_facts(folder)["reference_passes"].keys() == {"reference", "dev_reference"}
    assert read_facts(tmp_path / "halved")["reference_passes"]["reference"]["from"] == "the cache"
    assert same_weights(whole, tmp_path / "halved")


def press_ctrl_c_at(step: int, pressing: pytest.MonkeyPatch) -> None:
    log = Run.log

    def logged(run: Run, at: int, **values: Any) -> None:
        log(run, at, **values)
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    pressing.setattr(Run, "log", logged)


def same_weights(first: Path, second: Path) -> bool:
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_other_data_weights_or_arithmetic_need_a_pass(
    start: Start, passes: list[str], data: dict[str, str], model_folder: Path, tmp_path: Path
) -> None:
    start()
    lines = Path(data["train"]).read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join([*lines[1:], lines[0]]))
    moved = tmp_path / "moved"
    shutil.copytree(model_folder, moved)
    model = tiny_llama(seed=0)
    with torch.no_grad():
        model.lm_head.weight[7, 3] += 1e-3
    model.save_pretrained(moved)
    start(data=str(tmp_path / "other.jsonl"))
    assert passes == ["reference", "dev pairs", "dev pairs"]  # the dev set is as it was
    for changes in ({"model": str(moved)}, {"precision": "bfloat16"}, {"max_response": 4}):
        start(**changes)
        assert passes[:2] == ["reference", "dev_reference"]
    start()
    assert passes == ["dev pairs", "dev pairs"]


def test_the_key_is_of_all_that_the_log_probabilities_follow_from(
    model_folder: Path, data: dict[str, str], numerics: Numerics, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(str(model_folder), numerics, bytes_per_parameter=4)
    pairs = examples(model_folder, data["train"])
    key = reference_cache.key_of(policy, pairs)
    assert key == reference_cache.key_of(replace(policy, source="another name"), list(pairs))
    swapped = [replace(pairs[0], responses=pairs[0].responses[::-1]), *pairs[1:]]
    other = copy.deepcopy(policy.model)
    other.config.rope_parameters["rope_theta"] = 5e5
    keys = {
        key,
        reference_cache.key_of(policy, pairs[:-1]),
        reference_cache.key_of(policy, swapped),
        reference_cache.key_of(replace(policy, model=other), pairs),
        reference_cache.key_of(replace(policy, numerics=Numerics(numerics.device, torch.bfloat16)), pairs),
    }
    monkeypatch.setattr(reference_cache.metadata, "version", lambda name: "0")
    keys.add(reference_cache.key_of(policy, pairs))
    assert len(keys) == 6


@pytest.mark.parametrize("damage", ["cut off", "one bit", "another text"])
def test_a_damaged_file_is_computed_anew(
    damage: str, start: Start, cache: Path, passes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = start()
    for path in cache.iterdir():
        content = bytearray(path.read_bytes())
        if damage == "cut off":
            content = content[:-9]
        elif damage == "one bit":
            content[-6] ^= 1
        else:
            content = bytearray(b"not a tensor")
        path.write_bytes(content)
    again = start()
    assert passes[:2] == ["reference", "dev_reference"]
    assert "damaged and not used" in capsys.readouterr().err
    assert torch.equal(stored(again), stored(first))
    start()
    assert "reference" not in passes


def kept(number: int, size: int = 1000) -> Kept:
    return Kept(torch.full((size,), float(number)), Part(1.0, 2.0))


def test_what_was_not_used_for_longest_goes_first(cache: Path) -> None:
    limit = 3 * 4400  # three files of 1000 log-probabilities with their headers
    for number in range(3):
        reference_cache.write(f"key-{number}", kept(number), limit)
        os.utime(cache / f"key-{number}.safetensors", (number, number))
    found = reference_cache.read("key-0", 1000)  # used now
    assert found is not None and found.spent == Part(1.0, 2.0) and found.logprobs.tolist() == [0.0] * 1000
    reference_cache.write("key-3", kept(3), limit)
    assert {path.stem for path in cache.iterdir()} == {"key-0", "key-2", "key-3"}
    reference_cache.write("too large", kept(4, 4000), limit)
    assert {path.stem for path in cache.iterdir()} == {"key-0", "key-2", "key-3"}
    assert reference_cache.read("key-0", 999) is None


def test_a_cache_of_size_0_is_not_touched(start: Start, cache: Path, passes: list[str]) -> None:
    for _ in range(2):
        start(reference={"cache": 0})
        assert passes[:2] == ["reference", "dev_reference"]
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_stops_no_run(
    start: Start, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_text("a file where the folder should be")
    assert (start() / "DONE").exists()
    assert "not kept for other runs" in capsys.readouterr().err


def write_again_and_again(number: int) -> None:
    """In a process of its own; anything that it would say is a failure."""
    reference_cache.progress.say = sys.exit  # type: ignore[assignment]
    for _ in range(150):
        reference_cache.write("shared", kept(7, 5000), 10**6)
        reference_cache.write(f"own-{number}", kept(number, 5000), 10**6)


def test_processes_share_the_folder(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_again_and_again, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    read = 0
    while any(writer.is_alive() for writer in writers):
        found = reference_cache.read("shared", 5000)
        read += found is not None
        assert found is None or bool((found.logprobs == 7).all())
    assert read and [writer.exitcode for writer in writers] == [0, 0]
    assert {path.name for path in cache.iterdir()} == {
        f"{name}.safetensors" for name in ("shared", "own-0", "own-1")
    }
    assert "damaged" not in capsys.readouterr().err


def test_a_pass_from_the_cache_is_charged_as_one_that_was_made(start: Start) -> None:
    start()
    again = start()
    facts = read_facts(again)
    facts["reference_passes"]["reference"] |= {"wall_s": 1000.0, "cpu_s": 3000.0}
    (again / "run.json").write_text(json.dumps(facts))
    spent = facts["cost"]["parts"]["reference"]
    (charged,) = (cost for cost in stage_costs({"dpo": str(again)}) if cost.stage == "reference")
    assert charged.wall_s == pytest.approx(1000 + spent["wall_s"])
    assert charged.cpu_s == pytest.approx(3000 + spent["cpu_s"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_adapters_of_other_seeds_have_the_same_base(start: Start, passes: list[str]) -> None:
    first = start(lora={"rank": 2}, seed=0)
    assert passes[:2] == ["reference", "dev_reference"]
    again = start(lora={"rank": 4}, seed=1)
    assert passes == ["dev pairs", "dev pairs"]
    assert torch.equal(stored(again), stored(first))


# The reference that moves


def examples(model_folder: Path, source: str) -> list[Example]:
    rows = formats.usable(formats.read_comparisons(source))
    return encode_comparisons(
        load_tokenizer(str(model_folder)), rows, Limits(prompt=64, response=12)
    ).examples


def sequence_logprobs(model: torch.nn.Module, pairs: list[Example]) -> torch.Tensor:
    """[P, 2] by transformers alone: one sequence at a time."""
    values = []
    for pair in pairs:
        for response in pair.responses:
            ids = torch.tensor([[*pair.prompt, *response.ids]])
            logits = model(ids).logits[0, len(pair.prompt) - 1 : -1]
            values.append(
                logits.log_softmax(-1)[torch.arange(len(response.ids)), torch.tensor(response.ids)].sum()
            )
    return torch.stack(values).view(-1, 2)


def plain_tr_dpo(
    folder: Path, pairs: list[Example], *, steps: int, every: int, alpha: float
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """TR-DPO as the paper has it, all pairs in every step: losses, and the weights at the end."""
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ref = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            before = sequence_logprobs(ref, pairs)
        ratios = sequence_logprobs(policy, pairs) - before
        loss = -F.logsigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % every == 0:
            now, then = policy.state_dict(), ref.state_dict()
            ref.load_state_dict({name: alpha * now[name] + (1 - alpha) * then[name] for name in now})
    return losses, policy.state_dict()


WHOLE = {
    "batch": 12,
    "epochs": 6,
    "optimizer": {"learning_rate": 1e-3, "warmup": 0.0, "schedule": "constant", "max_grad_norm": 1e9},
}


@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_the_moving_reference_is_the_papers(
    alpha: float, start: Start, model_folder: Path, data: dict[str, str]
) -> None:
    folder = start(reference={"every": 2, "alpha": alpha}, **WHOLE)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    pairs = examples(model_folder, data["train"])
    expected, weights = plain_tr_dpo(model_folder, pairs, steps=6, every=2, alpha=alpha)
    assert losses == pytest.approx(expected, abs=2e-5)
    still, _ = plain_tr_dpo(model_folder, pairs, steps=6, every=99, alpha=alpha)
    assert min(abs(a - b) for a, b in zip(losses[2:], still[2:], strict=True)) > 1e-3
    found = load_file(folder / "model" / "model.safetensors")
    for name, value in found.items():
        torch.testing.assert_close(value, weights[name], atol=3e-4, rtol=0, msg=name)


def test_a_moving_reference_uses_no_cache(start: Start, cache: Path, passes: list[str]) -> None:
    start(reference={"every": 2})
    assert passes == ["dev_reference", "dev pairs", *["reference"] * 3, "dev pairs"]
    assert not cache.exists()


def test_a_moving_reference_is_resumed_exactly(
    start: Start, tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    changes = {"epochs": 2, "samples": 0, "reference": {"every": 2, "alpha": 0.5}}
    whole = start(**changes)
    with pytest.MonkeyPatch.context() as pressing:
        press_ctrl_c_at(3, pressing)
        with pytest.raises(Interrupted):
            train("dpo", settings_of("dpo", **changes), tmp_path / "halved")
    train("dpo", settings_of("dpo", **changes), tmp_path / "halved", resume=True)
    assert same_weights(whole, tmp_path / "halved")
    assert not same_weights(whole, start(epochs=2))


def test_dev_measures_are_against_the_policy_as_it_was_given(start: Start) -> None:
    """Against the reference that took the policy's place after every step, the margin would be 0."""
    folder = start(reference={"every": 1, "alpha": 1.0}, **WHOLE)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(row["margin"]) < 1e-4 for row in rows if "margin" in row)
    (last,) = (row for row in rows if row["step"] == 6 and "dev_loss" in row)
    assert abs(last["dev_chosen_logratio"]) > 0.05


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"loss": "simpo"}, "the loss simpo reads no reference"),
        ({"lora": {}}, "with adapters the reference is the base model"),
    ],
)
def test_what_cannot_follow(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        build(DPOSettings, {"model": "m", "data": "d", "reference": {"every": 2}, **changes})
