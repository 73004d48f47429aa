"""Models and pairs made from a seed, for costs that do not depend on what the weights say."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.model.device import Numerics
from trimtab.model.save import save_model
from trimtab.model.scalar import new_scorer

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""SmolLM2-135M's sizes; about Qwen2.5's of half a billion and one and a half; and one for trials."""
VOCABULARIES = {"smollm2": 49152, "0.5B": 151936, "1.5B": 151936, "tiny": 512}
POSITIONS = 8192
SPECIAL = {".": 0, "<unk>": 1, "<pad>": 2}
"""The first stops."""

Row = dict[str, list[int]]


def write_model(folder: Path, shape: str, vocabulary: int) -> None:
    """A Llama with tied embeddings and a tokenizer of few words, unless it is there; bfloat16 on disk."""
    if (folder / "config.json").exists():
        return
    config = LlamaConfig(
        **SHAPES[shape],
        vocab_size=vocabulary,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL["."],
        pad_token_id=SPECIAL["<pad>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).bfloat16()
    words = Tokenizer(WordLevel(SPECIAL, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=".", unk_token="<unk>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def write_scorer(folder: Path, policy: Path) -> None:
    """The same model with a fresh scalar head, unless it is there."""
    if (folder / "config.json").exists():
        return
    numerics = Numerics(torch.device("cpu"), None)
    generator = torch.Generator().manual_seed(1)
    scorer = new_scorer(str(policy), numerics, generator, bytes_per_parameter=4)
    save_model(scorer.model, scorer.codec, folder)


def pair(lengths: Sequence[int], vocabulary: int, generator: random.Random) -> Row:
    """Random tokens: a prompt and two responses of these lengths; none stops."""
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return {
        name: [generator.randrange(len(SPECIAL), vocabulary) for _ in range(length)]
        for name, length in zip(names, lengths, strict=True)
    }


def write_batches(path: Path, batches: Sequence[Sequence[Row]]) -> None:
    """Where an arm reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(batches))
