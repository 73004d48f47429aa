"""KTO from responses rated one by one, beside a computation of its own over unpacked sequences."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trimtab import formats
from trimtab.data.tokens import Example, Limits, Response, encode_ratings
from trimtab.errors import ConfigError, DataError
from trimtab.model.device import Numerics
from trimtab.model.load import load_tokenizer
from trimtab.model.policy import Policy, load_policy
from trimtab.runs.run import read_facts
from trimtab.train import unpaired
from trimtab.train.pairs import with_mismatches

Rows = list[dict[str, Any]]
BETA, GOOD_WEIGHT, BAD_WEIGHT = 0.3, 1.5, 0.7
KTO = {"name": "kto", "beta": BETA, "chosen_weight": GOOD_WEIGHT, "rejected_weight": BAD_WEIGHT}


@pytest.fixture(scope="module")
def policy(model_folder: Path, numerics: Numerics) -> Policy:
    return load_policy(str(model_folder), numerics, bytes_per_parameter=4)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """14 and 6 rated responses; neighbours share a prompt, as both responses of a pair do."""
    folder, draw = tmp_path_factory.mktemp("ratings"), random.Random(3)
    files = {}
    for name, count in (("train", 14), ("dev", 6)):
        rows = [
            {
                "prompt": f"{name} {index // 2} " + "how " * (index // 2 % 3),
                "completion": "".join(draw.choice("bcdxyz") for _ in range(draw.randint(1, 9))),
                "label": index % 3 == 0,
            }
            for index in range(count)
        ]
        files[name] = str(folder / f"{name}.jsonl")
        Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def encoded(model_folder: Path, source: str) -> list[Example]:
    rows = formats.usable(formats.read_ratings(source))
    limits = Limits(prompt=64, response=12)
    return encode_ratings(load_tokenizer(str(model_folder)), rows, limits, good_from=None).examples


def sequence_logprobs(model: torch.nn.Module, prompt: tuple[int, ...], response: Response) -> torch.Tensor:
    """Of each response token, by transformers alone."""
    ids = torch.tensor([[*prompt, *response.ids]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response.ids)), torch.tensor(response.ids)]


def plain_kto(model: torch.nn.Module, batch: list[Example], reference: list[torch.Tensor]) -> torch.Tensor:
    """Equation 8 and section 4.1 of the paper, one sequence at a time: the mean of lambda - v."""
    ratios, mismatched = [], []
    for example, before in zip(batch, reference, strict=True):
        own, other = example.responses
        values = [sequence_logprobs(model, example.prompt, response).sum() for response in (own, other)]
        ratios.append(values[0] - before[: len(own.ids)].sum())
        mismatched.append(values[1].detach() - before[len(own.ids) :].sum())
    z = BETA * max(0.0, float(sum(mismatched)) / len(batch))
    total = torch.zeros(())
    for example, ratio in zip(batch, ratios, strict=True):
        sign, weight = (1, GOOD_WEIGHT) if example.good else (-1, BAD_WEIGHT)
        total = total + weight - weight * torch.sigmoid(sign * (BETA * ratio - z))
    return total / len(batch)


def batch_of(model_folder: Path, source: str, labels: str) -> list[Example]:
    every = with_mismatches(encoded(model_folder, source))
    return [example for example in every if labels == "both" or example.good is (labels == "good")]


@pytest.mark.parametrize("labels", ["both", "good", "bad"])
@pytest.mark.parametrize("lower", [0.4, -0.4], ids=["point above 0", "point clamped"])
@pytest.mark.parametrize("row_tokens", [1, 10_000], ids=["rows apart", "one row"])
def test_a_steps_loss_and_gradient(
    labels: str,
    lower: float,
    row_tokens: int,
    policy: Policy,
    model_folder: Path,
    ratings: dict[str, str],
    settings_of: Callable[..., Any],
) -> None:
    batch = batch_of(model_folder, ratings["train"], labels)
    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    with torch.no_grad():  # a reference that gives each token less, or more, by another amount each
        reference = [
            torch.cat([sequence_logprobs(plain, example.prompt, one) for one in example.responses])
            - lower * (1 + torch.cos(torch.arange(example.tokens - len(example.prompt))))
            for example in batch
        ]
    loss = plain_kto(plain, batch, reference)
    loss.backward()

    policy.model.zero_grad(set_to_none=True)
    settings = settings_of("dpo", loss=KTO, row_tokens=row_tokens)
    metrics = unpaired.learn(policy, batch, reference, settings)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert (metrics["point"] > 0.1) is (lower > 0) and metrics["point"] >= 0
    expected = dict(plain.named_parameters())
    for name, parameter in policy.model.named_parameters():
        assert parameter.grad is not None and expected[name].grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=1e-4, msg=name)
    assert ("good_logratio" in metrics, "bad_logratio" in metrics) == (labels != "bad", labels != "good")
    assert metrics["good"] == pytest.approx(sum(bool(one.good) for one in batch) / len(batch))


def test_a_weight_of_2_is_a_rating_that_is_there_twice(
    policy: Policy, model_folder: Path, ratings: dict[str, str], settings_of: Callable[..., Any]
) -> None:
    first, second, *_ = with_mismatches(encoded(model_folder, ratings["train"]))
    # The point is a mean over responses: the same one here, so that it does not move.
    second = replace(second, prompt=first.prompt, responses=(second.responses[0], first.responses[1]))
    found = []
    for batch in ([first, replace(second, weight=2.0)], [first, second, second]):
        reference = [-0.3 * torch.arange(one.tokens - len(one.prompt)).float() for one in batch]
        policy.model.zero_grad(set_to_none=True)
        found.append(unpaired.learn(policy, batch, reference, settings_of("dpo", loss=KTO)))
        found[-1]["gradient"] = float(policy.model.lm_head.weight.grad.abs().sum())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
    ratings: dict[str, str],
) -> tuple[Path, Rows]:
    folder = tmp_path_factory.mktemp("kto") / "kto"
    settings = settings_of("dpo", data=ratings["train"], dev=ratings["dev"], loss=KTO, epochs=3, samples=3)
    return folder, train("dpo", settings, folder)


def test_the_stage_learns_from_ratings(finished: tuple[Path, Rows]) -> None:
    folder, rows = finished
    steps = [row for row in rows if "grad_norm" in row]
    assert len(steps) == 12 and all(math.isfinite(row["loss"]) for row in steps)
    good = steps[0]["good"]  # at the reference each response costs half its weight
    assert steps[0]["loss"] == pytest.approx((good * GOOD_WEIGHT + (1 - good) * BAD_WEIGHT) / 2, abs=1e-5)
    train = read_facts(folder)["data"]["train"]
    assert (train["examples"], train["good"], train["bad"]) == (14, 5, 9)
    assert (folder / "reference.safetensors").exists() and (folder / "DONE").exists()


def test_dev_measures_by_another_path(
    finished: tuple[Path, Rows], model_folder: Path, ratings: dict[str, str]
) -> None:
    folder, rows = finished
    before, after = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (model_folder, folder / "model")
    )
    dev = with_mismatches(encoded(model_folder, ratings["dev"]))
    with torch.no_grad():
        reference = [
            torch.cat([sequence_logprobs(before, example.prompt, one) for one in example.responses])
            for example in dev
        ]
        ratios, mismatched = [], []
        for example, then in zip(dev, reference, strict=True):
            now = [sequence_logprobs(after, example.prompt, one).sum() for one in example.responses]
            count = len(example.responses[0].ids)
            ratios.append(float(now[0] - then[:count].sum()))
            mismatched.append(float(now[1] - then[count:].sum()))
        loss = plain_kto(after, dev, reference)
    point = max(0.0, sum(mismatched) / len(mismatched))
    right = [
        (ratio > point) if example.good else (ratio < point)
        for ratio, example in zip(ratios, dev, strict=True)
    ]
    (last,) = (row for row in rows if row["step"] == 12 and "dev_loss" in row)
    assert last["dev_loss"] == pytest.approx(loss.item(), abs=1e-5) and last["dev_n"] == 6
    assert last["dev_accuracy"] == pytest.approx(sum(right) / 6)
    for name, label in (("good", True), ("bad", False)):
        mine = [ratio for ratio, example in zip(ratios, dev, strict=True) if example.good is label]
        assert last[f"dev_{name}_logratio"] == pytest.approx(sum(mine) / len(mine), abs=1e-4)
    assert max(map(abs, ratios)) > 0.05


def test_prompts_are_answered_once_each(finished: tuple[Path, Rows]) -> None:
    folder, rows = finished
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len({row["prompt"] for row in samples}) == len(samples) == 3
    (kl,) = (row for row in rows if "dev_kl" in row)
    assert kl["dev_kl"] == pytest.approx(sum(row["kl"] for row in samples) / 3)


def test_a_mismatched_response_belongs_to_another_prompt(model_folder: Path, ratings: dict[str, str]) -> None:
    every = encoded(model_folder, ratings["train"])
    for index, example in enumerate(with_mismatches(every)):
        lender = every[(index // 2 * 2 + 2) % len(every)]  # two neighbours share a prompt
        assert lender.prompt != example.prompt
        assert example.responses[1] == lender.responses[0] and example.good is every[index].good


def test_one_prompt_alone_has_no_mismatch(model_folder: Path, ratings: dict[str, str]) -> None:
    with pytest.raises(DataError, match="responses to other prompts") as raised:
        with_mismatches(encoded(model_folder, ratings["train"])[:2])
    assert raised.value.found == "2 examples with the same prompt"


def test_other_losses_refuse_ratings(
    tmp_path: Path, ratings: dict[str, str], settings_of: Callable[..., Any], train: Callable[..., Rows]
) -> None:
    with pytest.raises(ConfigError, match="the loss ipo learns from pairs") as raised:
        train("dpo", settings_of("dpo", data=ratings["train"], dev=None, loss="ipo"), tmp_path / "ipo")
    assert raised.value.fix == "--set loss=kto"


def test_a_file_of_pairs_and_ratings_is_refused(
    tmp_path: Path,
    data: dict[str, str],
    ratings: dict[str, str],
    settings_of: Callable[..., Any],
    train: Callable[..., Rows],
) -> None:
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(Path(ratings["train"]).read_text() + Path(data["train"]).read_text())
    with pytest.raises(DataError) as raised:
        train("dpo", settings_of("dpo", data=str(mixed), dev=None, loss="kto"), tmp_path / "kto")
    assert raised.value.where.endswith("mixed.jsonl:15")


@pytest.mark.parametrize(
    ("good_from", "labels"), [(None, []), (4, [False, True, True]), (5, [False, False, True])]
)
def test_grades_become_labels(
    good_from: int | None, labels: list[bool], tmp_path: Path, model_folder: Path
) -> None:
    rows = [{"prompt": "a", "completion": "b", "grade": grade} for grade in (1, 4, 5)]
    rows.append({"prompt": "a", "completion": "c", "label": True})
    path = tmp_path / "graded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = encode_ratings(
        load_tokenizer(str(model_folder)),
        formats.usable(formats.read_ratings(path)),
        Limits(),
        good_from=good_from,
    )
    assert [example.good for example in found.examples] == [*labels, True]
    assert len(found.left_out) == 3 - len(labels)
    assert found.counts["good"] + found.counts["bad"] == len(labels) + 1
