"""What a reward run saves, read by others: transformers alone, its pipeline, and what vLLM computes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from tiny import tiny_gpt2, tiny_llama, tiny_qwen2, tiny_qwen3, tiny_tokenizer
from trimtab.judges.judge import Answer
from trimtab.judges.reward_model import RewardModel
from trimtab.model import bundles
from trimtab.model.device import Numerics
from trimtab.model.save import save_model
from trimtab.model.scalar import load_scorer, new_scorer
from trimtab.records import Message

CPU = Numerics(torch.device("cpu"), None)
BIAS = 0.75
ASKED = (Message("user", "Hello, how are you?"), Message("assistant", "Fine."), Message("user", "And now?"))
SMOLLM = "smollm2-135m-instruct"


def answers() -> list[Answer]:
    """60 of different lengths to one question."""
    draw = random.Random(3)
    words = [
        "the",
        "user",
        "asks",
        "there is nothing",
        "that I",
        "answer",
        "thank you",
        "fine",
        "7",
        "9",
        "!",
    ]
    texts = {" ".join(draw.choices(words, k=draw.randint(1, 14))) for _ in range(120)}
    return [Answer(ASKED, text) for text in sorted(texts)[:60]]


def exported(source: str, folder: Path) -> Path:
    """A reward model as a run saves it: a random head, and a bias."""
    scorer = new_scorer(source, CPU, torch.Generator().manual_seed(3), bytes_per_parameter=4)
    scorer.model.config.reward_bias = BIAS
    save_model(scorer.model, scorer.codec, folder)
    return folder


def rewards(folder: Path) -> list[float]:
    """As trimtab scores them: packed, the prompt once, the bias taken off."""
    found = RewardModel(load_scorer(str(folder), CPU, bytes_per_parameter=4)).score(answers())
    assert all(isinstance(reward, float) for reward in found)
    return [reward for reward in found if isinstance(reward, float)]


def up_to_the_stop_token(tokenizer: PreTrainedTokenizerFast, answer: Answer) -> str:
    """What others are to be given: the chat by the template, without what it writes after the stop token."""
    turns = [{"role": turn.role, "content": turn.content} for turn in ASKED]
    whole = tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": answer.text}], tokenize=False
    )
    before, stop, _ = str(whole).rpartition("<|im_end|>")
    return before + stop


def texts(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [up_to_the_stop_token(tokenizer, answer) for answer in answers()]


@torch.no_grad()
def by_transformers(folder: Path) -> list[float]:
    """Padded batches of the plain class."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = tokenizer(texts(tokenizer), padding=True, return_tensors="pt", add_special_tokens=False)
    assert (batch["attention_mask"] == 0).any()
    kept = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found: list[float] = model(**kept).logits[:, 0].tolist()
    return found


def by_pipeline(folder: Path) -> list[float]:
    """With its defaults: no activation is asked for or refused."""
    classify = pipeline("text-classification", model=str(folder), tokenizer=str(folder), device="cpu")
    found = classify(texts(classify.tokenizer), add_special_tokens=False)
    assert {one["label"] for one in found} == {"reward"}
    return [one["score"] for one in found]


@torch.no_grad()
def as_vllm(folder: Path) -> list[float]:
    """The steps of vLLM's adapter for sequence classifiers, whose head is one `score` without a bias.

    The last token's hidden state, the head in float32, and no activation where problem_type is regression.
    """
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "regression"
    tokenizer, backbone = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    head = load_file(folder / "model.safetensors")["score.weight"].float()
    found = []
    for text in texts(tokenizer):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        found.append(float(head @ backbone(input_ids=ids).last_hidden_state[0, -1].float()))
    return found


def require_alike(own: list[float], others: list[float]) -> None:
    """Equal up to the bias, and 50 answers that are not all but tied in the same order."""
    assert others == pytest.approx([reward + BIAS for reward in own], abs=1e-4)
    order: list[int] = []
    for place in sorted(range(len(own)), key=lambda place: own[place]):
        if not order or own[place] - own[order[-1]] > 1e-4:
            order.append(place)
    assert len(order) >= 50
    assert order == sorted(order, key=lambda place: others[place])


@pytest.fixture(scope="module", params=[tiny_llama, tiny_qwen2, tiny_qwen3, tiny_gpt2])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    build: Callable[[], PreTrainedModel] = request.param
    place = tmp_path_factory.mktemp("export")
    build().save_pretrained(place / "policy")
    tiny_tokenizer().save_pretrained(place / "policy")
    return exported(str(place / "policy"), place / "reward")


@pytest.mark.parametrize("read", [by_transformers, by_pipeline, as_vllm])
def test_others_rank_alike(folder: Path, read: Callable[[Path], list[float]]) -> None:
    require_alike(rewards(folder), read(folder))


def test_what_the_template_writes_after_the_stop_token_would_be_scored(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    text = up_to_the_stop_token(tokenizer, answers()[0])
    both = [
        model(**tokenizer(one, return_tensors="pt", return_token_type_ids=False)).logits
        for one in (text, text + "\n")
    ]
    assert abs(float((both[0] - both[1]).detach())) > 1e-3


def test_the_config_says_what_others_go_by(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert config["id2label"] == {"0": "reward"} and config["label2id"] == {"reward": 0}
    assert config["pad_token_id"] == 0, "not the stop token, whose place is the score's"
    assert config["reward_bias"] == BIAS
    weights = load_file(folder / "model.safetensors")
    assert weights["score.weight"].shape == (1, 32)
    assert "score.bias" not in weights and not [name for name in weights if "lm_head" in name]
    assert AutoTokenizer.from_pretrained(folder).padding_side == "right", "GPT-2's positions begin at 0"


@pytest.mark.slow
@pytest.mark.parametrize("read", [by_transformers, by_pipeline, as_vllm])
def test_others_rank_smollm2_alike(
    tmp_path_factory: pytest.TempPathFactory, read: Callable[[Path], list[float]]
) -> None:
    if not bundles.location(SMOLLM).is_dir():
        bundles.get(SMOLLM)
    place = exported(SMOLLM, tmp_path_factory.mktemp("smollm2") / "reward")
    require_alike(rewards(place), read(place))
