"""Train the language model that trimtab carries: under 5 million parameters, on sentences of movie reviews.

Everything follows from the seed and the data: the same command gives the same model, up to the rounding of
another machine. It takes 14 minutes on two quiet cores of an AMD EPYC.

First all sentences but those with the rarest words; then, while the learning rate falls, only those of common
words: a small model that has seen rare words writes words that do not exist.

    python examples/small-model/train.py --reviews ../shared/data/movie-reviews --out ../small-model
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from reviews import language_sentences
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.demo.sentences import key
from trimtab.model.device import reuse_freed_memory

Encoded = list[list[int]]
"""Sentences as ids, from the start to the stop token."""
PAD, START, STOP = "<|pad|>", "<|start|>", "<|stop|>"
VOCABULARY = 4096
POSITIONS = 128
LONGEST = 64
"""Tokens of a sentence that is learned from."""
IGNORED = -100


@dataclass(frozen=True)
class Phase:
    """Some passes over the sentences whose every word is common enough."""

    rarest: int
    """Every word of a sentence occurs at least so often in all sentences."""
    epochs: int


PHASES = (Phase(rarest=3, epochs=3), Phase(rarest=10, epochs=2))
"""The learning rate falls to 0 over the last."""
BATCH_TOKENS = 8192
LEARNING_RATE = 4e-3
WARMUP = 100
"""Steps."""
WEIGHT_DECAY = 0.1
SEED = 0


def train_tokenizer(sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text can be written; a text is preceded by the start token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=STOP,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of 5 layers; input and output share their embedding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def batches(sentences: Sequence[Sequence[int]], tokens: int, seed: int) -> list[list[int]]:
    """Indices of sentences of like length together, about `tokens` padded tokens a batch, in random order."""
    draw = random.Random(seed)
    order = sorted(range(len(sentences)), key=lambda index: (len(sentences[index]), draw.random()))
    made: list[list[int]] = [[]]
    for index in order:
        if len(sentences[index]) * (len(made[-1]) + 1) > tokens:
            made.append([])
        made[-1].append(index)
    draw.shuffle(made)
    return made


def padded(sentences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """[B, T] ids and labels. Padding comes last, so causal attention never looks at it."""
    longest = max(map(len, sentences))
    ids = torch.tensor([[*one, *[pad] * (longest - len(one))] for one in sentences])
    labels = torch.tensor([[*one, *[IGNORED] * (longest - len(one))] for one in sentences])
    return ids, labels


def loss_sum(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Nats of all tokens after the start token, in sum."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model.model(input_ids=ids[:, :-1]).last_hidden_state
        wanted = labels[:, 1:]
        logits = model.lm_head(states[wanted != IGNORED])
    return torch.nn.functional.cross_entropy(logits.float(), wanted[wanted != IGNORED], reduction="sum")


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, sentences: Sequence[Sequence[int]], pad: int) -> float:
    """Nats a token."""
    total = sum(
        float(loss_sum(model, *padded([sentences[index] for index in batch], pad)))
        for batch in batches(sentences, 8192, 0)
    )
    return total / sum(len(one) - 1 for one in sentences)


def common_sentences(sentences: Sequence[str], rarest: int) -> list[str]:
    """Those whose every word occurs at least `rarest` times in all of them."""
    counts = Counter(word for text in sentences for word in key(text).split())
    return [text for text in sentences if min(counts[word] for word in key(text).split()) >= rarest]


def plan(phases: Sequence[Sequence[Sequence[int]]]) -> tuple[list[list[Sequence[int]]], int]:
    """The batches of all phases in order, and at which of them the last phase begins."""
    made: list[list[Sequence[int]]] = []
    for number, (phase, sentences) in enumerate(zip(PHASES, phases, strict=True)):
        falls = len(made)
        for epoch in range(phase.epochs):
            for batch in batches(sentences, BATCH_TOKENS, 100 * number + epoch):
                made.append([sentences[index] for index in batch])
    return made, falls


def rate(step: int, steps: int, falls: int) -> float:
    """Linear warm-up, constant, and linearly to 0 in the last phase."""
    return LEARNING_RATE * min((step + 1) / WARMUP, 1.0, (steps - step) / (steps - falls))


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the embeddings, AdamW for the rest.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the scale of its rate: Liu et al. 2025,
    arXiv:2502.16982. Compared with AdamW for 20 steps only: docs/log.md.
    """
    named = list(model.named_parameters())
    matrices = [value for name, value in named if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in named if value.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(
            matrices, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(
    model: LlamaForCausalLM, made: Sequence[Sequence[Sequence[int]]], falls: int, dev: Encoded, pad: int
) -> None:
    """Every batch once, with a line of progress now and then."""
    learners = optimizers(model)
    began, tokens = time.perf_counter(), 0
    for step, batch in enumerate(made):
        ids, labels = padded(batch, pad)
        count = int((labels[:, 1:] != IGNORED).sum())
        loss = loss_sum(model, ids, labels) / count
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for learner in learners:
            for group in learner.param_groups:
                group["lr"] = rate(step, len(made), falls)
            learner.step()
            learner.zero_grad(set_to_none=True)
        tokens += count
        if (step + 1) % 50 == 0:
            speed = tokens / (time.perf_counter() - began)
            left = (len(made) - step - 1) * (time.perf_counter() - began) / (step + 1)
            held_out = f"  held out {held_out_loss(model, dev, pad):.4f}" if (step + 1) % 200 == 0 else ""
            state = f"loss {loss.item():.3f}  {speed:,.0f} tokens/s  {left / 60:.0f} min left{held_out}"
            print(f"{step + 1}/{len(made)}  {state}", flush=True)


def main() -> None:
    """Read, train, save, and write down the held-out loss."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", type=Path, required=True, help="folder of the two zip files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    arguments = parser.parse_args()
    reuse_freed_memory()
    sentences = language_sentences(arguments.reviews)
    kept = [common_sentences(sentences.train, phase.rarest) for phase in PHASES]
    tokenizer = train_tokenizer(kept[-1])

    def encode(texts: Sequence[str]) -> Encoded:
        every = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts))["input_ids"]]
        return [ids for ids in every if len(ids) <= LONGEST]

    common = {word for text in kept[-1] for word in key(text).split()}
    dev = encode([text for text in sentences.dev if set(key(text).split()) <= common])
    model = new_model(tokenizer, SEED)
    made, falls = plan([encode(texts) for texts in kept])
    print(
        f"{sum(value.numel() for value in model.parameters()):,} parameters, {len(made):,} steps, "
        f"{' and '.join(f'{len(texts):,}' for texts in kept)} sentences",
        flush=True,
    )
    train(model, made, falls, dev, tokenizer.pad_token_id)
    loss = held_out_loss(model, dev, tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    figures = {
        "held-out nats a token": round(loss, 4),
        "held-out sentences": len(dev),
        "torch": torch.__version__,
    }
    (arguments.out / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
