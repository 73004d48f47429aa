"""Scalar heads against transformers' own sequence classifiers, one unpadded sequence at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from tiny import tiny_gpt2, tiny_llama, tiny_tokenizer
from trimtab.data.batches import pack
from trimtab.data.tokens import Codec, Example, Response
from trimtab.errors import ModelError, ResourceError
from trimtab.model import device, scalar
from trimtab.model.device import Numerics
from trimtab.model.save import save_model
from trimtab.model.scalar import Scorer, initialise_head, load_scorer, new_scorer, rewards, values

CPU = Numerics(torch.device("cpu"), None)
FAMILIES = [tiny_llama, tiny_gpt2]
EXAMPLES = [
    Example((5, 6, 7), (Response((8, 9, 10, 2), True), Response((11, 12), False))),
    Example((13,), (Response((2,), True),)),
    Example((20, 21, 22, 23, 24), (Response((30, 31, 2), True), Response((32, 33, 34, 2), True))),
]


def folder_of(model: PreTrainedModel, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def fresh(source: str, seed: int = 0) -> Scorer:
    return new_scorer(source, CPU, torch.Generator().manual_seed(seed), bytes_per_parameter=4)


def saved(scorer: Scorer, folder: Path) -> str:
    save_model(scorer.model, scorer.codec, folder)
    return str(folder)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """A fresh one from a Llama; do not change it."""
    return fresh(folder_of(tiny_llama(), tmp_path_factory.mktemp("scalar")))


@pytest.mark.parametrize("build", FAMILIES)
def test_rewards_are_what_transformers_reads_at_the_last_token(
    build: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    ours = fresh(folder_of(build(), tmp_path))
    theirs = AutoModelForSequenceClassification.from_pretrained(
        saved(ours, tmp_path / "reward"), attn_implementation="eager"
    )
    expected = torch.stack(
        [
            theirs(torch.tensor([[*example.prompt, *response.ids]])).logits[0, 0]
            for example in EXAMPLES
            for response in example.responses
        ]
    )
    found = rewards(ours.model, pack(EXAMPLES))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.std() > 0.01, "the test would say nothing about equal rewards"


@pytest.mark.parametrize("build", FAMILIES)
def test_values_are_read_where_each_token_is_predicted(
    build: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    ours = fresh(folder_of(build(), tmp_path))
    theirs = AutoModelForSequenceClassification.from_pretrained(
        saved(ours, tmp_path / "value"), attn_implementation="eager"
    )
    expected = []
    for example in EXAMPLES:
        for response in example.responses:
            for length in range(len(response.ids)):  # what has been written when the next is chosen
                before = [*example.prompt, *response.ids[:length]]
                expected.append(theirs(torch.tensor([before])).logits[0, 0])
    found = values(ours.model, pack(EXAMPLES))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


def test_the_backbone_is_the_policys(scorer: Scorer) -> None:
    policy = tiny_llama().state_dict()
    mine = scorer.model.state_dict()
    assert isinstance(scorer.model, LlamaForSequenceClassification)
    assert set(mine) == {name for name in policy if name != "lm_head.weight"} | {"score.weight"}
    for name in set(mine) - {"score.weight"}:
        assert torch.equal(mine[name], policy[name]), name
    assert not scorer.model.training


def test_the_head_has_std_one_over_root_of_size_plus_one() -> None:
    size = 32
    drawn = []
    generator = torch.Generator().manual_seed(0)
    model = nn.Module()
    model.score = nn.Linear(size, 1, bias=False)
    for _ in range(400):
        initialise_head(model, generator)  # type: ignore[arg-type]
        drawn.append(model.score.weight.detach().clone())
    weights = torch.cat(drawn).flatten()
    expected = 1 / math.sqrt(size + 1)
    # 12,800 draws: the standard error of a standard deviation is std / sqrt(2 n), here 0.6 %. The
    # neighbours 1/sqrt(D) and 1/(D + 1) lie 1.5 % and 83 % off.
    assert float(weights.std()) == pytest.approx(expected, rel=0.012)
    assert abs(float(weights.mean())) < 4 * expected / math.sqrt(weights.numel())


def test_the_head_comes_from_the_generator(scorer: Scorer) -> None:
    again, other = fresh(scorer.source, seed=0), fresh(scorer.source, seed=1)
    assert torch.equal(scorer.model.score.weight, again.model.score.weight)
    assert not torch.equal(scorer.model.score.weight, other.model.score.weight)


def test_the_bias_is_taken_off_and_survives_the_file(tmp_path: Path) -> None:
    scorer = fresh(folder_of(tiny_llama(), tmp_path))
    row = pack(EXAMPLES)
    assert scalar.reward_bias(scorer.model) == 0.0
    before, values_before = rewards(scorer.model, row), values(scorer.model, row)
    scorer.model.config.reward_bias = 2.5
    torch.testing.assert_close(rewards(scorer.model, row), before - 2.5)
    torch.testing.assert_close(values(scorer.model, row), values_before - 2.5)
    loaded = load_scorer(saved(scorer, tmp_path / "reward"), CPU, bytes_per_parameter=4)
    assert scalar.reward_bias(loaded.model) == 2.5
    torch.testing.assert_close(rewards(loaded.model, row), before - 2.5)
    assert loaded.codec.fingerprint == scorer.codec.fingerprint
    assert loaded.source == str(tmp_path / "reward")


def test_gradients_reach_backbone_and_head(tmp_path: Path) -> None:
    model = fresh(folder_of(tiny_llama(), tmp_path)).model
    (rewards(model, pack(EXAMPLES)) * torch.tensor([1.0, -1, 2, -2, 3])).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_scores_are_float32_under_autocast(scorer: Scorer) -> None:
    row = pack(EXAMPLES)
    with torch.autocast("cpu", torch.bfloat16):
        found = rewards(scorer.model, row)
    assert found.dtype == torch.float32
    states = []
    hook = scorer.model.base_model.register_forward_hook(
        lambda module, args, output: states.append(output.last_hidden_state)
    )
    with torch.autocast("cpu", torch.bfloat16):
        rewards(scorer.model, row)
    hook.remove()
    by_hand = states[0][0, row.last].float() @ scorer.model.score.weight[0]
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, broken: float) -> None:
    model = fresh(folder_of(tiny_llama(), tmp_path)).model
    with torch.no_grad():
        model.score.weight[0, 3] = broken
    for read in (rewards, values):
        with pytest.raises(ModelError, match="not finite"):
            read(model, pack(EXAMPLES))


def test_a_family_without_a_scalar_head_is_refused(tmp_path: Path) -> None:
    config = Ernie4_5Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    source = folder_of(Ernie4_5ForCausalLM(config), tmp_path)
    with pytest.raises(ModelError, match="no scalar head for this kind of model") as caught:
        fresh(source)
    assert (caught.value.where, caught.value.found) == (source, "model_type = ernie4_5")


def test_a_classifier_with_several_labels_is_no_reward_model(tmp_path: Path) -> None:
    source = folder_of(LlamaForSequenceClassification(tiny_llama().config), tmp_path)
    with pytest.raises(ModelError, match="no reward model that trimtab can read") as caught:
        load_scorer(source, CPU, bytes_per_parameter=4)
    assert caught.value.found == "LlamaForSequenceClassification with 2 labels"


def test_another_tokenizer_is_refused(scorer: Scorer) -> None:
    scorer.require_tokens_of(Codec(tiny_tokenizer(), stop_id=2, pad_id=0), "runs/sft")
    larger = tiny_tokenizer()
    larger.add_tokens(["<new>"])
    with pytest.raises(ModelError, match="another tokenizer or chat template") as caught:
        scorer.require_tokens_of(Codec(larger, stop_id=2, pad_id=0), "runs/sft")
    assert caught.value.where == scorer.source
    assert caught.value.found == "300 tokens there, 301 in runs/sft"


def test_memory_is_asked_for_before_weights_are_read(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(parameter.numel() for parameter in tiny_llama().parameters())
    monkeypatch.setattr(device, "available_memory", lambda _: 16 * weights)
    new_scorer(scorer.source, CPU, torch.Generator(), bytes_per_parameter=16)
    for load in (
        lambda: new_scorer(scorer.source, CPU, torch.Generator(), bytes_per_parameter=17),
        lambda: load_scorer(scorer.source, CPU, bytes_per_parameter=17),
    ):
        with pytest.raises(ResourceError, match=f"too little memory for {scorer.source}"):
            load()
