"""Tiny models and a tokenizer, built from a seed, for every test that needs one.

Test modules write `from tiny import tiny_llama, tiny_tokenizer`; conftest.py makes the name known.
The models have two layers, float32 weights, and are in eval mode. Their weights are drawn wider
than a real initialisation, biases and norms included, so that a mistake anywhere changes the logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

Model = TypeVar("Model", bound=PreTrainedModel)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 300
CONTEXT = 512

# SmolLM2's: a system prompt of its own, and a line break after the token that ends a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny model.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_TEXT = [
    "The user asks the assistant a question, and the assistant answers the question.",
    "There is nothing that these and those other things have in common with the rest.",
    "system user assistant You are a tiny model. Hello, how are you? I am fine, thank you.",
]


def tiny_tokenizer(*, pad_token: str = "<|endoftext|>") -> PreTrainedTokenizerFast:
    """Byte-level BPE with 300 tokens that splits as SmolLM2's does; any text round-trips.

    `<|im_end|>` ends a turn; pass it as `pad_token` to get SmolLM2's trap, where both are the same.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token=pad_token,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    assert len(fast) == VOCABULARY
    return fast


def tiny_llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """4 heads over 2 key-value heads, untied embeddings; `changes` go into the config."""
    return _seeded(LlamaForCausalLM, LlamaConfig(**{**_modern(), **changes}), seed)


def tiny_qwen2(seed: int = 0, **changes: object) -> Qwen2ForCausalLM:
    """4 heads over 2 key-value heads, biases in attention, tied embeddings."""
    return _seeded(
        Qwen2ForCausalLM, Qwen2Config(**{**_modern(), "tie_word_embeddings": True, **changes}), seed
    )


def tiny_qwen3(seed: int = 0, **changes: object) -> Qwen3ForCausalLM:
    """4 heads of size 16 over 2 key-value heads, norms on queries and keys, untied embeddings."""
    return _seeded(Qwen3ForCausalLM, Qwen3Config(**{**_modern(), "head_dim": 16, **changes}), seed)


def tiny_gpt2(seed: int = 0, **changes: object) -> GPT2LMHeadModel:
    """4 heads, learned positions, tied embeddings, and GPT-2's dropout of 0.1 in its config."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
    return _seeded(GPT2LMHeadModel, GPT2Config(**{**_tokens(), **sizes, **changes}), seed)


def _modern() -> dict[str, object]:
    return {
        **_tokens(),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }


def _tokens() -> dict[str, object]:
    return {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _seeded(kind: type[Model], config: object, seed: int) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.15)
                else:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.float().eval()


def write_gguf(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path, *, split: str
) -> None:
    """Write a Llama as llama.cpp's converter does: float32, queries and keys in its rotary order.

    Args:
        split: the pre-tokenizer that the header names (tokenizer.ggml.pre).
    """
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, split)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        turned = next((_rotary_order(weight, count) for kind, count in heads.items() if kind in name), weight)
        writer.add_tensor(_gguf_name(name), turned.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, split: str) -> None:
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _rotary_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """From halves to pairs within each head, the inverse of what transformers does when it reads."""
    size = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, size, -1).swapaxes(1, 2).reshape(weight.shape)


def _gguf_name(name: str) -> str:
    parts = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for old, new in parts.items():
        name = name.replace(old, new)
    return name
