"""What preference losses read, against loops over tokens, and every loss through the stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.config import build
from trimtab.data.tokens import Example, Response
from trimtab.errors import ConfigError
from trimtab.losses.preference import PREFERENCE_LOSSES, preference_loss
from trimtab.train import dpo
from trimtab.train.pairs import lengths_of, loss_inputs, token_values_read, with_mismatches
from trimtab.train.settings import DPOSettings

Rows = list[dict[str, Any]]
CPU = torch.device("cpu")
COUNTS = [[3, 1, 2], [2, 4, 1]]
"""Tokens of chosen, rejected and mismatched responses of two pairs."""


def responses() -> list[list[list[int]]]:
    """Ids that tell where they stand: 100 * pair + 10 * response + place."""
    return [
        [[100 * pair + 10 * side + place for place in range(count)] for side, count in enumerate(counts)]
        for pair, counts in enumerate(COUNTS)
    ]


def examples() -> list[Example]:
    return [Example((1,), tuple(Response(tuple(ids), True) for ids in pair)) for pair in responses()]


def flat(function: Callable[[int], float]) -> torch.Tensor:
    values = [function(token) for pair in responses() for ids in pair for token in ids]
    return torch.tensor(values, dtype=torch.float64)


def policy(token: int) -> float:
    return -math.sqrt(token + 1)


def reference(token: int) -> float:
    return -math.log(token + 2)


def likeness(token: int) -> float:
    return math.sin(token)


def summed(function: Callable[[int], float], pair: int, side: int, first: int = 0) -> float:
    return sum(function(token) for token in responses()[pair][side][first:])


@pytest.fixture(scope="module")
def values() -> dict[str, torch.Tensor]:
    return {"policy": flat(policy), "reference": flat(reference), "likeness": flat(likeness)}


def read(name: str, values: dict[str, torch.Tensor]) -> dict[str, Any]:
    return loss_inputs(preference_loss(name, {}), values, lengths_of(examples(), CPU))


def test_sums_and_lengths(values: dict[str, torch.Tensor]) -> None:
    found = read("r_dpo", values)
    assert found.keys() == {"policy", "reference", "lengths"}
    for side, name in enumerate(("chosen", "rejected")):
        for key, function in (("policy", policy), ("reference", reference)):
            expected = [summed(function, pair, side) for pair in range(2)]
            assert getattr(found[key], name).tolist() == pytest.approx(expected, rel=1e-12)
        assert getattr(found["lengths"], name).tolist() == [counts[side] for counts in COUNTS]


def test_tails_lie_beyond_the_shorter_of_chosen_and_rejected(values: dict[str, torch.Tensor]) -> None:
    found = read("ld_dpo", values)
    for key, function in (("policy_tail", policy), ("reference_tail", reference)):
        chosen = [summed(function, 0, 0, first=1), 0.0]
        rejected = [0.0, summed(function, 1, 1, first=2)]
        assert found[key].chosen.tolist() == pytest.approx(chosen, rel=1e-12)
        assert found[key].rejected.tolist() == pytest.approx(rejected, rel=1e-12)


def test_likeness_is_a_mean_over_tokens(values: dict[str, torch.Tensor]) -> None:
    found = read("wpo", values)["likeness"]
    for side, name in enumerate(("chosen", "rejected")):
        expected = [summed(likeness, pair, side) / COUNTS[pair][side] for pair in range(2)]
        assert getattr(found, name).tolist() == pytest.approx(expected, rel=1e-12)


def test_mismatched_log_ratios_are_the_third_response(values: dict[str, torch.Tensor]) -> None:
    expected = [summed(policy, pair, 2) - summed(reference, pair, 2) for pair in range(2)]
    assert read("kto", values)["mismatch"].tolist() == pytest.approx(expected, rel=1e-12)


def test_each_pair_borrows_the_next_prompts_chosen_response() -> None:
    pairs = [Example((index,), (Response((10 + index,), True),) * 2, weight=0.5) for index in range(3)]
    found = with_mismatches(pairs)
    assert [example.responses[2].ids for example in found] == [(11,), (12,), (10,)]
    assert all(example.weight == 0.5 and len(example.responses) == 3 for example in found)


def test_token_values_that_losses_are_made_from() -> None:
    read_by = {name: token_values_read(preference_loss(name, {})) for name in PREFERENCE_LOSSES}
    assert {name for name, kinds in read_by.items() if "reference" not in kinds} == {"orpo", "simpo", "cpo"}
    assert {name for name, kinds in read_by.items() if "likeness" in kinds} == {"wpo"}
    assert all("policy" in kinds for kinds in read_by.values())


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_every_loss_trains_by_name(
    name: str, tmp_path: Path, settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    rows = train("dpo", settings_of("dpo", loss=name, epochs=4), tmp_path / name)
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 12 and all(math.isfinite(row["loss"]) for row in steps)
    assert all(row["grad_norm"] > 0 for row in steps[:3])
    first, last = (sum(row["loss"] for row in part) / 3 for part in (steps[:3], steps[-3:]))
    if name != "discopop":  # its published form has a barrier at the start: docs/math.md#discopop
        assert last < first
    has_reference = name not in {"orpo", "simpo", "cpo"}
    assert (tmp_path / name / "reference.safetensors").exists() is has_reference
    assert ("chosen_logratio" in steps[0]) is has_reference


def test_a_loss_by_name_has_its_options_written_out() -> None:
    settings = build(DPOSettings, {"model": "m", "data": "d", "loss": "cdpo"})
    assert settings.model_dump()["loss"] == {"name": "cdpo", "beta": 0.1, "label_noise": 0.1}
    changed = build(DPOSettings, {"model": "m", "data": "d", "loss": {"name": "simpo", "margin": 0.5}})
    assert changed.model_dump()["loss"] == {"name": "simpo", "beta": 2.0, "margin": 0.5}
    assert build(DPOSettings, {"model": "m", "data": "d"}).model_dump()["loss"] == {
        "name": "dpo",
        "beta": 0.1,
    }


@pytest.mark.parametrize(
    ("loss", "what", "fix"),
    [
        ("simpoo", "no such preference loss", "did you mean simpo?"),
        ({"name": "orpo", "beta": 0.1}, "orpo has no such option", "known here: odds_weight"),
        ({"name": "dpo", "label_noise": 0.1}, "dpo has no such option", "known here: beta"),
        ({"name": "cdpo", "label_nose": 0.1}, "cdpo has no such option", "did you mean label_noise?"),
        ({"beta": -1}, "beta must be > 0, got -1", ""),
        ({"name": "exo", "label_noise": 0.7}, "label_noise must be in [0, 0.5), got 0.7", ""),
    ],
)
def test_a_loss_that_cannot_be(loss: Any, what: str, fix: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(DPOSettings, {"model": "m", "data": "d", "loss": loss})
    assert what in raised.value.what and raised.value.fix == fix and raised.value.where.startswith("loss")


@pytest.mark.parametrize("loss", [5, None, ["dpo"], {"name": 5}, {"name": ["dpo"]}, {"beta": "abc"}])
def test_what_is_no_loss_at_all_is_one_message(loss: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        build(DPOSettings, {"model": "m", "data": "d", "loss": loss})
    assert raised.value.where.startswith("loss") and "object" not in raised.value.what


def test_beta_by_itself_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match="an option of the loss") as raised:
        build(DPOSettings, {"model": "m", "data": "d", "beta": 0.2})
    assert "--set loss.beta=0.2" in raised.value.fix


def test_quantile_losses_refuse_weights() -> None:
    pairs = [Example((1,), (Response((2,), True),) * 2, weight=weight) for weight in (1.0, 0.5)]
    with pytest.raises(ConfigError, match="cannot weigh"):
        dpo._refuse_weights(preference_loss("aot", {}), pairs)
    dpo._refuse_weights(preference_loss("kto", {}), pairs)
    dpo._refuse_weights(preference_loss("aot", {}), pairs[:1] * 2)
