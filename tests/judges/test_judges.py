"""Every kind of scoring judge against transformers' own forward pass or plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from tiny import tiny_llama, tiny_tokenizer
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.judges.ensemble import Ensemble
from trimtab.judges.function import load_function
from trimtab.judges.implicit import ImplicitReward
from trimtab.judges.judge import Answer, Scored, Unreadable
from trimtab.judges.named import load_judge
from trimtab.judges.reward_model import PaddedRewardModel, RewardModel
from trimtab.model.classifier import load_classifier
from trimtab.model.device import Numerics
from trimtab.model.policy import load_policy
from trimtab.records import Message

CPU = Numerics(torch.device("cpu"), None)
ANSWERS = [
    Answer("say", "aaa bb"),
    Answer("say", "c"),
    Answer("another, longer prompt", "dd eeee f", stopped=False),
    Answer("say", "aaa bb"),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with two labels, which trimtab cannot pack."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three labels, of which no score can be made."""
    folder = tmp_path_factory.mktemp("labels")
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=3,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    tiny_llama(seed=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def scores_of(found: Sequence[Scored]) -> list[float]:
    assert not any(isinstance(one, Unreadable) for one in found)
    return [float(one) for one in found if not isinstance(one, Unreadable)]


def test_a_padded_classifier_gives_each_text_what_it_gets_alone(bert: Path) -> None:
    judge = load_judge((str(bert),), CPU)
    assert isinstance(judge, PaddedRewardModel) and judge.name == str(bert)
    found = scores_of(judge.score(ANSWERS))
    tokenizer = tiny_tokenizer()
    model = BertForSequenceClassification.from_pretrained(bert).eval()
    for answer, score in zip(ANSWERS, found, strict=True):
        with torch.no_grad():
            ids = tokenizer(str(answer.prompt), answer.text, return_tensors="pt")["input_ids"]
            bad, good = model(input_ids=ids).logits[0].tolist()
        assert score == pytest.approx(good - bad, abs=1e-5)
    assert len({round(score, 6) for score in found}) == 3


def test_a_text_longer_than_the_model_loses_the_beginning_of_its_prompt(bert: Path) -> None:
    classifier = load_classifier(str(bert), CPU)
    assert classifier.longest == 64
    prompt, response = "x" * 200, "the answer"
    ids = classifier.ids(prompt, response)
    end = classifier.tokenizer(response, add_special_tokens=False)["input_ids"]
    assert len(ids) == 64 and ids[-len(end) :] == end
    assert len(classifier.ids(prompt, "y" * 200)) == 64


def test_a_chat_template_is_used_where_there_is_one(bert: Path) -> None:
    classifier = load_classifier(str(bert), CPU)
    classifier.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    ids = classifier.ids((Message("user", "hi"),), "yo")
    assert ids == classifier.tokenizer("user=hi;assistant=yo;", add_special_tokens=False)["input_ids"]


def test_three_labels_are_no_score(labels: Path) -> None:
    with pytest.raises(ModelError, match="neither a score nor a choice of two") as caught:
        load_classifier(str(labels), CPU)
    assert caught.value.found == "3 labels"


def test_the_implicit_reward_is_beta_times_the_log_ratio(model_folder: Path, other_folder: Path) -> None:
    policy, reference = (
        load_policy(str(one), CPU, bytes_per_parameter=4) for one in (model_folder, other_folder)
    )
    found = scores_of(ImplicitReward(policy, reference, beta=0.3).score(ANSWERS))

    def logprob(folder: Path, answer: Answer) -> float:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        prompt = policy.codec.encode_prompt(answer.prompt, 99)[0]
        response = policy.codec.encode_response(answer.prompt, answer.text, 99, stopped=answer.stopped).ids
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
        return sum(float(logits[place, token]) for place, token in zip(places, response, strict=True))

    for answer, reward in zip(ANSWERS, found, strict=True):
        expected = 0.3 * (logprob(model_folder, answer) - logprob(other_folder, answer))
        assert reward == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_implicit_reward_is_named_with_its_reference(model_folder: Path, other_folder: Path) -> None:
    judge = load_judge((f"implicit:{model_folder},{other_folder}",), CPU)
    assert isinstance(judge, ImplicitReward) and judge.beta == 1.0
    assert judge.name == f"implicit:{model_folder},{other_folder}"
    with pytest.raises(ConfigError, match="needs the model that the policy was trained from"):
        load_judge((f"implicit:{model_folder}",), CPU)


def test_what_cannot_be_read_is_told_and_moves_no_other_score(model_folder: Path, other_folder: Path) -> None:
    judge = load_judge((f"implicit:{model_folder},{other_folder}",), CPU)
    broken = Answer("say", "a <|im_end|> b")
    found = judge.score([ANSWERS[0], broken, *ANSWERS[1:]])
    assert isinstance(found[1], Unreadable) and "control token" in found[1].reason
    assert [found[0], *found[2:]] == pytest.approx(judge.score(ANSWERS))
    assert judge.score([]) == []


@dataclass(frozen=True)
class Fixed:
    """A judge with given scores."""

    values: tuple[Scored, ...]
    name: str = "fixed"

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        return list(self.values)


def test_an_ensemble_means_scores_of_one_scale() -> None:
    small, large = Fixed((1.0, 2.0, 3.0, 6.0)), Fixed((-100.0, 300.0, 100.0, 500.0), name="large")
    both = Ensemble((small, large))
    # Deviations from the mean over the standard deviation: sqrt(3.5) and 100 sqrt(5).
    first = [(value - 3) / 3.5**0.5 for value in (1, 2, 3, 6)]
    second = [(value - 200) / (100 * 5**0.5) for value in (-100, 300, 100, 500)]
    expected = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert both.score(ANSWERS) == pytest.approx(expected, rel=1e-12)
    assert both.name == "fixed + large"
    assert both.opinions[ANSWERS[1]] == (2.0, 300.0)


def test_the_first_answers_set_the_scale_for_all_later_ones() -> None:
    moods = [(1.0, 2.0, 3.0, 6.0), (5.0,)]

    @dataclass
    class Moody:
        name: str = "moody"
        asked: int = -1

        def score(self, answers: Sequence[Answer]) -> list[Scored]:
            self.asked += 1
            return list(moods[self.asked])

    both = Ensemble((Moody(), Moody()))
    both.score(ANSWERS)
    assert both.score(ANSWERS[:1]) == [pytest.approx((5 - 3) / 3.5**0.5)]


def test_a_member_without_an_opinion_has_no_say_and_one_that_cannot_read_is_heard() -> None:
    reason = Unreadable("too long")
    found = Ensemble((Fixed((1.0, 1.0, 1.0, 1.0)), Fixed((0.0, reason, 2.0, 4.0)))).score(ANSWERS)
    spread = (8 / 3) ** 0.5
    assert found[1] is reason
    assert [found[0], *found[2:]] == pytest.approx([-1 / spread, 0.0, 1 / spread], rel=1e-12)
    assert Ensemble((Fixed((reason,)), Fixed((1.0,)))).score(ANSWERS[:1]) == [reason]


def test_a_function_is_called_once_an_answer_with_readable_text(tmp_path: Path) -> None:
    file = tmp_path / "taste.py"
    file.write_text("def length(prompt, response):\n    return len(response) - 10 * prompt.count('user: ')\n")
    judge = load_judge((f"python:{file}:length",), CPU)
    chat = Answer((Message("user", "hi"),), "four")
    assert judge.score([Answer("hi", "four"), chat]) == [4.0, -6.0]
    assert judge.name == f"python:{file}:length"


@pytest.mark.parametrize(
    ("body", "message"),
    [("return 1 / 0", "the scoring function failed"), ("return float('nan')", "gave no finite number")],
)
def test_a_function_that_fails_ends_it(body: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "taste.py"
    file.write_text(f"def f(prompt, response):\n    {body}\n")
    with pytest.raises(DataError, match=message) as caught:
        load_function(f"{file}:f").score([Answer("p", "the answer")])
    assert "the answer" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "is named with its module"),
        ("no_such_module_here:f", "cannot be imported"),
        ("math:no_such", "there is no such function"),
    ],
)
def test_a_function_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_function(name)


def test_no_judge_and_several(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no judge is named"):
        load_judge((), CPU)
    file = tmp_path / "taste.py"
    file.write_text("def f(prompt, response):\n    return len(response)\n")
    judge = load_judge((f"python:{file}:f", f"python:{file}:f"), CPU)
    assert isinstance(judge, Ensemble)


def test_neighbours_with_one_prompt_share_its_computation(model_folder: Path, tmp_path: Path) -> None:
    from trimtab.model.save import save_model
    from trimtab.model.scalar import new_scorer

    scorer = new_scorer(str(model_folder), CPU, torch.Generator().manual_seed(3), bytes_per_parameter=4)
    save_model(scorer.model, scorer.codec, tmp_path / "judge")
    judge = load_judge((str(tmp_path / "judge"),), CPU)
    assert isinstance(judge, RewardModel)
    together = judge.score(ANSWERS)
    assert together == pytest.approx([judge.score([answer])[0] for answer in ANSWERS], abs=1e-5)
    assert len({round(score, 5) for score in scores_of(together)}) == 3
