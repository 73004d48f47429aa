"""Models on demonstrations: likelihoods against transformers' own, changes, one message each."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tiny import tiny_llama, tiny_tokenizer
from trimtab import formats
from trimtab.data.tokens import Example, Limits, encode_demonstrations
from trimtab.errors import DataError, ModelError
from trimtab.evaluation import demonstration_results as results
from trimtab.evaluation import demonstrations
from trimtab.evaluation.settings import DemonstrationSettings
from trimtab.model.load import load_tokenizer
from trimtab.records import Demonstration

ROWS = [
    Demonstration(prompt="one", response="a b c"),
    Demonstration(prompt="two two", response="d"),
    Demonstration(prompt="three", response="the same words"),
]
PASSAGES = ("the first passage\nof two lines", "another one", "and a third")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    tiny_llama(seed=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    data, text = tmp_path / "shown.jsonl", tmp_path / "plain.txt"
    formats.write_demonstrations(data, ROWS)
    text.write_text("\n\n".join(PASSAGES) + "\n\n\n", encoding="utf-8")
    return {"data": str(data), "text": str(text)}


def settings(files: dict[str, str], *models: Path, **changes: object) -> DemonstrationSettings:
    given = {"device": "cpu", "precision": "float32", "max_response": 6, **files, **changes}
    return DemonstrationSettings.model_validate({"models": [str(one) for one in models], **given})


def nats(folder: Path, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """-log p of the response, by a plain forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return -sum(float(logits[place, token]) for place, token in zip(places, response, strict=True))


def test_likelihoods_are_those_of_a_plain_forward_pass(
    model_folder: Path, other_folder: Path, files: dict[str, str]
) -> None:
    first, second = demonstrations.evaluate(settings(files, model_folder, other_folder), None)
    codec = load_tokenizer(str(model_folder))
    rows = formats.usable(formats.read_demonstrations(files["data"]))
    shown = encode_demonstrations(codec, rows, Limits(512, 6)).examples
    totals = {
        folder: [nats(folder, one.prompt, one.responses[0].ids) for one in shown]
        for folder in (model_folder, other_folder)
    }
    tokens = sum(len(one.responses[0].ids) for one in shown)
    for found, folder in ((first, model_folder), (second, other_folder)):
        expected = sum(totals[folder]) / tokens
        assert found.demonstrations.mean.estimate == pytest.approx(expected, rel=1e-5)
        assert found.demonstrations.perplexity == pytest.approx(math.exp(expected), rel=1e-4)
    assert first.demonstrations.change is None and second.demonstrations.change is not None
    change = (sum(totals[other_folder]) - sum(totals[model_folder])) / tokens
    assert second.demonstrations.change.estimate == pytest.approx(change, rel=1e-3)

    texts = [tuple(codec.tokenizer(passage)["input_ids"]) for passage in PASSAGES]
    expected = sum(nats(model_folder, ids[:1], ids[1:]) for ids in texts) / sum(len(ids) - 1 for ids in texts)
    assert first.text is not None and first.text.mean.estimate == pytest.approx(expected, rel=1e-5)


def test_answers_are_the_likeliest_tokens_and_scored_against_the_reference(
    model_folder: Path, other_folder: Path, files: dict[str, str]
) -> None:
    first, second = demonstrations.evaluate(settings(files, model_folder, other_folder, text=None), None)
    assert [row.example.reference for row in first.answers] == [row.response for row in ROWS]
    again = demonstrations.evaluate(settings(files, model_folder, other_folder, text=None, seed=3), None)
    assert [row.example.answer for row in again[0].answers] == [row.example.answer for row in first.answers]
    assert first.text is None and first.changes == () and len(second.changes) == len(first.closeness)
    for before, after, change in zip(first.closeness, second.closeness, second.changes, strict=True):
        if before.mean and after.mean and change.difference:
            gap = after.mean.estimate - before.mean.estimate
            assert change.difference.estimate == pytest.approx(gap, abs=1e-12)


def test_the_files_hold_every_answer_and_no_nan(
    model_folder: Path, files: dict[str, str], tmp_path: Path
) -> None:
    given = settings(files, model_folder)
    found = demonstrations.evaluate(given, lambda texts: np.ones((len(texts), 2)))
    results.write_demonstrations(tmp_path / "out", given, found)
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [line["reference"] for line in lines] == [row.response for row in ROWS]
    assert all(line["embedding"] == pytest.approx(1.0) for line in lines)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["models"][0]["text"]["mean"]["n"] == 3 and "answers" not in summary["models"][0]
    assert [row[0] for row in results.closeness_rows(found)[1:]] == [
        one.name for one in found[0].closeness if one.name not in ("numbers", "keywords")
    ]
    assert results.likelihood_rows(found)[1][0] == str(model_folder)


def test_models_with_other_tokens_are_not_compared(
    model_folder: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    tiny_llama(seed=1).save_pretrained(tmp_path / "else")
    tokenizer.save_pretrained(tmp_path / "else")
    with pytest.raises(ModelError, match="nats per token of different tokenizers"):
        demonstrations.evaluate(settings(files, model_folder, tmp_path / "else"), None)


@pytest.mark.parametrize(
    ("text", "message"), [("only one passage", "at least two passages"), (None, "the text cannot be read")]
)
def test_text_that_cannot_be_used(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        demonstrations.read_passages(path)


def test_one_demonstration_is_refused_before_any_model_is_read(tmp_path: Path) -> None:
    data = tmp_path / "shown.jsonl"
    formats.write_demonstrations(data, ROWS)
    given = settings({"data": str(data)}, tmp_path / "no-model-here", count=1)
    with pytest.raises(DataError, match="an interval needs at least two demonstrations") as caught:
        demonstrations.evaluate(given, None)
    assert str(caught.value).startswith(str(data)) and caught.value.found == "1"


def test_passages_of_one_token_are_left_out_and_counted(
    model_folder: Path, files: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "plain.txt"
    path.write_text("\n\n".join(["a", *PASSAGES, "b"]), encoding="utf-8")
    codec = load_tokenizer(str(model_folder))
    assert [len(codec.tokenizer(one)["input_ids"]) for one in "ab"] == [1, 1]
    (plain,) = demonstrations.evaluate(settings(files, model_folder, text=None), None)
    (found,) = demonstrations.evaluate(settings(files, model_folder), None)
    assert (plain.passages_left_out, found.passages_left_out) == (0, 2)
    assert found.text is not None and found.text.mean.n == 3
    given = settings(files, model_folder)
    assert results.text_note(given, (found,)) == (
        f"{path}: 2 passages of one token are left out: a first token is not foretold."
    )
    assert results.text_note(given, (plain,)) == ""
    assert json.loads(results.demonstrations_json(given, (found,)))["models"][0]["passages_left_out"] == 2
    path.write_text("a\n\nsome words here\n\nb", encoding="utf-8")
    with pytest.raises(DataError, match="at least two passages of two tokens or more") as caught:
        demonstrations.evaluate(given, None)
    assert caught.value.where == str(path) and caught.value.found == "1, and 2 of one token"


def test_keywords_of_the_rows_are_looked_for_in_the_answers(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        demonstrations, "answer", lambda policy, examples, *rest, **named: [Said(one) for one in examples]
    )
    data = tmp_path / "shown.jsonl"
    lines = [
        {"prompt": "p", "completion": "the same words", "keywords": ["words", "others"]},
        {"instruction": "p", "output": "d", "keywords": ["d"]},
        {"prompt": "p", "completion": "a"},
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = demonstrations.evaluate(settings({"data": str(data)}, model_folder, max_response=20), None)
    assert [row.scores["keywords"] for row in found[0].answers] == [0.5, 1.0, None]
    (shown,) = (row for row in results.closeness_rows(found) if row[0] == "keywords")
    assert shown[2].startswith("0.750 [")


class Said:
    """A rollout that repeats what a person wrote."""

    def __init__(self, example: Example) -> None:
        self.response = example.responses[0]


def test_without_keywords_there_is_no_row_of_them(model_folder: Path, files: dict[str, str]) -> None:
    found = demonstrations.evaluate(settings(files, model_folder, text=None), None)
    names = [row[0] for row in results.closeness_rows(found)]
    assert "keywords" not in names and "numbers" not in names  # people's answers hold no number either
    assert names == ["score", "rouge_l", "chrf", "exact", "normalised"]


def test_a_row_that_cannot_be_used_stops_it(model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "shown.jsonl"
    formats.write_demonstrations(data, [*ROWS, Demonstration(prompt="p", response="a <|im_end|> b")])
    with pytest.raises(DataError, match="a demonstration cannot be used") as caught:
        demonstrations.evaluate(settings({"data": str(data)}, model_folder), None)
    assert "shown.jsonl:4" in str(caught.value) and "control token" in str(caught.value)
