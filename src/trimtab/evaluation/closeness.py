"""How close a model's answer comes to the one a person wrote.

Every score lies in [0, 1]; 1 is as close as it can tell. None means there was nothing to score: a
reference without numbers, an example without keywords. Where neither text has anything that a score
counts (words, characters), equal texts score 1 and others 0, so that every text is as close as can be
to itself. None of the scores knows whether an answer is true or as good in other words; the embedding
comes nearest to the latter. Left out: stemming, synonyms, several references for one answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trimtab.evaluation.numbers import numbers
from trimtab.evaluation.words import holds, normalise, single_spaced, words
from trimtab.statistics.bootstrap import bootstrap_mean
from trimtab.statistics.intervals import Interval, wilson

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

Encoder = Callable[[Sequence[str]], NDArray[np.floating]]
"""Texts to vectors, [texts, dimensions]; any length of vector, finite."""

LONGEST = 100_000
"""Words of a text that ROUGE-L reads; two such texts take about two seconds."""

EXACT = "exact"
NORMALISED = "normalised"
KEYWORDS = "keywords"
EMBEDDING = "embedding"


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: the F1 of the longest common subsequence of words.

    The words are those of `evaluation.words`, in every script and without a stemmer; on such words it is
    the figure of the rouge-score package, whose table of all pairs would take hours for two long texts.
    Words after the first `LONGEST` are not read. Symmetric.
    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1.
    """
    said, wanted = words(answer)[:LONGEST], words(reference)[:LONGEST]
    if not said and not wanted:
        return exact(answer, reference)
    return 2 * common_subsequence(said, wanted) / (len(said) + len(wanted))


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time as bits of one integer.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited", AWOCA.
    """
    shorter, longer = sorted((first, second), key=len)
    places: dict[str, int] = {}
    for index, word in enumerate(longer):
        places[word] = places.get(word, 0) | 1 << index
    everywhere = (1 << len(longer)) - 1
    row = everywhere  # a 0 bit is a place where the subsequence grows by one
    for word in shorter:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everywhere
    return len(longer) - row.bit_count()


def chrf(answer: str, reference: str) -> float:
    """chrF: F-score of character 1- to 6-grams without spaces, recall counting twice as much (beta 2).

    sacrebleu's sentence score, word order 0, as a share; before it NFC, so that é is one character
    however it was typed. Case counts. Not symmetric.
    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", WMT.
    """
    answer, reference = (unicodedata.normalize("NFC", text) for text in (answer, reference))
    if not answer.split() and not reference.split():
        return 1.0
    score: float = _chrf().sentence_score(answer, [reference]).score / 100
    return score


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(char_order=6, word_order=0, beta=2)


def exact(answer: str, reference: str) -> float:
    """1 where both are the same characters, space around them and composition (NFC) aside."""
    first, second = (unicodedata.normalize("NFC", text).strip() for text in (answer, reference))
    return float(first == second)


def normalised(answer: str, reference: str) -> float:
    """1 where both are the same after `words.normalise`: case, punctuation, articles and spacing aside."""
    said, wanted = normalise(answer), normalise(reference)
    return float(said == wanted) if said or wanted else exact(answer, reference)


def number_accuracy(answer: str, reference: str) -> float | None:
    """Share of the reference's distinct numbers that occur in the answer; None where it has none.

    What counts as a number, and when two are the same, is told in `evaluation.numbers`. Others in the
    answer cost nothing: an answer that counts from 1 to 100 has them all.
    """
    wanted = numbers(reference)
    return len(wanted & numbers(answer)) / len(wanted) if wanted else None


def keyword_accuracy(answer: str, keywords: Sequence[str]) -> float | None:
    """Share of the keywords that stand in the answer as whole words; None where none are given.

    Raises:
        ValueError: a keyword is blank.
    """
    distinct = {single_spaced(keyword) for keyword in keywords}
    if "" in distinct:
        raise ValueError(f"a keyword is blank, in {keywords!r}")
    return sum(holds(answer, keyword) for keyword in distinct) / len(distinct) if distinct else None


def embedding_similarities(
    answers: Sequence[str], references: Sequence[str], encoder: Encoder
) -> list[float]:
    """Cosine between the vectors of each answer and its reference; a negative one counts 0, unrelated.

    Texts of which one has no vector (all zeros) score as equal or not. Each distinct text is encoded once.

    Raises:
        ValueError: the encoder returns another number of vectors than texts, or one that is not finite.
    """
    texts = list(dict.fromkeys([*answers, *references]))
    if not texts:
        return []
    vectors = np.asarray(encoder(texts), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise ValueError(f"the encoder must give one finite vector a text, got shape {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = dict(zip(texts, vectors / np.where(lengths > 0, lengths, 1), strict=True))
    return [
        1.0 if answer == reference else float(np.clip(units[answer] @ units[reference], 0, 1))
        for answer, reference in zip(answers, references, strict=True)
    ]


SCORES: Mapping[str, Callable[[str, str], float | None]] = {
    "rouge_l": rouge_l,
    "chrf": chrf,
    EXACT: exact,
    NORMALISED: normalised,
    "numbers": number_accuracy,
}
"""Those of two texts alone. Keywords and embeddings need something besides, and join them in `score_all`."""

MEANING: Mapping[str, str] = {
    "rouge_l": "words in common, in order (ROUGE-L F1)",
    "chrf": "stretches of characters in common (chrF)",
    EXACT: "the very same text",
    NORMALISED: "the same but for case, punctuation and articles",
    "numbers": "share of the reference's numbers found",
    KEYWORDS: "share of the keywords found",
    EMBEDDING: "similar meaning (cosine of sentence embeddings)",
}
"""Every score in a few words, in the order of tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One example: what a model answered, and what a person did."""

    answer: str
    reference: str
    keywords: tuple[str, ...] = ()
    """What a good answer must name, where someone said so."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """An example with its scores by name."""

    example: Answered
    scores: Mapping[str, float | None]
    """In the order of `MEANING`; without the embedding where no encoder was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """One score over all examples."""

    name: str
    mean: Interval | None
    """None where fewer than two examples have the score."""
    scored: int
    left_out: int
    """Examples in which there was nothing to score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreChange:
    """One score of two systems on the same examples."""

    name: str
    difference: Interval | None
    """The second minus the first, over examples; None where fewer than two have the score."""
    first: float | None
    second: float | None
    """The means over the same examples as the difference."""
    scored: int
    left_out: int


def score_all(examples: Sequence[Answered], encoder: Encoder | None = None) -> tuple[ScoredAnswer, ...]:
    """Every example with all its scores; embeddings too where there is an encoder.

    Raises:
        ValueError: a blank keyword, or vectors that are none.
    """
    cosines = (
        None
        if encoder is None
        else embedding_similarities(
            [example.answer for example in examples], [example.reference for example in examples], encoder
        )
    )
    rows = []
    for index, example in enumerate(examples):
        scores = {name: score(example.answer, example.reference) for name, score in SCORES.items()}
        scores[KEYWORDS] = keyword_accuracy(example.answer, example.keywords)
        if cosines is not None:
            scores[EMBEDDING] = cosines[index]
        rows.append(ScoredAnswer(example, scores))
    return tuple(rows)


def summarise(rows: Sequence[ScoredAnswer], *, seed: int, level: float = 0.95) -> tuple[ScoreSummary, ...]:
    """The mean of every score, with its interval over examples.

    Scores that are 0 or 1 in every example get the Wilson interval, which stays honest where all or
    none match; others the bootstrap.

    Raises:
        ValueError: no rows, or some with and some without embeddings.
    """
    return tuple(_summary(name, _column(rows, name), seed, level) for name in _names(rows))


def _summary(name: str, column: Sequence[float | None], seed: int, level: float) -> ScoreSummary:
    values = np.array([value for value in column if value is not None])
    mean = None
    if values.size and np.isin(values, (0, 1)).all():
        mean = wilson(int(values.sum()), values.size, level)
    elif values.size > 1:
        mean = bootstrap_mean(values, seed=seed, level=level)
    return ScoreSummary(name=name, mean=mean, scored=values.size, left_out=len(column) - values.size)


def paired_change(
    first: Sequence[ScoredAnswer], second: Sequence[ScoredAnswer], *, seed: int, level: float = 0.95
) -> tuple[ScoreChange, ...]:
    """How every score changed from the first system to the second, example by example.

    Raises:
        ValueError: the two did not answer the same examples in the same order, or were scored differently.
    """
    sides = [[(row.example.reference, row.example.keywords) for row in rows] for rows in (first, second)]
    if sides[0] != sides[1] or _names(first) != _names(second):
        raise ValueError("both systems must be scored on the same examples, in the same order")
    return tuple(
        _change(name, _column(first, name), _column(second, name), seed, level) for name in _names(first)
    )


def _change(
    name: str, first: Sequence[float | None], second: Sequence[float | None], seed: int, level: float
) -> ScoreChange:
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    sides = np.array(both, dtype=np.float64).reshape(-1, 2)
    means = sides.mean(axis=0).tolist() if both else [None, None]
    return ScoreChange(
        name=name,
        difference=_mean_change(sides[:, 1] - sides[:, 0], seed, level) if len(both) > 1 else None,
        first=means[0],
        second=means[1],
        scored=len(both),
        left_out=len(first) - len(both),
    )


def _mean_change(changes: NDArray[np.float64], seed: int, level: float) -> Interval:
    if changes.any():
        return bootstrap_mean(changes, seed=seed, level=level)
    # The bootstrap would claim certainty. No example of n changed: at most this share of all would.
    most = wilson(0, changes.size, level).high
    return Interval(0.0, -most, most, level, changes.size, "Wilson score of no change")


def _names(rows: Sequence[ScoredAnswer]) -> tuple[str, ...]:
    names = {tuple(row.scores) for row in rows}
    if len(names) != 1:
        raise ValueError("no rows" if not rows else "some rows have an embedding score, others have none")
    return names.pop()


def _column(rows: Sequence[ScoredAnswer], name: str) -> list[float | None]:
    return [row.scores[name] for row in rows]
