"""Memory: what is predicted beside what is counted, and a limit that is kept by the mildest means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.config import build
from trimtab.errors import ConfigError, ResourceError
from trimtab.model.device import Numerics
from trimtab.model.recompute import blocks, recompute_first
from trimtab.runs.run import open_run, read_facts
from trimtab.train import memory, sft
from trimtab.train.allocation import beside_tensors, held_now, peak_of_tensors
from trimtab.train.memory import RowCost
from trimtab.train.settings import SFTSettings

Rows = list[dict[str, Any]]
CPU = torch.device("cpu")
MIB = 1 << 20
HELD = 100 * MIB


@pytest.fixture
def begun(
    settings_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, Any, Any]]:
    """A stage as it stands when model and data are loaded, in a process of 100 MiB."""
    monkeypatch.setattr(memory, "held_now", lambda model, device: HELD)

    def begin(**changes: Any) -> tuple[Any, Any, Any]:
        settings = settings_of("sft", **{"row_tokens": 512, "batch": 12, **changes})
        with open_run(tmp_path / "begun", "sft", settings, resume=False) as run:
            trained, examples, _ = sft.begin(settings, run)
        return trained, examples, settings

    return begin


def test_the_peak_is_that_of_all_tensors_that_live_at_once() -> None:
    kept = torch.zeros(1000)

    def work() -> None:
        one = torch.ones(50_000)  # 200 kB
        two = one + 1  # 400 kB
        del one
        three = two[:10_000].clone()  # 240 kB
        kept.add_(float(three.sum()))

    assert 400_000 <= peak_of_tensors(work, CPU) <= 402_000


def test_a_row_costs_what_is_predicted_from_smaller_rows(begun: Callable[..., Any]) -> None:
    trained, examples, settings = begun(max_prompt=20)
    largest = memory.largest_row(examples, settings)
    assert largest == sum(example.tokens for example in examples)
    unseen = max(4 * parameter.numel() for parameter in memory.learning(trained.model))
    predicted = memory.row_cost(trained, examples, settings).of(largest) - unseen
    memory._backward(trained, examples)  # gradients are there, as in all rows but a step's first
    counted = peak_of_tensors(partial(memory._backward, trained, examples), CPU)
    assert predicted == pytest.approx(counted, rel=0.1)


def test_blocks_computed_twice_cost_less(begun: Callable[..., Any]) -> None:
    trained, examples, settings = begun()
    once = memory.row_cost(trained, examples, settings)
    recompute_first(trained.model, 2)
    twice = memory.row_cost(trained, examples, settings)
    assert 0 < twice.a_token < 0.8 * once.a_token


def test_lines_of_cost() -> None:
    once, twice = RowCost(10.0, 4.0), RowCost(20.0, 2.0)
    assert once.of(5) == 30.0
    assert once.towards(twice, 0.25) == RowCost(12.5, 3.5)
    assert once.times(2) == RowCost(20.0, 8.0)


def test_the_largest_row(begun: Callable[..., Any]) -> None:
    _, examples, settings = begun()
    sizes = sorted(example.tokens for example in examples)
    for row_tokens, batch, expected in (
        (512, 12, sum(sizes)),
        (100, 12, 100),
        (1, 12, sizes[-1]),
        (512, 2, sizes[-1] + sizes[-2]),
    ):
        changed = settings.model_copy(update={"row_tokens": row_tokens, "batch": batch})
        assert memory.largest_row(examples, changed) == expected


def test_the_mildest_way_is_chosen(begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """From much room to little: as set, smaller rows, then one block twice, then both, then a refusal."""
    monkeypatch.setattr(memory, "SMALLEST_ROW", 1)
    trained, examples, settings = begun()
    longest = max(example.tokens for example in examples)
    terms = memory.terms_of(trained, settings, holes=0)
    once = memory.row_cost(trained, examples, settings)
    recompute_first(trained.model, 2)
    twice = memory.row_cost(trained, examples, settings)

    def chosen(limit: float) -> memory.Choice:
        recompute_first(trained.model, 0)
        return memory.choose(trained, examples, settings.model_copy(update={"memory_limit": int(limit)}))

    def needed(cost: RowCost, tokens: int) -> int:
        return terms.step(cost.times(memory.HEAP_GIVEN_BACK).of(tokens))

    largest = memory.largest_row(examples, settings)
    easy = chosen(2 * needed(once, largest))
    assert (easy.row_tokens, easy.recomputed, easy.given_back) == (settings.row_tokens, 0, False)
    between = (largest + longest) // 2
    smaller = chosen(needed(once, between) + 1)
    assert (smaller.row_tokens, smaller.recomputed, smaller.given_back) == (between, 0, True)
    half = once.towards(twice, 0.5)
    one = chosen(needed(half, longest) + 1)
    assert (one.row_tokens, one.recomputed) == (longest, 1)
    both = chosen(needed(twice, longest) + 1)
    assert (both.row_tokens, both.recomputed) == (longest, 2)
    for choice in (easy, smaller, one, both):
        assert choice.expected <= choice.limit
    with pytest.raises(ResourceError, match="does not fit below its memory limit") as raised:
        chosen(needed(twice, longest) - 1)
    assert raised.value.where == "memory_limit" and "set memory_limit=" in raised.value.fix


def test_what_would_fit_is_named(settings_of: Callable[..., Any]) -> None:
    weights = [torch.empty(1024, 1024)]  # 4 MiB: gradients 4, moments 8, in 8 bits 2.03
    settings = settings_of("sft")
    ways = partial(memory.ways_to_fit, weights, settings, 30 * MIB)
    assert ways(25 * MIB)[:2] == ["set optimizer.moments=8bit", "train adapters (lora.rank=8)"]
    assert ways(20 * MIB)[0] == "train adapters (lora.rank=8)"
    assert ways(10 * MIB) == ["set memory_limit=30MiB", "use a smaller model"]
    narrow = settings_of("sft", optimizer={"moments": "8bit"})
    assert "8bit" not in " ".join(memory.ways_to_fit(weights, narrow, 30 * MIB, 29 * MIB))


@pytest.mark.parametrize(("text", "size"), [("6GiB", 6 * 1024**3), ("800MB", 800 * 10**6), ("1.5 GB", 1.5e9)])
def test_limits_are_read_with_their_units(text: str, size: float) -> None:
    settings = build(SFTSettings, {"model": "m", "data": "d", "memory_limit": text})
    assert settings.memory_limit == size
    assert build(SFTSettings, settings.model_dump(mode="json")).memory_limit == size


@pytest.mark.parametrize("text", ["much", "-1GB", "0"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(SFTSettings, {"model": "m", "data": "d", "memory_limit": text})
    assert raised.value.where == "memory_limit"


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_a_stage_below_a_limit_learns_the_same(
    kind: str,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Smaller rows and blocks computed twice change memory and time, and rounding alone of the numbers."""
    changes = {"row_tokens": 512} | ({"reference": {"cache": 0}} if kind == "dpo" else {})
    free = train(kind, settings_of(kind, **changes), tmp_path / "free")
    choice = memory.Choice(row_tokens=80, recomputed=2, expected=1, limit=5 * MIB, given_back=False)
    monkeypatch.setattr(memory, "choose", lambda *_: choice)
    limited = train(kind, settings_of(kind, **changes, memory_limit=5 * MIB), tmp_path / "limited")
    assert [row["step"] for row in free] == [row["step"] for row in limited]
    for expected, found in zip(free, limited, strict=True):
        if "loss" in expected:
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
            assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)
    assert read_facts(tmp_path / "limited")["memory"]["recomputed"] == 2
    assert "memory" not in read_facts(tmp_path / "free")


def test_a_resumed_run_does_as_it_did_before(
    settings_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("sft", memory_limit=5 * MIB)
    first = memory.Choice(row_tokens=80, recomputed=1, expected=1, limit=5 * MIB, given_back=False)
    monkeypatch.setattr(memory, "choose", lambda *_: first)
    with open_run(tmp_path / "run", "sft", settings, resume=False) as run:
        trained, examples, _ = sft.begin(settings, run)
        assert memory.within_limit(trained, examples, settings, run).row_tokens == 80
        assert ["forward" in vars(block) for block in blocks(trained.model)] == [True, False]
        run.save(1, {})
    monkeypatch.setattr(memory, "choose", lambda *_: replace(first, row_tokens=40))
    with open_run(tmp_path / "run", "sft", settings, resume=True) as run:
        assert memory.within_limit(trained, examples, settings, run).row_tokens == 80
    other = settings.model_copy(update={"memory_limit": 6 * MIB})
    with open_run(tmp_path / "run", "sft", other, resume=True) as run:
        assert memory.within_limit(trained, examples, other, run).row_tokens == 40


def test_what_rows_leave_behind_grows_to_a_bound() -> None:
    rounded = Numerics(CPU, torch.bfloat16)
    few, many, all_ = (beside_tensors(rounded, rows, holes=0) for rows in (5, 50, float("inf")))
    assert 0 < few < many < all_
    assert beside_tensors(rounded, 50) > many
    assert beside_tensors(Numerics(CPU, None), 50) == 0


def test_a_device_that_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="on a CPU and on CUDA only"):
        held_now(torch.nn.Linear(1, 1), torch.device("mps"))
