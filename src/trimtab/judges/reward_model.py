"""Reward models as judges: a trimtab run, or any sequence classification model with its own tokenizer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data.tokens import Codec, Example, Limits, UnusableRow
from trimtab.judges.judge import Answer, Scored, Unreadable
from trimtab.model import classifier, scalar
from trimtab.model.classifier import Classifier
from trimtab.model.passes import over_rows, response_count
from trimtab.model.scalar import Scorer

LIMITS = Limits(prompt=1024, response=1024)
"""Of what is only judged, not trained on."""
ROW_TOKENS = 2048


@dataclass(frozen=True)
class RewardModel:
    """A model that trimtab packs: the score is read at the response's last token."""

    scorer: Scorer
    limits: Limits = LIMITS
    row_tokens: int = ROW_TOKENS

    @property
    def name(self) -> str:
        """What it was loaded from."""
        return self.scorer.source

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One reward an answer."""
        encoded = encode_answers(self.scorer.codec, answers, self.limits)
        readable = [one for one in encoded if isinstance(one, Example)]
        scored = score(self.scorer, by_prompt(readable), row_tokens=self.row_tokens, name="scoring")
        rewards = iter([reward for row in scored for reward in row])
        return [next(rewards) if isinstance(one, Example) else one for one in encoded]


@dataclass(frozen=True)
class PaddedRewardModel:
    """A classification model of another kind, as transformers runs it."""

    classifier: Classifier

    @property
    def name(self) -> str:
        """What it was loaded from."""
        return self.classifier.source

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One logit an answer; of two labels the log-odds of the second."""
        return list(classifier.scores(self.classifier, [(answer.prompt, answer.text) for answer in answers]))


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


def encode_answers(codec: Codec, answers: Sequence[Answer], limits: Limits) -> list[Example | Unreadable]:
    """Each answer as an example, or the reason why it cannot be one."""
    return [_example_or_reason(codec, answer, limits) for answer in answers]


def encode_answer(codec: Codec, answer: Answer, limits: Limits) -> Example:
    """One response as an example; one that was cut off gets no stop token."""
    prompt, _ = codec.encode_prompt(answer.prompt, limits.prompt)
    response = codec.encode_response(answer.prompt, answer.text, limits.response, stopped=answer.stopped)
    return Example(prompt, (response,))


def by_prompt(examples: Sequence[Example]) -> list[Example]:
    """Neighbours with the same prompt as one example, so that the prompt is computed once."""
    return [
        Example(prompt, tuple(response for example in group for response in example.responses))
        for prompt, group in itertools.groupby(examples, key=lambda example: example.prompt)
    ]


def _example_or_reason(codec: Codec, answer: Answer, limits: Limits) -> Example | Unreadable:
    try:
        return encode_answer(codec, answer, limits)
    except UnusableRow as error:
        return Unreadable(str(error))
