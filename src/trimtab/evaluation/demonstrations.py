"""How close models come to what people wrote, and whether they still know what they knew.

Every model answers the same prompts with its likeliest tokens; its answers are scored against people's, and
the likelihood of people's answers and of plain text is measured. The first model is the measure of the
others: their changes are taken example by example.

Unit of likelihood: nats per token; perplexity is its exponential.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab import formats
from trimtab.data.tokens import Codec, Example, Limits, Response, encode_demonstrations
from trimtab.errors import DataError, ModelError
from trimtab.evaluation.closeness import (
    Answered,
    Encoder,
    ScoreChange,
    ScoredAnswer,
    ScoreSummary,
    paired_change,
    score_all,
    summarise,
)
from trimtab.evaluation.settings import DemonstrationSettings
from trimtab.model.device import Numerics, choose
from trimtab.model.passes import over_rows, response_count
from trimtab.model.policy import Policy, load_policy, response_logprobs
from trimtab.records import Demonstration
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling
from trimtab.statistics.bootstrap import bootstrap_mean, linearised_ratio
from trimtab.statistics.intervals import Interval
from trimtab.statistics.resampling import FloatArray

FROZEN_BYTES = 4
PASSAGE = 512
"""Tokens of a passage of plain text at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Nats per token of held-out text under one model."""

    mean: Interval
    change: Interval | None
    """Against the first model, example by example; None for the first model itself."""

    @property
    def perplexity(self) -> float:
        """exp(mean)."""
        return math.exp(self.mean.estimate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScores:
    """One model's closeness and likelihoods."""

    model: str
    closeness: tuple[ScoreSummary, ...]
    changes: tuple[ScoreChange, ...]
    """Against the first model; empty for the first model itself."""
    demonstrations: Loss
    text: Loss | None
    """None where no plain text was given."""
    passages_left_out: int
    """Passages of plain text of one token, of which no token is foretold by another."""
    answers: tuple[ScoredAnswer, ...]


@dataclass(frozen=True)
class _Measured:
    """What is known of one model before it is compared."""

    model: str
    tokens: str  # fingerprint of the tokenizer
    answers: tuple[ScoredAnswer, ...]
    demonstrations: FloatArray  # one value a demonstration whose mean is nats per token
    text: FloatArray | None
    passages_left_out: int


def evaluate(settings: DemonstrationSettings, encoder: Encoder | None) -> tuple[ModelScores, ...]:
    """Let every model answer, and measure it.

    Raises:
        DataError: fewer than two demonstrations or passages can be used.
        ModelError: a model cannot be read, or has another tokenizer than the first.
    """
    rows = formats.usable(formats.read_demonstrations(settings.data))[: settings.count]
    if len(rows) < 2:
        raise DataError(
            "an interval needs at least two demonstrations",
            where=settings.data,
            found=f"{len(rows)}",
            fix="give a file with more of them, or leave --count out",
        )
    passages = [] if settings.text is None else read_passages(Path(settings.text))
    numerics = choose(settings.device, settings.precision)
    measured = [_measure(model, rows, passages, settings, numerics, encoder) for model in settings.models]
    return tuple(_compared(one, measured[0], settings.seed) for one in measured)


def read_passages(path: Path) -> list[str]:
    """The passages of a text file: what stands between blank lines.

    Raises:
        DataError: the file cannot be read, or holds fewer than two.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the text cannot be read", where=str(path), found=str(error)) from error
    passages = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(passages) < 2:
        raise DataError(
            "an interval needs at least two passages",
            where=str(path),
            found=f"{len(passages)}",
            fix="part the passages by blank lines",
        )
    return passages


def _measure(
    model: str,
    rows: Sequence[formats.Row[Demonstration]],
    passages: Sequence[str],
    settings: DemonstrationSettings,
    numerics: Numerics,
    encoder: Encoder | None,
) -> _Measured:
    policy = load_policy(model, numerics, bytes_per_parameter=FROZEN_BYTES)
    limits = Limits(prompt=settings.max_prompt, response=settings.max_response)
    encoded = encode_demonstrations(policy.codec, rows, limits)
    if encoded.left_out:
        where, reason = encoded.left_out[0]
        raise DataError(
            "a demonstration cannot be used",
            where=where,
            found=reason,
            fix="leave it out: every model must be measured on the same rows",
        )
    text = _encode_passages(policy.codec, passages, str(settings.text))
    sampling = Sampling(max_new=settings.max_response, temperature=0, stop_ids=(policy.codec.stop_id,))
    rollouts = answer(policy, encoded.examples, sampling, [0] * len(rows), name=f"{Path(model).name} answers")
    answered = [
        Answered(
            answer=policy.codec.decode(rollout.response.ids),
            reference=row.record.response.strip(),
            keywords=row.record.keywords,
        )
        for rollout, row in zip(rollouts, rows, strict=True)
    ]
    return _Measured(
        model,
        policy.codec.fingerprint,
        score_all(answered, encoder),
        _nats_per_token(policy, encoded.examples, settings.row_tokens, "demonstrations"),
        _nats_per_token(policy, text, settings.row_tokens, "plain text") if text else None,
        len(passages) - len(text),
    )


def _encode_passages(codec: Codec, passages: Sequence[str], where: str) -> list[Example]:
    """Each passage as a response to its own first token; those of one token are left out."""
    ids = [tuple(codec.tokenizer(passage)["input_ids"])[:PASSAGE] for passage in passages]
    long = [Example(one[:1], (Response(one[1:], stopped=False),)) for one in ids if len(one) > 1]
    if passages and len(long) < 2:
        raise DataError(
            "an interval needs at least two passages of two tokens or more",
            where=where,
            found=f"{len(long)}, and {len(ids) - len(long)} of one token",
            fix="part longer passages by blank lines",
        )
    return long


def _nats_per_token(policy: Policy, examples: Sequence[Example], row_tokens: int, name: str) -> FloatArray:
    values = over_rows(
        examples,
        lambda row: row.sum_by_response(response_logprobs(policy.model, row)),
        response_count,
        row_tokens=row_tokens,
        numerics=policy.numerics,
        name=name,
    )
    tokens = [len(example.responses[0].ids) for example in examples]
    return linearised_ratio([-float(value) for value in values], tokens)


def _compared(one: _Measured, first: _Measured, seed: int) -> ModelScores:
    if one.tokens != first.tokens:
        raise ModelError(
            "nats per token of different tokenizers cannot be compared",
            where=one.model,
            found=f"another tokenizer or chat template than {first.model}",
            fix="evaluate them apart, or compare models that were trained from the same one",
        )
    alone = one is first
    return ModelScores(
        model=one.model,
        closeness=summarise(one.answers, seed=seed),
        changes=() if alone else paired_change(first.answers, one.answers, seed=seed),
        demonstrations=_loss(one.demonstrations, None if alone else first.demonstrations, seed),
        text=None if one.text is None else _loss(one.text, None if alone else first.text, seed),
        passages_left_out=one.passages_left_out,
        answers=one.answers,
    )


def _loss(values: FloatArray, before: FloatArray | None, seed: int) -> Loss:
    change = None if before is None else bootstrap_mean(np.subtract(values, before), seed=seed)
    return Loss(mean=bootstrap_mean(values, seed=seed), change=change)
