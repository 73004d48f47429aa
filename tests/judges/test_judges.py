"""Every kind of scoring judge against transformers' own forward pass or plain arithmetic."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
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
from trimtab.model.save import save_model
from trimtab.model.scalar import Scorer, new_scorer
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


def run_folder(
    folder: Path, *, stage: str, model: Path, settings: dict[str, Any], trained_on: dict[str, int]
) -> Path:
    """What judges read of a finished run: its settings, its facts, its model."""
    folder.mkdir()
    (folder / "model").symlink_to(model)
    (folder / "config.yaml").write_text(json.dumps(settings))  # which is YAML, too
    (folder / "run.json").write_text(json.dumps({"stage": stage, "data": {"train": trained_on}}))
    (folder / "DONE").write_text("now")
    return folder


@pytest.fixture(scope="module")
def dpo_run(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, other_folder: Path) -> Path:
    return run_folder(
        tmp_path_factory.mktemp("runs") / "dpo",
        stage="dpo",
        model=model_folder,
        settings={"model": str(other_folder), "loss": {"name": "dpo", "beta": 0.3}},
        trained_on={},
    )


def test_a_dpo_run_knows_its_reference_and_its_beta(
    dpo_run: Path, model_folder: Path, other_folder: Path
) -> None:
    judge = load_judge((f"implicit:{dpo_run}",), CPU)
    assert isinstance(judge, ImplicitReward)
    assert judge.name == f"implicit:{dpo_run},{other_folder}" and judge.beta == 0.3
    plain = load_judge((f"implicit:{model_folder},{other_folder}",), CPU)
    expected = [0.3 * one for one in scores_of(plain.score(ANSWERS))]
    assert judge.score(ANSWERS) == pytest.approx(expected, rel=1e-5)
    assert len({round(one, 4) for one in expected}) == 3
    itself = load_judge((f"implicit:{dpo_run},{model_folder}",), CPU)
    assert isinstance(itself, ImplicitReward) and itself.beta == 0.3
    assert itself.score(ANSWERS[:1]) == [pytest.approx(0, abs=1e-6)]


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
    nats: bool = True

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


@dataclass
class Moody:
    """A judge with other scores each time."""

    moods: tuple[tuple[Scored, ...], ...]
    name: str = "moody"
    nats: bool = True
    asked: int = -1

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        self.asked += 1
        return list(self.moods[self.asked])


def test_the_first_answers_set_the_scale_for_all_later_ones() -> None:
    moods = ((1.0, 2.0, 3.0, 6.0), (5.0,))
    both = Ensemble((Moody(moods), Moody(moods)))
    both.score(ANSWERS)
    assert both.score(ANSWERS[:1]) == [pytest.approx((5 - 3) / 3.5**0.5)]


def test_a_member_has_no_scale_before_its_scores_differ() -> None:
    steady = Moody(((0.0, 1.0, 2.0), (0.0, 1.0, 2.0), (2.0, 1.0, 0.0)))
    # The deviation of three times 0.1 is not 0 in floating point.
    late = Moody(((0.1, 0.1, 0.1), (1e6, 2e6, 3e6), (3e6, 2e6, 1e6)))
    both, spread = Ensemble((steady, late)), (2 / 3) ** 0.5
    found = [both.score(ANSWERS[:3]) for _ in range(3)]
    assert found[0] == pytest.approx([-0.5 / spread, 0, 0.5 / spread]), "the second has no say yet"
    assert found[1] == pytest.approx([-1 / spread, 0, 1 / spread])
    assert found[2] == pytest.approx([1 / spread, 0, -1 / spread]), "and both keep their scales"


def test_answers_that_nobody_read_set_no_scale() -> None:
    unread = Unreadable("no")
    both = Ensemble((Moody(((unread, unread), (2.0, 4.0))), Fixed((1.0, 5.0))))
    assert both.score(ANSWERS[:2]) == [unread, unread]
    assert both.score(ANSWERS[:2]) == [-1.0, 1.0]


def test_calibration_can_be_asked_of_models_and_of_nothing_else(
    model_folder: Path, other_folder: Path, bert: Path, scorer: Scorer
) -> None:
    assert load_judge((f"implicit:{model_folder},{other_folder}",), CPU).nats
    assert load_judge((str(bert),), CPU).nats and RewardModel(scorer).nats
    assert not Ensemble((Fixed((1.0,)), Fixed((1.0,)))).nats
    assert not load_function("math:pow").nats


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


def test_a_function_may_use_a_dataclass_with_postponed_annotations(tmp_path: Path) -> None:
    file = tmp_path / "json.py"  # by its name it must not be taken for the library's
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Weights:\n    each: float = 2.0\n\n\n"
        "def f(prompt, response):\n    return Weights().each * len(response)\n"
    )
    assert load_function(f"{file}:f").score([Answer("p", "four")]) == [8.0]
    assert sys.modules["json"] is json


def test_a_file_that_cannot_be_imported_leaves_nothing_behind(tmp_path: Path) -> None:
    file, before = tmp_path / "broken.py", set(sys.modules)
    file.write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_function(f"{file}:f")
    assert set(sys.modules) == before


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


def test_a_language_model_gives_no_scores() -> None:
    with pytest.raises(ConfigError, match="gives verdicts, not scores") as caught:
        load_judge(("python:math:pow", "llm:judge.yaml"), CPU)
    assert caught.value.where == "llm:judge.yaml"


def test_no_judge_and_several(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no judge is named"):
        load_judge((), CPU)
    file = tmp_path / "taste.py"
    file.write_text("def f(prompt, response):\n    return len(response)\n")
    judge = load_judge((f"python:{file}:f", f"python:{file}:f"), CPU)
    assert isinstance(judge, Ensemble)


@pytest.fixture(scope="module")
def scorer(model_folder: Path) -> Scorer:
    """As the reward stage leaves it, with what is taken off every score."""
    found = new_scorer(str(model_folder), CPU, torch.Generator().manual_seed(3), bytes_per_parameter=4)
    found.model.config.reward_bias = 0.25
    return found


@pytest.fixture(scope="module")
def own(scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge") / "model"
    save_model(scorer.model, scorer.codec, folder)
    return folder


def test_neighbours_with_one_prompt_share_its_computation(own: Path) -> None:
    judge = load_judge((str(own),), CPU)
    assert isinstance(judge, RewardModel)
    together = judge.score(ANSWERS)
    assert together == pytest.approx([judge.score([answer])[0] for answer in ANSWERS], abs=1e-5)
    assert len({round(score, 5) for score in scores_of(together)}) == 3


def test_without_trimtabs_mark_a_reward_model_is_somebody_elses(own: Path, tmp_path: Path) -> None:
    for file in own.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("reward_bias") == 0.25
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(load_judge((str(tmp_path),), CPU), PaddedRewardModel)


QUESTION = "Name a prime."


def read_by(scorer: Scorer, text: str, response: str) -> float:
    """The score at the stop token of these very texts, by transformers' own backbone."""
    tokenizer = scorer.codec.tokenizer
    ids = tokenizer(text + response + "<|im_end|>", add_special_tokens=False)["input_ids"]
    backbone = LlamaModel.from_pretrained(scorer.source, dtype=torch.float32).eval()
    with torch.no_grad():
        states = backbone(torch.tensor([ids])).last_hidden_state
    return float(states[0, -1] @ scorer.model.score.weight[0].detach()) - 0.25


@pytest.mark.parametrize("trained_on", [{}, {"chats": 0}, {"chats": 5}])
def test_a_question_is_a_users_turn_unless_the_model_has_only_read_text(
    trained_on: dict[str, int], own: Path, scorer: Scorer, tmp_path: Path
) -> None:
    run = run_folder(tmp_path / "reward", stage="reward", model=own, settings={}, trained_on=trained_on)
    turn = scorer.codec.prompt_text((Message("user", QUESTION),))
    assert turn.startswith("<|im_start|>") and QUESTION in turn
    as_turn, as_text = read_by(scorer, turn, "7"), read_by(scorer, QUESTION, "7")
    assert abs(as_turn - as_text) > 1e-3
    expected = [as_text if trained_on == {"chats": 0} else as_turn, as_text]
    for name in (run, run / "model"):
        judge = load_judge((str(name),), CPU)
        found = judge.score([Answer(QUESTION, "7", question=True), Answer(QUESTION, "7")])
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_question_to_an_implicit_reward_is_a_users_turn(dpo_run: Path) -> None:
    asked = Answer(QUESTION, "7", question=True)
    turn, text = Answer((Message("user", QUESTION),), "7"), Answer(QUESTION, "7")
    judge = load_judge((f"implicit:{dpo_run}",), CPU)
    assert isinstance(judge, ImplicitReward)
    as_turn, as_text = scores_of(judge.score([turn, text]))
    assert abs(as_turn - as_text) > 1e-3
    assert judge.score([asked]) == [pytest.approx(as_turn, abs=1e-5)]
    stubborn = ImplicitReward(judge.policy, judge.reference, judge.beta, only_text=True)
    assert stubborn.score([asked]) == [pytest.approx(as_text, abs=1e-5)]


def test_scores_that_are_not_finite_end_it(scorer: Scorer, dpo_run: Path) -> None:
    scorer.model.config.reward_bias = math.nan
    try:
        with pytest.raises(ModelError, match="a score that is not finite") as caught:
            RewardModel(scorer).score(ANSWERS)
    finally:
        scorer.model.config.reward_bias = 0.25
    assert caught.value.where == scorer.source and "'aaa bb'" in caught.value.found and caught.value.fix
    judge = load_judge((f"implicit:{dpo_run}",), CPU)
    assert isinstance(judge, ImplicitReward)
    endless = ImplicitReward(judge.policy, judge.reference, beta=math.inf)
    with pytest.raises(ModelError, match="a score that is not finite"):
        endless.score(ANSWERS)
