"""Adapters: the base model until they learn, gradients by a dense path, folders that peft and others load."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from tiny import tiny_gpt2, tiny_llama, tiny_qwen2, tiny_tokenizer
from trimtab.data.batches import PackedRow, pack
from trimtab.data.tokens import Example, Response
from trimtab.errors import ConfigError, ModelError
from trimtab.model import adapters, load, scalar
from trimtab.model.device import Numerics
from trimtab.model.policy import response_logprobs
from trimtab.model.save import save_model

# peft itself asks transformers for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

RANK, ALPHA = 3, 6.0
KINDS: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,  # its matrices are stored the other way round
    "qwen2": tiny_qwen2,  # biases, tied embeddings
}
EXAMPLES = [
    Example((5, 9, 11, 40), (Response((7, 8, 2), True), Response((30, 31, 32, 33), False))),
    Example((6, 4), (Response((12, 2), True), Response((80, 81, 2), True))),
]


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](seed=0).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def attach(model: PreTrainedModel, base: Path, seed: int = 1, **changes: Any) -> PreTrainedModel:
    settings = {"rank": RANK, "alpha": ALPHA, "targets": adapters.ALL, **changes}
    generator = torch.Generator().manual_seed(seed)
    adapters.attach(model, base=str(base), generator=generator, **settings)
    return model


def learned(base: Path, **changes: Any) -> PreTrainedModel:
    """The base with adapters that are not zero any more."""
    model = attach(load.load_causal(str(base), device="cpu"), base, **changes)
    return move(model)


def move(model: PreTrainedModel) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def row() -> PackedRow:
    return pack(EXAMPLES)


@torch.no_grad()
def logprobs(model: PreTrainedModel, dtype: torch.dtype | None = None) -> Tensor:
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        return response_logprobs(model, row())


def plain_logprobs(forward: Callable[[Tensor], Tensor]) -> Tensor:
    """By transformers alone: one sequence at a time, unpacked; [tokens of all responses]."""
    values = []
    for example in EXAMPLES:
        for response in example.responses:
            ids = torch.tensor([[*example.prompt, *response.ids]])
            predicted = forward(ids)[0, len(example.prompt) - 1 : -1].log_softmax(-1)
            values.append(predicted[torch.arange(len(response.ids)), torch.tensor(response.ids)])
    return torch.cat(values)


# --- attached ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_training_begins_at_the_base_model_bit_for_bit(base: Path, dtype: torch.dtype | None) -> None:
    before = logprobs(load.load_causal(str(base), device="cpu"), dtype)
    assert torch.equal(logprobs(attach(load.load_causal(str(base), device="cpu"), base), dtype), before)


def test_only_adapters_learn_and_there_is_one_for_every_matrix(base: Path) -> None:
    model = load.load_causal(str(base), device="cpu")
    head = {id(model.get_output_embeddings().weight), id(model.get_input_embeddings().weight)}
    matrices = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and id(parameter) not in head and "wpe" not in name
    ]
    attach(model, base)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    stems = {name.removesuffix(".weight") for name in matrices}
    assert set(trained) == {f"{stem}.lora_{side}.default.weight" for stem in stems for side in "AB"}
    assert all(RANK in parameter.shape and parameter.dtype == torch.float32 for parameter in trained.values())
    assert adapters.trained_parameters(model) == sum(parameter.numel() for parameter in trained.values())


def test_the_first_weights_follow_from_the_generator_alone(base: Path) -> None:
    torch.manual_seed(3)
    one = attach(load.load_causal(str(base), device="cpu"), base, seed=5).state_dict()
    torch.manual_seed(4)
    two = attach(load.load_causal(str(base), device="cpu"), base, seed=5).state_dict()
    other = attach(load.load_causal(str(base), device="cpu"), base, seed=6).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    drawn = [name for name in one if "lora_A" in name]
    assert drawn and not any(torch.equal(one[name], other[name]) for name in drawn)
    for name in drawn:  # uniform within 1 / sqrt(inputs), as torch draws a linear layer
        bound = 1 / math.sqrt(one[name].shape[1])
        assert 0.8 * bound < one[name].abs().max() <= bound


def test_gradients_equal_those_of_dense_weights(base: Path) -> None:
    """W + (alpha / rank) B A written out, on unpacked sequences, with transformers' own attention."""
    model = learned(base)
    coefficients = torch.linspace(-1, 1, 12)
    found = response_logprobs(model, row())
    torch.autograd.backward((coefficients * found).sum())
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    plain = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    dense = {}
    for name, weight in plain.named_parameters():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.default.weight" in leaves:
            update = leaves[f"{stem}.lora_B.default.weight"] @ leaves[f"{stem}.lora_A.default.weight"]
            turned = update.T if "c_" in stem else update
            dense[name] = weight.detach() + ALPHA / RANK * turned
    assert len(dense) * 2 == len(leaves)
    expected = plain_logprobs(lambda ids: functional_call(plain, dense, (ids,)).logits)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad((coefficients * expected).sum(), list(leaves.values()))
    own = dict(model.named_parameters())
    for name, gradient in zip(leaves, gradients, strict=True):
        assert gradient.abs().max() > 1e-4, name
        torch.testing.assert_close(own[name].grad, gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_frozen_matrices_in_bfloat16_change_no_bit_under_autocast(base: Path) -> None:
    whole, held = learned(base), learned(base)
    adapters.hold_frozen_matrices_in(held, torch.bfloat16)
    results = []
    for model in (whole, held):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = response_logprobs(model, row())
        torch.autograd.backward(values.sum())
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        results.append([values.detach(), *gradients])
    assert len(results[0]) > 2
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    held_in = {name: parameter.dtype for name, parameter in held.named_parameters()}
    frozen = {name for name in held_in if ".base_layer." in name}
    assert frozen and all((held_in[name] == torch.bfloat16) == (name in frozen) for name in held_in)


def kept_bytes(model: PreTrainedModel) -> int:
    """What the forward pass keeps for the backward pass, each storage counted once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
        values = response_logprobs(model, row())
    assert values.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_adapters_share_the_input_that_the_matrices_read(model_folder: Path) -> None:
    model = learned(model_folder)
    adapters.hold_frozen_matrices_in(model, torch.bfloat16)
    shared = kept_bytes(model)
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = True  # type: ignore[assignment]
    of_one = (
        row().input_ids.numel() * 32 * 2
    )  # bfloat16; in both layers q, k, v have one input, gate and up another
    assert shared <= kept_bytes(model) - 2 * (2 + 1) * of_one


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (["q_proj", "v_proj"], {"self_attn.q_proj", "self_attn.v_proj"}),
        (["0.mlp.up_proj", "self_attn.o_proj"], {"mlp.up_proj", "self_attn.o_proj"}),
    ],
)
def test_targets_are_endings_of_names(targets: list[str], adapted: set[str], model_folder: Path) -> None:
    model = attach(load.load_causal(str(model_folder), device="cpu"), model_folder, targets=targets)
    names = [name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name]
    assert {".".join(name.split(".")[3:]) for name in names} == adapted
    assert len(names) == (4 if targets[0] == "q_proj" else 3)


def test_a_target_that_is_no_matrix_is_refused_and_says_what_is_there(model_folder: Path) -> None:
    model = load.load_causal(str(model_folder), device="cpu")
    with pytest.raises(ConfigError, match="LoRA finds no such matrix") as raised:
        attach(model, model_folder, targets=["q_proj", "v_prj"])
    assert raised.value.found == (
        "v_prj; there are: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )
    assert raised.value.fix == "did you mean v_proj?"
    with pytest.raises(ConfigError, match="LoRA finds no such matrix"):
        attach(model, model_folder, targets=["lm_head"])  # heads are none of the backbone's
    assert not adapters.attached(model) and all(value.requires_grad for value in model.parameters())


# --- switched off --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_switched_off_it_is_the_base_model_bit_for_bit(base: Path, dtype: torch.dtype | None) -> None:
    before, model = logprobs(load.load_causal(str(base), device="cpu"), dtype), learned(base)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    on = logprobs(model, dtype)
    assert (on - before).abs().max() > 0.05
    with pytest.raises(ZeroDivisionError), adapters.switched_off(model):
        assert torch.equal(logprobs(model, dtype), before)
        raise ZeroDivisionError
    assert torch.equal(logprobs(model, dtype), on)
    assert [name for name, value in model.named_parameters() if value.requires_grad] == trained


def test_a_model_without_adapters_is_not_its_own_reference(model_folder: Path) -> None:
    model = load.load_causal(str(model_folder), device="cpu")
    with pytest.raises(ValueError, match="no adapters"), adapters.switched_off(model):
        pass


# --- saved and loaded ----------------------------------------------------------------------------


def test_peft_transformers_and_trimtab_load_what_is_saved(base: Path, tmp_path: Path) -> None:
    model = learned(base)
    save_model(model, load.load_tokenizer(str(base)), tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} < files
    assert not {"config.json", "model.safetensors"} & files
    expected = logprobs(model)
    with torch.no_grad():
        by_peft = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter"
        )
        by_transformers = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
        for other in (by_peft.eval(), by_transformers.eval()):
            found = plain_logprobs(lambda ids, other=other: other(ids).logits)  # type: ignore[misc]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    merged = load.load_causal(str(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(logprobs(merged), expected, atol=1e-5, rtol=1e-5)
    assert not adapters.attached(merged) and not any("lora" in name for name in merged.state_dict())
    assert all(
        parameter.requires_grad for parameter in merged.parameters()
    )  # as of every model that is loaded
    assert merged.state_dict().keys() == load.load_causal(str(base), device="cpu").state_dict().keys()
    assert load.parameter_count(str(tmp_path / "adapter")) == load.parameter_count(str(base))


def new_scorer(base: Path) -> tuple[PreTrainedModel, Any]:
    codec, generator = load.load_tokenizer(str(base)), torch.Generator().manual_seed(3)
    policy = load.load_causal(str(base), device="cpu")
    model = scalar.with_new_head(policy, codec, generator, str(base))
    move(attach(model, base, head=scalar.HEAD))
    return model, codec


def test_a_reward_model_is_saved_with_its_head_and_its_bias(base: Path, tmp_path: Path) -> None:
    model, codec = new_scorer(base)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert "score.weight" in trained and all("lora_" in name for name in trained if name != "score.weight")
    model.config.reward_bias = 0.75
    save_model(model, codec, tmp_path / "adapter")
    with torch.no_grad():
        expected = scalar.rewards(model, row())
        again = load.load_scalar(str(tmp_path / "adapter"), device="cpu")
        assert torch.equal(again.get_submodule("score").weight, model.get_submodule("score").weight)
        assert again.config.reward_bias == 0.75 and again.config.num_labels == 1
        torch.testing.assert_close(scalar.rewards(again, row()), expected, atol=1e-5, rtol=1e-5)
        whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        by_peft = peft.PeftModel.from_pretrained(whole, tmp_path / "adapter").eval()
        by_transformers = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "adapter", num_labels=1
        )
        for other in (by_peft, by_transformers.eval()):
            found = [
                other(torch.tensor([[*example.prompt, *response.ids]])).logits.item()
                for example in EXAMPLES
                for response in example.responses
            ]
            torch.testing.assert_close(torch.tensor(found) - 0.75, expected, atol=1e-5, rtol=1e-5)


def test_a_policy_adapter_is_no_reward_model_and_the_other_way_round(
    model_folder: Path, tmp_path: Path
) -> None:
    codec = load.load_tokenizer(str(model_folder))
    save_model(learned(model_folder), codec, tmp_path / "policy")
    save_model(new_scorer(model_folder)[0], codec, tmp_path / "reward")
    with pytest.raises(ModelError, match="no reward model"):
        load.load_scalar(str(tmp_path / "policy"), device="cpu")
    with pytest.raises(ModelError, match="no causal language model"):
        load.load_causal(str(tmp_path / "reward"), device="cpu")


def test_an_adapter_that_plain_peft_has_written(model_folder: Path, tmp_path: Path) -> None:
    """No tokenizer, no config of ours, a scaling and a rank by module of its own."""
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        use_rslora=True,
        target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 2},
    )
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config).eval()
    move(model)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = plain_logprobs(lambda ids: model(ids).logits)
    found = load.load_causal(str(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(logprobs(found), expected, atol=1e-5, rtol=1e-5)
    codec = load.load_tokenizer(str(tmp_path / "adapter"))
    assert codec.fingerprint == load.load_tokenizer(str(model_folder)).fingerprint


@pytest.fixture
def adapter(model_folder: Path, tmp_path: Path) -> Path:
    save_model(learned(model_folder), load.load_tokenizer(str(model_folder)), tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_base_that_is_gone_is_named(adapter: Path) -> None:
    change(adapter, base_model_name_or_path=str(adapter.parent / "moved"))
    with pytest.raises(ModelError, match="the base model of this adapter cannot be found") as raised:
        load.load_causal(str(adapter), device="cpu")
    assert "moved" in raised.value.found and "base_model_name_or_path" in raised.value.fix


def test_an_adapter_to_an_adapter_is_refused(adapter: Path) -> None:
    other = adapter.parent / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter)}))
    with pytest.raises(ModelError, match="an adapter itself"):
        load.load_causal(str(other), device="cpu")


def test_an_adapter_of_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    smaller = tmp_path / "smaller"
    tiny_llama(num_hidden_layers=1).save_pretrained(smaller)
    (adapter / "merged_config.json").unlink()
    change(adapter, base_model_name_or_path=str(smaller), target_modules=["q_proj", "k_proj"])
    with pytest.raises(ModelError, match="the adapter does not fit its base model") as raised:
        load.load_causal(str(adapter), device="cpu")
    assert "lora_A" in raised.value.found
    narrower = tmp_path / "narrower"
    tiny_llama(hidden_size=16).save_pretrained(narrower)
    change(adapter, base_model_name_or_path=str(narrower))
    with pytest.raises(ModelError, match="the adapter cannot be read"):
        load.load_causal(str(adapter), device="cpu")


def test_weights_that_the_config_promises_must_be_there(adapter: Path, model_folder: Path) -> None:
    """Otherwise peft would leave that matrix as it is, and only warn."""
    save_model(
        learned(model_folder, targets=["q_proj"]),
        load.load_tokenizer(str(model_folder)),
        adapter.parent / "few",
    )
    (adapter / "adapter_model.safetensors").write_bytes(
        (adapter.parent / "few" / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match="the adapter does not fit its base model"):
        load.load_causal(str(adapter), device="cpu")


def test_pickled_adapters_are_not_read(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights, and pickled ones can run code"):
        load.load_causal(str(adapter), device="cpu")


def test_other_kinds_of_adapters_are_refused(model_folder: Path, tmp_path: Path) -> None:
    config = peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config).save_pretrained(
        tmp_path / "ia3"
    )
    with pytest.raises(ModelError, match="this adapter is no LoRA"):
        load.load_causal(str(tmp_path / "ia3"), device="cpu")


# --- 4-bit weights -------------------------------------------------------------------------------


def test_4_bit_weights_are_refused_on_a_cpu(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="on CUDA only"):
        load.load_in_4bit(str(model_folder), Numerics(torch.device("cpu"), None))


@pytest.mark.gpu
def test_4_bit_weights_begin_near_the_base_model_and_learn(model_folder: Path) -> None:
    device = torch.device("cuda")
    exact = logprobs(load.load_causal(str(model_folder), device="cpu"))
    model = load.load_in_4bit(str(model_folder), Numerics(device, torch.bfloat16))
    attach(model, model_folder)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = response_logprobs(model, row().to(device))
    assert (found.detach().cpu() - exact).abs().mean() < 0.5
    torch.autograd.backward(found.sum())
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name]
    assert gradients and all(gradient is not None and gradient.any() for gradient in gradients)
