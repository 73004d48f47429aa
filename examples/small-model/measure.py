"""How readable the small model is: what a larger model thinks of its sentences, beside people's.

Draws 500 sentences as the demo draws them (temperature 1, no top-k or top-p, seeds 0 to 499), from the
start token and as continuations of the demo's test prompts. SmolLM2-135M-Instruct gives each token its
negative log-likelihood, in nats; so it does to people's held-out sentences, cut to the same lengths.

    python examples/small-model/measure.py --model ../small-model --reviews ../shared/data/movie-reviews
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from reviews import labelled_sentences, language_sentences

from trimtab.arena.texts import distinct
from trimtab.data.tokens import Example, Response
from trimtab.demo.sentences import key
from trimtab.model.device import choose
from trimtab.model.passes import over_rows, response_count
from trimtab.model.policy import Policy, load_policy, response_logprobs
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling

SAMPLES = 500
COPIED_WORDS = 8
READER = "smollm2-135m-instruct"
LONGEST = 48


def draw(policy: Policy, prompts: Sequence[str]) -> list[str]:
    """One sentence a prompt, the prompt included."""
    codec = policy.codec
    start = (codec.tokenizer.bos_token_id,)
    examples = [Example(codec.encode_prompt(prompt, 32)[0] if prompt else start, ()) for prompt in prompts]
    sampling = Sampling(max_new=LONGEST, stop_ids=(codec.stop_id,))
    drawn = answer(policy, examples, sampling, list(range(len(prompts))), name="drawing")
    return [
        f"{prompt}{codec.decode_response('', one.response.ids)}".strip()
        for prompt, one in zip(prompts, drawn, strict=True)
    ]


def cut_alike(ours: Sequence[Sequence[int]], people: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """For each of ours another sentence of people that is at least as long, cut to its length."""
    chance = random.Random(SAMPLES)
    left = list(people)
    cut: dict[int, Sequence[int]] = {}
    for index in sorted(range(len(ours)), key=lambda index: -len(ours[index])):
        enough = [place for place, ids in enumerate(left) if len(ids) >= len(ours[index])]
        cut[index] = left.pop(chance.choice(enough))[: len(ours[index])]
    return [cut[index] for index in range(len(ours))]


def nats_per_token(reader: Policy, texts: Sequence[Sequence[int]]) -> float:
    """Mean over tokens; the first token is read after the reader's start token."""
    start = (reader.codec.tokenizer.bos_token_id,)
    examples = [Example(start, (Response(tuple(ids), False),)) for ids in texts]
    sums = over_rows(
        examples,
        lambda row: row.sum_by_response(response_logprobs(reader.model, row)),
        response_count,
        row_tokens=2048,
        numerics=reader.numerics,
        name="reading",
    )
    return -float(torch.cat(sums).sum()) / sum(map(len, texts))


def copies(texts: Sequence[str], training: Sequence[str]) -> float:
    """Share of texts with so many words in a row that occur in the training text."""
    seen = {stretch for text in training for stretch in _stretches(text)}
    return sum(any(stretch in seen for stretch in _stretches(text)) for text in texts) / len(texts)


def _stretches(text: str) -> list[tuple[str, ...]]:
    words = key(text).split()
    return [tuple(words[first : first + COPIED_WORDS]) for first in range(len(words) - COPIED_WORDS + 1)]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--reviews", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, help="one prompt a line; without it, from the start token")
    arguments = parser.parse_args()
    numerics = choose("cpu", "auto")
    policy = load_policy(arguments.model, numerics, bytes_per_parameter=4)
    held_out = [one.text for one in labelled_sentences(arguments.reviews) if one.part in ("dev", "test")]
    training = language_sentences(arguments.reviews).train
    prompts = [""] * SAMPLES
    if arguments.prompts:
        prompts = arguments.prompts.read_text(encoding="utf-8").splitlines()[:SAMPLES]
    texts = draw(policy, prompts)
    reader = load_policy(READER, numerics, bytes_per_parameter=4)
    ids = [reader.codec.tokenizer(text)["input_ids"] for text in texts]
    people = [reader.codec.tokenizer(text)["input_ids"] for text in held_out]
    cut = cut_alike(ids, people)
    beside = [reader.codec.tokenizer.decode(one) for one in cut]
    ours, theirs = nats_per_token(reader, ids), nats_per_token(reader, cut)
    figures = {
        "nats a token": round(ours, 4),
        "people's": round(theirs, 4),
        "ratio": round(ours / theirs, 4),
        "distinct-2": round(distinct(texts), 4),
        "people's distinct-2": round(distinct(beside), 4),
        "copies": copies(texts, training),
        "people's copies": copies(beside, training),
    }
    print(json.dumps(figures))
    for text in texts[:20]:
        print(text)


if __name__ == "__main__":
    main()
