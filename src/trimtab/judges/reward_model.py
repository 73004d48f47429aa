"""A reward model as a judge: a score for each response, read as its own tokenizer and template say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data.tokens import Codec, Example, Limits, UnusableRow
from trimtab.errors import DataError
from trimtab.model import scalar
from trimtab.model.passes import over_rows, response_count
from trimtab.model.scalar import Scorer
from trimtab.records import Prompt
from trimtab.rollout.types import Rollout


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to be scored, as text, and whether it had come to its end."""

    prompt: Prompt
    text: str
    stopped: bool


def score(
    scorer: Scorer, examples: Sequence[Example], *, row_tokens: int, name: str
) -> list[tuple[float, ...]]:
    """The reward of every response of every example, in order."""
    values = over_rows(
        examples,
        lambda row: scalar.rewards(scorer.model, row),
        response_count,
        row_tokens=row_tokens,
        numerics=scorer.numerics,
        name=name,
    )
    return [tuple(part.tolist()) for part in values]


def as_read_by(
    scorer: Scorer, codec: Codec, rollouts: Sequence[Rollout], prompts: Sequence[Prompt], limits: Limits
) -> list[Example]:
    """Sampled responses as the judge's ids: the very ids where it shares the policy's tokenizer.

    Raises:
        DataError: the judge's own tokenizer, template or limits cannot take a prompt or a response.
    """
    if scorer.codec.fingerprint == codec.fingerprint:
        return [rollout.example for rollout in rollouts]
    answers = [
        Answer(prompt, codec.decode(rollout.response.ids), rollout.response.stopped)
        for prompt, rollout in zip(prompts, rollouts, strict=True)
    ]
    try:
        return [encode_answer(scorer.codec, answer, limits) for answer in answers]
    except UnusableRow as error:
        raise DataError(
            "the judge cannot read an answer",
            where=scorer.source,
            found=str(error),
            fix="use a judge that was trained from the same model as the policies, or raise max_prompt",
        ) from error


def encode_answer(codec: Codec, answer: Answer, limits: Limits) -> Example:
    """One response as an example; one that was cut off gets no stop token."""
    prompt, _ = codec.encode_prompt(answer.prompt, limits.prompt)
    response = codec.encode_response(answer.prompt, answer.text, limits.response, stopped=answer.stopped)
    return Example(prompt, (response,))
