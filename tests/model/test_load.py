"""Loading: the same logits as the original, and one clear message for everything that must not load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BertConfig, BertForMaskedLM, LlamaForSequenceClassification
from transformers import AutoModelForCausalLM as Auto

from tiny import (
    CHAT_TEMPLATE,
    VOCABULARY,
    tiny_gpt2,
    tiny_llama,
    tiny_qwen2,
    tiny_qwen3,
    tiny_tokenizer,
    write_gguf,
)
from trimtab.errors import ModelError
from trimtab.model import load

IDS = torch.arange(3, 23)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(IDS).logits
    return result


def load_sdpa(folder: Path) -> Any:
    return load.load_causal(str(folder), device="cpu", attention="sdpa")


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_llama(5, tie_word_embeddings=True), tiny_tokenizer(), path, split="smollm")
    return path


# --- names ---------------------------------------------------------------------------------------


def test_a_model_folder_and_a_gguf_file_are_themselves(model_folder: Path, gguf_file: Path) -> None:
    assert load.resolve(str(model_folder)) == model_folder
    assert load.resolve(str(gguf_file)) == gguf_file


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-0.5B-Instruct", "HuggingFaceTB/SmolLM2-135M"])
def test_other_names_are_hub_ids(name: str) -> None:
    assert load.resolve(name) == name


def test_a_finished_run_stands_for_its_model(tmp_path: Path, model_folder: Path) -> None:
    run = tmp_path / "sft"
    shutil.copytree(model_folder, run / "model")
    (run / "run.json").write_text("{}")
    with pytest.raises(ModelError, match="the run is not finished"):
        load.resolve(str(run))
    (run / "DONE").touch()
    assert load.resolve(str(run)) == run / "model"
    shutil.rmtree(run / "model")
    with pytest.raises(ModelError, match="the run made no model"):
        load.resolve(str(run))


def test_a_bundle_must_have_been_obtained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="trimtab models get smollm2-135m-instruct"):
        load.resolve("smollm2-135m-instruct")
    folder = tmp_path / "models" / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert load.resolve("smollm2-135m-instruct") == folder


def test_typos_are_answered_with_the_nearest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="did you mean smollm2-135m-instruct"):
        load.resolve("smollm-135m-instruct")
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/sftt", "./runs/sftt", str(tmp_path / "runs" / "sftt")):
        with pytest.raises(ModelError, match=r"no such file or folder(.|\n)*did you mean sft\?"):
            load.resolve(name)


def test_folders_and_files_that_are_no_model(tmp_path: Path, gguf_file: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model(.|\n)*no config.json"):
        load.resolve(str(tmp_path))
    with pytest.raises(ModelError, match=r"name the file: .*tiny.gguf"):
        load.resolve(str(gguf_file.parent))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"a model is a folder or a \.gguf file"):
        load.resolve(str(tmp_path / "model.safetensors"))


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2, tiny_qwen3, tiny_gpt2])
def test_a_saved_model_loads_with_the_same_logits(build: Any, tmp_path: Path) -> None:
    original = build(3)
    original.save_pretrained(tmp_path)
    loaded = load_sdpa(tmp_path)
    torch.testing.assert_close(logits(loaded), logits(original), rtol=0, atol=0)
    assert not loaded.training and not loaded.config.use_cache
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    tiny_llama(3).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load_sdpa(tmp_path).parameters()} == {torch.float32}


def test_dropout_is_off_even_in_training(tmp_path: Path) -> None:
    tiny_gpt2(3).save_pretrained(tmp_path)
    assert Auto.from_pretrained(tmp_path).config.attn_pdrop == 0.1
    loaded = load_sdpa(tmp_path)
    assert (loaded.config.attn_pdrop, loaded.config.resid_pdrop, loaded.config.embd_pdrop) == (0.0, 0.0, 0.0)
    evaluated = logits(loaded)
    torch.testing.assert_close(logits(loaded.train()), evaluated, rtol=0, atol=0)


def test_the_default_attention_is_trimtabs(model_folder: Path) -> None:
    model = load.load_causal(str(model_folder), device="cpu")
    assert model.config._attn_implementation == "trimtab"
    with pytest.raises(ModelError, match="layout"):
        model(IDS)


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2, tiny_gpt2])
def test_parameters_are_counted_without_weights(build: Any, tmp_path: Path) -> None:
    model = build(0)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    assert load.parameter_count(str(tmp_path)) == sum(parameter.numel() for parameter in model.parameters())


# --- what must not load --------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path, model_folder: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    return folder


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        load_sdpa(copy)
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"pickled ones can run code(.|\n)*pytorch_model.bin(.|\n)*save_pretrained"
    ):
        load_sdpa(copy)


def test_broken_weights_are_one_message(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ModelError, match="the weights cannot be read"):
        load_sdpa(copy)


def test_missing_weights_are_not_drawn_at_random(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"weights are missing(.|\n)*model.layers.2"):
        load_sdpa(copy)


def test_weights_of_another_shape_are_one_message(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(ModelError, match="the weights cannot be read"):
        load_sdpa(copy)


@pytest.mark.parametrize("text", ["{", '{"model_type": "no-such-kind"}', "{}"])
def test_a_config_that_says_nothing_is_one_message(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match="the config cannot be read"):
        load_sdpa(copy)


def test_code_in_the_folder_is_never_run(copy: Path) -> None:
    code = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(code))
    (copy / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="the config cannot be read"):
        load_sdpa(copy)


def test_other_heads_are_refused(tmp_path: Path) -> None:
    config = tiny_llama().config
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ModelError, match=r"no causal language model(.|\n)*LlamaForSequenceClassification"):
        load_sdpa(tmp_path / "classifier")
    small = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(small).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"no causal language model(.|\n)*BertForMaskedLM"):
        load_sdpa(tmp_path / "bert")


def test_a_hub_without_a_connection_is_one_message() -> None:
    with pytest.raises(ModelError, match=r"nobody/no-such-model: the config cannot be read(.|\n)*spelling"):
        load.load_causal("nobody/no-such-model", device="cpu")


# --- what trimtab does not compute ---------------------------------------------------------------

REFUSED = [
    (
        "mistral",
        {"sliding_window": 64},
        ["sliding-window attention", "sliding_window = 64", "null in config"],
    ),
    ("phi3", {"sliding_window": 2047}, ["sliding-window attention", "sliding_window = 2047"]),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "num_hidden_layers": 2},
        ["sliding-window attention", "sliding_window = 8 in 1 of 2 layers"],
    ),
    (
        "gemma2",
        {"num_hidden_layers": 2},
        [
            "sliding_window = 4096 in 1 of 2 layers",
            "attn_logit_softcapping = 50.0",
            "final_logit_softcapping = 30.0",
            "soft-capped attention scores",
        ],
    ),
    (
        "gpt_oss",
        {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
        ["attention sinks", "s_aux"],
    ),
    ("cohere", {}, ["scaled logits", "logit_scale = 0.0625"]),
    ("granite", {"logits_scaling": 8.0}, ["scaled logits", "logits_scaling = 8.0"]),
    ("gpt2", {"add_cross_attention": True}, ["cross attention"]),
    ("llama4_text", {"num_hidden_layers": 4}, ["not full attention", "chunked_attention in 3 of 4"]),
    ("jamba", {}, ["not full attention", "linear_attention"]),
    ("bamba", {}, ["not full attention"]),
    ("lfm2", {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}, ["conv in 1 of 2 layers"]),
    ("falcon_h1", {}, ["not full attention"]),
    ("qwen3_next", {"num_hidden_layers": 4}, ["linear_attention in 3 of 4"]),
    ("granitemoehybrid", {}, ["not full attention"]),
    ("recurrent_gemma", {}, ["not full attention", "logits_soft_cap"]),
    ("zamba2", {}, ["not full attention"]),
    ("mamba", {}, ["not full attention"]),
    ("rwkv", {}, ["a recurrent state"]),
    ("bloom", {}, ["attention in code of its own", "ALiBi"]),
    ("mpt", {}, ["attention in code of its own"]),
    ("falcon", {"alibi": True}, ["ALiBi position biases", "alibi = True"]),
    ("bert", {"is_decoder": True}, ["an encoder that sees later tokens"]),
    ("bart", {}, ["an encoder and a decoder"]),
    ("t5", {}, ["an encoder and a decoder"]),
    ("vit", {}, ["no causal language model"]),
]


@pytest.mark.parametrize(("kind", "changes", "named"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_not_computed_is_refused_by_name(
    kind: str, changes: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        load.refuse_unsupported(AutoConfig.for_model(kind, **changes))
    for part in named:
        assert part in str(caught.value)
    assert caught.value.fix


ACCEPTED = [
    ("llama", {}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 4096}),
    ("qwen3", {}),
    ("gpt2", {}),
    ("mistral", {"sliding_window": None}),
    ("phi3", {"sliding_window": None}),
    ("granite", {"logits_scaling": 1.0}),
    ("gpt_neox", {}),
    ("opt", {}),
    ("olmo2", {}),
    (
        "gemma2",
        {
            "num_hidden_layers": 2,
            "layer_types": ["full_attention"] * 2,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
]


@pytest.mark.parametrize(("kind", "changes"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_plain_decoders_pass(kind: str, changes: dict[str, Any]) -> None:
    load.refuse_unsupported(AutoConfig.for_model(kind, **changes))


def test_loading_refuses_before_it_reads_weights(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    mistral = {
        **config,
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 64,
    }
    (copy / "config.json").write_text(json.dumps(mistral))
    (copy / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ModelError, match="sliding_window = 64") as caught:
        load_sdpa(copy)
    assert caught.value.where == str(copy)


# --- tokenizers ----------------------------------------------------------------------------------


def saved(tokenizer: Any, folder: Path, rows: int = VOCABULARY) -> str:
    tokenizer.save_pretrained(folder)
    tiny_llama(vocab_size=rows).config.save_pretrained(folder)
    return str(folder)


def test_a_fit_pad_token_is_kept(model_folder: Path) -> None:
    codec = load.load_tokenizer(str(model_folder))
    assert (codec.stop_id, codec.pad_id) == (2, 0)
    assert codec.stop_text == "<|im_end|>"


def test_a_pad_token_that_ends_text_is_replaced(tmp_path: Path) -> None:
    codec = load.load_tokenizer(saved(tiny_tokenizer(pad_token="<|im_end|>"), tmp_path))
    assert (codec.stop_id, codec.pad_id) == (2, 0)
    assert codec.tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize("taken", ["<|im_start|>", "<|im_end|>"])
def test_what_the_template_writes_is_no_pad(taken: str) -> None:
    assert load.pad_token(tiny_tokenizer(pad_token=taken), "<|im_end|>") == "<|endoftext|>"


@pytest.mark.parametrize("ends", ["<|im_start|>", "<|im_end|>"])
def test_what_begins_or_ends_text_is_no_pad(ends: str) -> None:
    tokenizer = tiny_tokenizer(pad_token=ends)
    tokenizer.chat_template = None
    assert load.pad_token(tokenizer, stop="<|im_end|>") == "<|endoftext|>"


def test_a_token_named_pad_comes_before_others() -> None:
    tokenizer = tiny_tokenizer(pad_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|reserved|>", "<|padding|>"]})
    assert load.pad_token(tokenizer, "<|im_end|>") == "<|padding|>"


def all_taken() -> Any:
    tokenizer = tiny_tokenizer(pad_token="<|im_end|>")
    tokenizer.chat_template = "{{ '<|endoftext|>' }}" + CHAT_TEMPLATE
    return tokenizer


def test_a_new_pad_token_takes_a_spare_row(tmp_path: Path) -> None:
    codec = load.load_tokenizer(saved(all_taken(), tmp_path, rows=VOCABULARY + 4))
    assert codec.tokenizer.pad_token == "<|pad|>"
    assert codec.pad_id == VOCABULARY


def test_no_room_for_a_pad_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no pad token(.|\n)*300 tokens for an embedding of 300 rows"):
        load.load_tokenizer(saved(all_taken(), tmp_path))


def test_the_stop_token_is_the_templates() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert load.stop_token(tokenizer) == "<|im_end|>"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    assert load.stop_token(tokenizer) == "<|endoftext|>"
    tokenizer.chat_template = None
    assert load.stop_token(tokenizer) == "<|endoftext|>"
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="nothing ends a response"):
        load.stop_token(tokenizer)


def test_a_template_that_fails_is_one_message() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('only users here') }}"
    with pytest.raises(ModelError, match=r"chat template cannot write(.|\n)*only users here"):
        load.stop_token(tokenizer)


def test_a_missing_tokenizer_is_one_message(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        load.load_tokenizer(str(tmp_path))


# --- GGUF ----------------------------------------------------------------------------------------


def test_a_gguf_file_gives_the_logits_of_the_model_it_was_made_from(gguf_file: Path) -> None:
    original = tiny_llama(5, tie_word_embeddings=True)
    loaded = load_sdpa(gguf_file)
    torch.testing.assert_close(logits(loaded), logits(original), rtol=1e-5, atol=1e-5)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert load.parameter_count(str(gguf_file)) == sum(weight.numel() for weight in original.parameters())


def test_a_gguf_model_saves_as_an_ordinary_folder(gguf_file: Path, tmp_path: Path) -> None:
    loaded = load_sdpa(gguf_file)
    loaded.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = Auto.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), logits(loaded), rtol=0, atol=0)


TEXT = "<|im_start|>user\nIn  2024, x = ٣٤;\n\n\t 日本 🙂  7<|im_end|>\n"


def test_a_gguf_tokenizer_gives_the_ids_of_the_tokenizer_it_was_made_from(gguf_file: Path) -> None:
    codec = load.load_tokenizer(str(gguf_file))
    assert codec.tokenizer(TEXT)["input_ids"] == tiny_tokenizer()(TEXT)["input_ids"]
    assert codec.tokenizer.decode(codec.tokenizer(TEXT)["input_ids"]) == TEXT
    assert (codec.stop_id, codec.pad_id) == (2, 0)
    assert codec.tokenizer.model_max_length == 512


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    write_gguf(tiny_llama(), tiny_tokenizer(), path, split="deepseek-coder")
    with pytest.raises(
        ModelError, match=r"token ids would be wrong(.|\n)*tokenizer.ggml.pre = deepseek-coder"
    ):
        load.load_tokenizer(str(path))


def test_a_broken_gguf_file_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF, or not")
    with pytest.raises(ModelError, match="the GGUF header cannot be read"):
        load_sdpa(path)
    with pytest.raises(ModelError, match="the GGUF header cannot be read"):
        load.load_tokenizer(str(path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_gguf_file_that_ends_too_early_is_one_message(
    gguf_file: Path, tmp_path: Path, share: float
) -> None:
    content = gguf_file.read_bytes()
    path = tmp_path / "short.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="cannot be read"):
        load_sdpa(path)
