"""Reward models as judges: trimtab's own, or any sequence classification model with its own tokenizer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.data.tokens import Codec, Example, Limits, UnusableRow
from trimtab.judges.judge import Answer, Scored, Unreadable, require_finite
from trimtab.model import classifier, scalar
from trimtab.model.classifier import Classifier
from trimtab.model.passes import over_rows, response_count
from trimtab.model.scalar import Scorer
from trimtab.records import Message, Prompt

LIMITS = Limits(prompt=1024, response=1024)
"""Of what is only judged, not trained on."""
ROW_TOKENS = 2048


@dataclass(frozen=True)
class RewardModel:
    """A model that trimtab has trained: the score is read at the response's last token."""

    nats: ClassVar[bool] = True
    scorer: Scorer
    limits: Limits = LIMITS
    row_tokens: int = ROW_TOKENS
    only_text: bool = False
    """Whether it has only ever read continued plain text: then a question is read so, too."""

    @property
    def name(self) -> str:
        """What it was loaded from."""
        return self.scorer.source

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One reward an answer."""
        encoded = encode_answers(self.scorer.codec, answers, self.limits, only_text=self.only_text)
        examples = by_prompt([one for one in encoded if isinstance(one, Example)], self.row_tokens)
        scored = score(self.scorer, examples, row_tokens=self.row_tokens, name="scoring")
        rewards = iter([reward for row in scored for reward in row])
        found: list[Scored] = [next(rewards) if isinstance(one, Example) else one for one in encoded]
        require_finite(answers, found, self.name)
        return found


@dataclass(frozen=True)
class PaddedRewardModel:
    """A classification model that others have trained, as transformers runs it.

    A plain-text prompt is always a user's turn for it where its tokenizer has a chat template.
    """

    nats: ClassVar[bool] = True
    classifier: Classifier

    @property
    def name(self) -> str:
        """What it was loaded from."""
        return self.classifier.source

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One logit an answer; of two labels the log-odds of the second."""
        encoded = [_encoding_or_reason(self.classifier, answer) for answer in answers]
        readable = [one for one in encoded if not isinstance(one, Unreadable)]
        scores = iter(classifier.scores(self.classifier, readable))
        found: list[Scored] = [one if isinstance(one, Unreadable) else next(scores) for one in encoded]
        require_finite(answers, found, self.name)
        return found


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


def encode_answers(
    codec: Codec, answers: Sequence[Answer], limits: Limits, *, only_text: bool
) -> list[Example | Unreadable]:
    """Each answer as an example, or the reason why it cannot be one.

    Args:
        only_text: a question in plain text is text to continue, even where there is a chat template.
    """
    return [_example_or_reason(codec, answer, limits, only_text) for answer in answers]


def encode_answer(codec: Codec, answer: Answer, limits: Limits, *, only_text: bool) -> Example:
    """One response as an example, whole; one that was cut off before gets no stop token.

    Raises:
        UnusableRow: prompt or response is longer than its limit, or cannot become ids.
    """
    asked = _prompt(codec, answer, only_text)
    prompt, _ = codec.encode_prompt(asked, sys.maxsize)
    response = codec.encode_response(asked, answer.text, sys.maxsize, stopped=answer.stopped)
    for what, tokens, limit in (
        ("prompt", len(prompt), limits.prompt),
        ("response", len(response.ids), limits.response),
    ):
        if tokens > limit:
            raise UnusableRow(f"the {what} has {tokens} tokens, more than the {limit} that this judge reads")
    return Example(prompt, (response,))


def by_prompt(examples: Sequence[Example], row_tokens: int) -> list[Example]:
    """Neighbours with the same prompt as one example, so that the prompt is computed once.

    An example ends where another response would take it above `row_tokens`.
    """
    grouped: list[Example] = []
    for example in examples:
        last = grouped[-1] if grouped else None
        room = row_tokens - last.tokens if last else 0
        if last and last.prompt == example.prompt and example.tokens - len(example.prompt) <= room:
            grouped[-1] = Example(last.prompt, last.responses + example.responses)
        else:
            grouped.append(Example(example.prompt, example.responses))
    return grouped


def _prompt(codec: Codec, answer: Answer, only_text: bool) -> Prompt:
    """What the model is asked: a question in plain text is a user's turn where there is a chat template."""
    if answer.question and isinstance(answer.prompt, str) and codec.tokenizer.chat_template and not only_text:
        return (Message("user", answer.prompt),)
    return answer.prompt


def _example_or_reason(codec: Codec, answer: Answer, limits: Limits, only_text: bool) -> Example | Unreadable:
    try:
        return encode_answer(codec, answer, limits, only_text=only_text)
    except UnusableRow as error:
        return Unreadable(str(error))


def _encoding_or_reason(model: Classifier, answer: Answer) -> classifier.Encoding | Unreadable:
    try:
        return model.encode(answer.prompt, answer.text)
    except UnusableRow as error:
        return Unreadable(str(error))
