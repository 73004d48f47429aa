"""Tiny models from a seed, for worlds whose every response can be listed.

They are transformers' GPT-2: its norms compute in the type of their input, so that a float64 model
is float64 throughout, which Llama's are not. Nothing is read from anywhere.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from trimtab.data.tokens import Codec
from trimtab.model import packed
from trimtab.model.device import Numerics
from trimtab.model.policy import Policy
from trimtab.model.scalar import Scorer

STOP_ID = 0
POSITIONS = 16
SPREAD = 0.3
"""Standard deviation of the first weights: wide enough that responses differ in probability."""


def tiny_policy(
    vocabulary: int, *, seed: int, numerics: Numerics, dtype: torch.dtype = torch.float32
) -> Policy:
    """A policy over `vocabulary` tokens, of which token 0 stops."""
    model = _seeded(GPT2LMHeadModel, vocabulary, seed, dtype)
    return Policy(model.to(numerics.device), _codec(vocabulary), numerics, "a tiny model")


def tiny_scorer(
    vocabulary: int, *, seed: int, numerics: Numerics, dtype: torch.dtype = torch.float32
) -> Scorer:
    """A reward or value model over the same tokens."""
    model = _seeded(GPT2ForSequenceClassification, vocabulary, seed, dtype)
    return Scorer(model.to(numerics.device), _codec(vocabulary), numerics, "a tiny model")


def _seeded(kind: type[PreTrainedModel], vocabulary: int, seed: int, dtype: torch.dtype) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=2,
        num_labels=1,
        initializer_range=SPREAD,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=STOP_ID,
        pad_token_id=None,
        use_cache=False,
        attn_implementation=packed.NAME,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = kind(config)
    return model.to(dtype).eval()


def _codec(vocabulary: int) -> Codec:
    """Words for the ids: `.` stops, then a, b, c; the pad token is none of the model's."""
    words = {".": STOP_ID, **{chr(ord("a") + index): index + 1 for index in range(vocabulary - 1)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({**words, "<pad>": vocabulary}, unk_token="<pad>")),
        eos_token=".",
        pad_token="<pad>",
        unk_token="<pad>",
    )
    return Codec(tokenizer, stop_id=STOP_ID, pad_id=vocabulary)
