"""Others' classifiers: each text gets the score that transformers gives it alone, or a reason."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tiny import VOCABULARY, tiny_tokenizer
from trimtab.errors import ModelError
from trimtab.judges.judge import Answer, Scored, Unreadable
from trimtab.judges.named import load_judge
from trimtab.judges.reward_model import PaddedRewardModel
from trimtab.model.device import Numerics
from trimtab.records import Message

CPU = Numerics(torch.device("cpu"), None)
HALF = Numerics(torch.device("cpu"), torch.bfloat16)
TALK = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?"))
ANSWERS = [
    Answer("Name a prime.", "7"),
    Answer((*TALK, Message("user", "Name a prime.")), "A longer answer: 11 and 13 are primes, 15 is none."),
    Answer("Name a prime.", "8"),
    Answer((Message("user", "Name a prime."),), "7"),
]


def wide(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights every time, so wide that a mistake anywhere changes the score."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


def qwen2(**changes: object) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    given = {"vocab_size": VOCABULARY, **sizes, "num_key_value_heads": 2, "num_labels": 1, **changes}
    return wide(Qwen2ForSequenceClassification(Qwen2Config(**given)))


def small(kind: str, vocabulary: int) -> PreTrainedModel:
    """Without a pad token; the two kinds look for the last token in code of their own."""
    shared = {"vocab_size": vocabulary, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "num_labels": 1}
        return wide(GPT2ForSequenceClassification(GPT2Config(**shared, **sizes)))
    config = Qwen3Config(
        **shared, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_labels=1,
    )  # fmt: skip
    return wide(Qwen3ForSequenceClassification(config))


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, numerics: Numerics = CPU) -> PaddedRewardModel:
    judge = load_judge((str(folder),), numerics)
    assert isinstance(judge, PaddedRewardModel) and judge.name == str(folder)
    return judge


def numbers(found: Sequence[Scored]) -> list[float]:
    assert not any(isinstance(one, Unreadable) for one in found)
    return [float(one) for one in found if not isinstance(one, Unreadable)]


def reasons(found: Sequence[Scored]) -> list[str]:
    return [one.reason if isinstance(one, Unreadable) else "" for one in found]


def by_transformers(folder: Path, **fields: torch.Tensor) -> float:
    """One text alone, with the config as it is stored."""
    with torch.no_grad():
        logits = (
            AutoModelForSequenceClassification.from_pretrained(folder).eval()(**fields).logits[0].tolist()
        )
    return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])


def chat(answer: Answer) -> list[dict[str, str]]:
    prompt = (Message("user", answer.prompt),) if isinstance(answer.prompt, str) else answer.prompt
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
    return [*turns, {"role": "assistant", "content": answer.text}]


BREAK = tiny_tokenizer()("\n", add_special_tokens=False)["input_ids"][0]  # with which the template ends


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("pad", [None, 0, 5, BREAK, -1])
def test_a_decoder_reads_the_whole_chat_whatever_stands_beside_it(
    pad: int | None, labels: int, tmp_path: Path
) -> None:
    model = qwen2(num_labels=labels)
    model.config.pad_token_id = pad
    tokenizer = tiny_tokenizer()
    folder = saved(model, tokenizer, tmp_path / "model")
    judge = loaded(folder)
    found = numbers(judge.score(ANSWERS))
    for answer, score in zip(ANSWERS, found, strict=True):
        encoded = tokenizer.apply_chat_template(chat(answer), return_dict=True, return_tensors="pt")
        ids = encoded["input_ids"]
        assert judge.classifier.encode(answer.prompt, answer.text)["input_ids"] == ids[0].tolist()
        assert score == pytest.approx(by_transformers(folder, input_ids=ids), abs=1e-5)
    assert found[0] == pytest.approx(found[3], abs=1e-6), "plain text is a user's turn"
    assert len({round(score, 4) for score in found}) == 3
    assert judge.classifier.model.config.pad_token_id == pad


def one_token_a_word(*vocabulary: str, unknown: str) -> Tokenizer:
    numbered = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(numbered, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def words(*vocabulary: str) -> PreTrainedTokenizerFast:
    """One token a word, without a pad token."""
    tokenizer = one_token_a_word(*vocabulary, unknown="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_without_a_pad_token_no_real_token_is_taken_for_one(kind: str, spare: int, tmp_path: Path) -> None:
    tokenizer = words("!", "<unk>", "good", "bad", "prompt")
    folder = saved(small(kind, 5 + spare), tokenizer, tmp_path / "model")
    texts = ["good !", "good", "bad bad good !", "what else"]
    found = numbers(loaded(folder).score([Answer("prompt", text) for text in texts]))
    for text, score in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer(f"prompt {text}")["input_ids"]])
        assert score == pytest.approx(by_transformers(folder, input_ids=ids), abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-3


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """An encoder whose tokenizer says which tokens belong to the second text."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    tokenizer = one_token_a_word(*special, "name", "a", "prime", "seven", unknown="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    return saved(wide(BertForSequenceClassification(config)), fast, tmp_path / "bert")


def test_a_pair_has_its_token_types(typed: Path) -> None:
    answers = [Answer("name a prime", "seven"), Answer("name a prime", "a prime seven prime")]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(typed)
    for answer, score in zip(answers, numbers(loaded(typed).score(answers)), strict=True):
        encoded = tokenizer(str(answer.prompt), answer.text, return_tensors="pt")
        assert encoded["token_type_ids"].unique().tolist() == [0, 1]
        assert score == pytest.approx(by_transformers(typed, **encoded), abs=1e-5)
        without = by_transformers(typed, input_ids=encoded["input_ids"])
        assert abs(score - without) > 1e-3


def test_a_text_that_spells_a_control_token_is_not_read(typed: Path) -> None:
    answers = [
        Answer("name a prime", "seven"),
        Answer("name a prime", "seven [SEP] a"),
        Answer("name [CLS]", "seven"),
        Answer((Message("user", "a [SEP]"),), "seven"),
    ]
    found = loaded(typed).score(answers)
    assert reasons(found) == ["", *(f"the text holds the model's control token '{token}'" for token in
                                    ("[SEP]", "[CLS]", "[SEP]"))]  # fmt: skip
    assert found[0] == pytest.approx(loaded(typed).score(answers[:1])[0], abs=1e-6)


def test_a_token_that_only_the_template_writes_is_one_too(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<turn>", "prime"])
    tokenizer.chat_template = "{% for m in messages %}<turn>{{ m.content }}{% endfor %}"
    judge = loaded(saved(qwen2(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model"))
    found = judge.score([Answer("q", "a <turn>no"), Answer("q", "a prime")])
    assert reasons(found) == ["the text holds the model's control token '<turn>'", ""]


def test_a_chat_that_the_template_refuses_is_not_read(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    found = loaded(saved(qwen2(), tokenizer, tmp_path / "model")).score(ANSWERS)
    assert reasons(found) == ["", "the chat template refuses it: No system role", "", ""]


def test_nothing_is_nothing_to_read(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }}"
    found = loaded(saved(qwen2(), tokenizer, tmp_path / "model")).score([Answer("q", ""), Answer("q", "x")])
    assert reasons(found) == ["there is no token of it to read", ""]


def test_a_text_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    """RoBERTa's positions begin after the row of its padding: of 34 there are 32 for tokens."""
    config = RobertaConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=34, num_labels=1, pad_token_id=1,
    )  # fmt: skip
    tokenizer = words("<unk>", "pad", "x", "y")
    folder = saved(wide(RobertaForSequenceClassification(config)), tokenizer, tmp_path / "roberta")
    judge = loaded(folder)
    assert judge.classifier.longest == 32
    fits, long = Answer("x " * 20, "y " * 12), Answer("x " * 20, "y " * 13)
    found = judge.score([fits, long])
    assert reasons(found) == ["", "prompt and response have 33 tokens together, more than the 32 that this "
                              "judge reads"]  # fmt: skip
    ids = torch.tensor([[2] * 20 + [3] * 12])
    assert numbers(found[:1])[0] == pytest.approx(by_transformers(folder, input_ids=ids), abs=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_close_scores_stay_apart_in_bfloat16(kind: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = qwen2(num_labels=2)
    if kind == "encoder":
        tokenizer.chat_template = None
        config = BertConfig(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64,
        )  # fmt: skip
        model = wide(BertForSequenceClassification(config))
    folder = saved(model, tokenizer, tmp_path / "model")
    answers = [Answer("Say a number.", f"the number {number}") for number in range(100)]
    exact, found = numbers(loaded(folder).score(answers)), numbers(loaded(folder, HALF).score(answers))
    assert found != exact, "bfloat16 is used"
    assert found == pytest.approx(exact, abs=0.2)
    ties = sum(a == b for a, b in itertools.combinations(found, 2))
    assert ties <= 3


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_score_that_is_not_finite_ends_it(broken: float, tmp_path: Path) -> None:
    model = qwen2()
    with torch.no_grad():
        model.score.weight[0, 0] = broken
    judge = loaded(saved(model, tiny_tokenizer(), tmp_path / "model"))
    with pytest.raises(ModelError, match="a score that is not finite") as caught:
        judge.score(ANSWERS)
    assert caught.value.where == judge.name and caught.value.fix
    assert "for the answer '7'" in caught.value.found
