"""A reward model as a judge: a score for each response, read as its own tokenizer and template say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.data.batches import micro_batches, pack
from trimtab.data.tokens import Codec, Example, Limits, Response, UnusableRow
from trimtab.model import scalar
from trimtab.model.scalar import Scorer
from trimtab.records import Prompt
from trimtab.rollout.types import Rollout
from trimtab.runs import progress


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to be scored, as text, and whether it had come to its end."""

    prompt: Prompt
    text: str
    stopped: bool


@torch.no_grad()
def score(
    scorer: Scorer, examples: Sequence[Example], *, row_tokens: int, name: str
) -> list[tuple[float, ...]]:
    """The reward of every response of every example, in order."""
    scores: list[tuple[float, ...]] = [()] * len(examples)
    with progress.bar(name, len(examples), unit="examples") as bar:
        for group in micro_batches(examples, row_tokens):
            row = pack([examples[index] for index in group]).to(scorer.numerics.device)
            with scorer.numerics.autocast():
                values = scalar.rewards(scorer.model, row).tolist()
            for index in group:
                count = len(examples[index].responses)
                scores[index], values = tuple(values[:count]), values[count:]
            bar.advance(len(group))
    return scores


def as_read_by(
    scorer: Scorer, codec: Codec, rollouts: Sequence[Rollout], prompts: Sequence[Prompt], limits: Limits
) -> list[Example]:
    """Sampled responses as the judge's ids: the very ids where it shares the policy's tokenizer.

    Raises:
        UnusableRow: the judge's own template or limits cannot take a prompt.
    """
    if scorer.codec.fingerprint == codec.fingerprint:
        return [rollout.example for rollout in rollouts]
    answers = [
        Answer(prompt, codec.decode(rollout.response.ids), rollout.response.stopped)
        for prompt, rollout in zip(prompts, rollouts, strict=True)
    ]
    return [encode_answer(scorer.codec, answer, limits) for answer in answers]


def encode_answer(codec: Codec, answer: Answer, limits: Limits) -> Example:
    """One response as an example; one that was cut off gets no stop token."""
    prompt, _ = codec.encode_prompt(answer.prompt, limits.prompt)
    response = codec.encode_response(answer.prompt, answer.text, limits.response)
    if response.stopped and not answer.stopped:
        if len(response.ids) == 1:
            raise UnusableRow("the response is empty and was cut off: there is no token to score")
        response = Response(response.ids[:-1], stopped=False)
    return Example(prompt, (response,))
