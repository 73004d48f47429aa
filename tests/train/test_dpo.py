"""DPO on the real path: an exact start, one reference, and dev metrics that another path confirms."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trimtab import formats
from trimtab.data.tokens import Example, Limits, encode_comparisons
from trimtab.errors import DataError, Interrupted
from trimtab.model.load import load_tokenizer
from trimtab.runs.run import Run
from trimtab.train import dpo, loop

Rows = list[dict[str, Any]]


def encoded(model_folder: Path, source: str) -> list[Example]:
    rows = formats.usable(formats.read_comparisons(source))
    return encode_comparisons(
        load_tokenizer(str(model_folder)), rows, Limits(prompt=64, response=12)
    ).examples


@pytest.fixture(scope="module")
def passes() -> list[str]:
    """The names of all forward passes over data, in order, and of the optimizer steps between them."""
    return []


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    passes: list[str],
) -> tuple[Path, Rows, list[str]]:
    """A run that was interrupted after its second step and resumed; the passes after that."""
    folder, settings = tmp_path_factory.mktemp("dpo") / "dpo", settings_of("dpo", epochs=1)
    with pytest.MonkeyPatch.context() as watching:
        _watch(watching, passes)
        with watching.context() as pressing:
            _press_at(2, pressing)
            with pytest.raises(Interrupted):
                train("dpo", settings, folder)
        before = len(passes)
        rows = train("dpo", settings, folder, resume=True)
    return folder, rows, passes[before:]


def _watch(watching: pytest.MonkeyPatch, passes: list[str]) -> None:
    over_rows, step = dpo.over_rows, loop.Learner.step

    def counted(*arguments: Any, name: str, **named: Any) -> list[torch.Tensor]:
        passes.append(name)
        return over_rows(*arguments, name=name, **named)

    def stepped(learner: loop.Learner) -> dict[str, float]:
        passes.append("step")
        return step(learner)

    watching.setattr(dpo, "over_rows", counted)
    watching.setattr(loop.Learner, "step", stepped)


def _press_at(step: int, pressing: pytest.MonkeyPatch) -> None:
    log = Run.log

    def logged(run: Run, at: int, **values: Any) -> None:
        log(run, at, **values)
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    pressing.setattr(Run, "log", logged)


def test_the_first_loss_is_ln_2(finished: tuple[Path, Rows, list[str]]) -> None:
    _, rows, _ = finished
    dev, first = rows[0], rows[1]
    assert dev["step"] == 0 and dev["dev_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert dev["dev_margin"] == pytest.approx(0, abs=1e-6)
    assert first["step"] == 1 and first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["margin"] == pytest.approx(0, abs=1e-6)
    for name in ("chosen_logratio", "rejected_logratio"):
        assert first[name] == pytest.approx(0, abs=1e-5)
    assert rows[2]["loss"] != pytest.approx(math.log(2), abs=1e-6)


def test_the_reference_comes_before_training_and_only_once(
    finished: tuple[Path, Rows, list[str]], passes: list[str]
) -> None:
    *_, after_resuming = finished
    assert passes[: passes.index("step")] == ["reference", "dev_reference", "dev pairs"]
    assert passes.count("reference") == passes.count("dev_reference") == 1
    assert after_resuming == ["step", "dev pairs"]


def test_the_reference_is_the_model_as_it_was_given(
    finished: tuple[Path, Rows, list[str]],
    model_folder: Path,
    data: dict[str, str],
    plain_logprobs: Callable[..., Any],
) -> None:
    folder, *_ = finished
    for name, split, count in (("reference", "train", 12), ("dev_reference", "dev", 4)):
        stored = load_file(folder / f"{name}.safetensors")["logprobs"]
        examples = encoded(model_folder, data[split])
        counts = [sum(len(response.ids) for response in example.responses) for example in examples]
        assert len(counts) == count and stored.shape == (sum(counts),)
        parts = torch.split(stored, counts)
        for index in (0, count - 1):
            expected = torch.cat(plain_logprobs(model_folder, examples[index]))
            assert parts[index].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_dev_metrics_by_another_path(
    finished: tuple[Path, Rows, list[str]],
    model_folder: Path,
    data: dict[str, str],
    plain_logprobs: Callable[..., Any],
) -> None:
    folder, rows, _ = finished
    beta, margins = 0.1, []
    for example in encoded(model_folder, data["dev"]):
        after, before = plain_logprobs(folder / "model", example), plain_logprobs(model_folder, example)
        chosen, rejected = (float((new - old).sum()) for new, old in zip(after, before, strict=True))
        margins.append(beta * (chosen - rejected))
    last = rows[-1]
    assert last["step"] == 3 and last["dev_n"] == 4
    assert last["dev_margin"] == pytest.approx(sum(margins) / 4, abs=1e-5)
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert last["dev_loss"] == pytest.approx(sum(losses) / 4, abs=1e-5)
    assert last["dev_accuracy"] == sum(margin > 0 for margin in margins) / 4
    for name in ("dev_loss", "dev_margin", "dev_accuracy"):
        assert last[f"{name}_low"] <= last[name] <= last[f"{name}_high"]
    assert last["dev_margin_low"] < last["dev_margin_high"]


def test_what_was_read_is_accounted_for(finished: tuple[Path, Rows, list[str]], data: dict[str, str]) -> None:
    facts = json.loads((finished[0] / "run.json").read_text())
    read = facts["data"]
    assert read["train"]["examples"] == 12 and read["dev"]["examples"] == 4
    assert read["train"]["source"] == data["train"] and len(read["train"]["sha256"]) == 64
    assert facts["parents"]["model"]["weights_sha256"]
    assert "reference" in facts["cost"]["parts"] and "training" in facts["cost"]["parts"]


def test_a_dev_prompt_that_is_trained_on_is_refused(
    tmp_path: Path, data: dict[str, str], settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    with pytest.raises(DataError, match="the same prompt"):
        train("dpo", settings_of("dpo", dev=data["train"]), tmp_path / "dpo")
    assert not (tmp_path / "dpo" / "reference.safetensors").exists()
