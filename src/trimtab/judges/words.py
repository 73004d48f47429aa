"""A linear classifier of words as a judge: the probability that a text is good, by the words in it.

TF-IDF of words and of pairs of words, weighed by logistic regression. Scoring needs no library and runs no
code from the folder: three arrays and a list of terms.

Dimensions: V = terms.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ModelError
from trimtab.judges.judge import Answer, Scored
from trimtab.model.bundles import SCORERS
from trimtab.records import prompt_text

FloatArray = NDArray[np.float64]

_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True)
class WordJudge:
    """Scores the prompt and the response as one text; scores lie between 0 and 1."""

    nats: ClassVar[bool] = False
    name: str
    places: Mapping[str, int]
    """Term -> its place in the arrays."""
    idf: FloatArray  # [V]
    weights: FloatArray  # [V] log-odds
    bias: float

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """P(good) of each text."""
        return [1 / (1 + math.exp(-self._log_odds(whole_text(answer)))) for answer in answers]

    def _log_odds(self, text: str) -> float:
        counts = Counter(place for term in terms_of(text) if (place := self.places.get(term)) is not None)
        if not counts:
            return self.bias
        chosen = np.fromiter(counts, dtype=np.int64)
        values = (1 + np.log(np.fromiter(counts.values(), dtype=np.float64))) * self.idf[chosen]
        return float(values @ self.weights[chosen] / np.linalg.norm(values)) + self.bias


def load_word_judge(folder: str) -> WordJudge:
    """Read what `examples/small-model/train_scorers.py` writes: terms.json and weights.safetensors.

    Args:
        folder: or the name of a scorer that the package carries.

    Raises:
        ModelError: a file is missing or is not of this kind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = SCORERS.get(folder, Path(folder))
    try:
        terms = json.loads((path / "terms.json").read_text(encoding="utf-8"))
        arrays = load_file(path / "weights.safetensors")
        idf, weights = (arrays[name].astype(np.float64) for name in ("idf", "weights"))
        bias = float(arrays["bias"][0])
        if not len(terms) == len(idf) == len(weights):
            raise ValueError(f"{len(terms)} terms for arrays of {len(idf)} and {len(weights)}")
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(
            "this is no classifier of words",
            where=f"words:{folder}",
            found=str(error),
            fix="name a folder with terms.json and weights.safetensors",
        ) from error
    return WordJudge(f"words:{folder}", {term: place for place, term in enumerate(terms)}, idf, weights, bias)


def terms_of(text: str) -> Iterator[str]:
    """Words of two letters and more, and each two that follow each other; in lower case."""
    words = _WORD.findall(text.lower())
    yield from words
    yield from (f"{first} {second}" for first, second in itertools.pairwise(words))


def whole_text(answer: Answer) -> str:
    """Prompt and response as one text: what continues a text is a part of it."""
    if isinstance(answer.prompt, str):
        return answer.prompt + answer.text
    return f"{prompt_text(answer.prompt)}\n{answer.text}"
