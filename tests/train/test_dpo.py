"""DPO on the real path: an exact start, one reference, and dev metrics that another path confirms."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import correlation
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trimtab import formats
from trimtab.data.tokens import Example, Limits, encode_comparisons
from trimtab.errors import DataError, Interrupted, ResourceError
from trimtab.model.load import load_tokenizer
from trimtab.runs.run import Run
from trimtab.train import distance, loop, reference

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
        watching.setenv("TRIMTAB_REFERENCE_CACHE", str(folder.parent / "cache"))
        _watch(watching, passes)
        with watching.context() as pressing:
            _press_at(2, pressing)
            with pytest.raises(Interrupted):
                train("dpo", settings, folder)
        before = len(passes)
        rows = train("dpo", settings, folder, resume=True)
    return folder, rows, passes[before:]


def _watch(watching: pytest.MonkeyPatch, passes: list[str]) -> None:
    over_rows, step = reference.over_rows, loop.Learner.step

    def counted(*arguments: Any, name: str, **named: Any) -> list[torch.Tensor]:
        passes.append(name)
        return over_rows(*arguments, name=name, **named)

    def stepped(learner: loop.Learner) -> dict[str, float]:
        passes.append("step")
        return step(learner)

    watching.setattr(reference, "over_rows", counted)
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
    beta, margins, sides, longer = 0.1, [], [], []
    for example in encoded(model_folder, data["dev"]):
        after, before = plain_logprobs(folder / "model", example), plain_logprobs(model_folder, example)
        chosen, rejected = (float((new - old).sum()) for new, old in zip(after, before, strict=True))
        sides.append((chosen, rejected))
        margins.append(beta * (chosen - rejected))
        longer.append(len(example.responses[0].ids) - len(example.responses[1].ids))
    (last,) = (row for row in rows if "dev_loss" in row and row["step"] > 0)
    assert last["step"] == 3 and last["dev_n"] == 4
    assert last["dev_margin"] == pytest.approx(sum(margins) / 4, abs=1e-5)
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert last["dev_loss"] == pytest.approx(sum(losses) / 4, abs=1e-5)
    assert last["dev_accuracy"] == sum(margin > 0 for margin in margins) / 4
    for name, values in zip(("chosen", "rejected"), zip(*sides, strict=True), strict=True):
        assert last[f"dev_{name}_logratio"] == pytest.approx(sum(values) / 4, abs=1e-5)
    both = [(sign * a, sign * b) for sign in (1, -1) for a, b in zip(longer, margins, strict=True)]
    assert last["dev_length_correlation"] == pytest.approx(correlation(*zip(*both, strict=True)), abs=1e-4)
    assert rows[0]["dev_longer_chosen"] == sum(more > 0 for more in longer) / 4
    for name in ("dev_loss", "dev_margin", "dev_accuracy"):
        assert last[f"{name}_low"] <= last[name] <= last[f"{name}_high"]
    assert last["dev_margin_low"] < last["dev_margin_high"]


def test_the_answers_divergence_is_over_the_whole_vocabulary(
    tmp_path: Path,
    model_folder: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Any] = []
    answer_first = distance.answer_first
    monkeypatch.setattr(
        distance, "answer_first", lambda *given: answers.extend(answer_first(*given)) or list(answers)
    )
    folder = tmp_path / "dpo"
    (logged,) = (row for row in train("dpo", settings_of("dpo", samples=3), folder) if "dev_kl" in row)
    after, before = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (folder / "model", model_folder)
    )
    expected = []
    for one in answers:
        ids = torch.tensor([[*one.prompt, *one.response.ids]])
        with torch.no_grad():
            p, q = (m(ids).logits[0, len(one.prompt) - 1 : -1].log_softmax(-1) for m in (after, before))
        expected.append(float((p.exp() * (p - q)).sum()))
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["kl"] for row in samples] == pytest.approx(expected, rel=1e-3)
    assert logged["step"] == 6 and logged["dev_kl_n"] == len(samples) == 3
    assert logged["dev_kl"] == pytest.approx(sum(expected) / 3, rel=1e-3) and min(expected) > 1e-3
    assert logged["dev_kl_low"] <= logged["dev_kl"] <= logged["dev_kl_high"]


def test_a_divergence_that_cannot_be_measured_undoes_no_training(
    tmp_path: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ResourceError("too little memory for the model")

    monkeypatch.setattr(distance, "load_policy", refused)
    rows = train("dpo", settings_of("dpo", epochs=1), tmp_path / "dpo")
    assert not [row for row in rows if "dev_kl" in row] and (tmp_path / "dpo" / "DONE").exists()
    assert "KL not measured" in capsys.readouterr().err
    assert len((tmp_path / "dpo" / "samples.jsonl").read_text().splitlines()) == 2


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
