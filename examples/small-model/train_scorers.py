"""Train the two scorers of the demo on the gold part of the one-sentence reviews, and say how good they are.

The gold scorer is a classifier of words; the witness, a probe of the small language model, is of another
family. Both are measured on the sentences whose beginnings are prompts for training and development: neither
a scorer nor the language model has seen them.

    python examples/small-model/train_scorers.py --reviews ../shared/data/movie-reviews
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from reviews import Sentence, labelled_sentences
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trimtab.data.tokens import Example
from trimtab.demo.assets import ASSETS
from trimtab.judges.judge import Answer, ScoringJudge
from trimtab.judges.probe import load_probe, mean_states
from trimtab.judges.words import load_word_judge, terms_of
from trimtab.model.device import choose
from trimtab.model.policy import load_policy
from trimtab.statistics.intervals import Interval, wilson


def train_words(sentences: Sequence[Sentence], folder: Path) -> None:
    """TF-IDF of the terms that two sentences hold, and logistic regression."""
    vectorizer = TfidfVectorizer(analyzer=lambda text: list(terms_of(text)), min_df=2, sublinear_tf=True)
    features = vectorizer.fit_transform([one.text for one in sentences])
    found = LogisticRegression(C=4.0, max_iter=1000).fit(features, [one.positive for one in sentences])
    folder.mkdir(parents=True, exist_ok=True)
    terms = json.dumps(vectorizer.get_feature_names_out().tolist(), ensure_ascii=False)
    (folder / "terms.json").write_text(terms, encoding="utf-8")
    arrays = {"idf": vectorizer.idf_, "weights": found.coef_[0], "bias": found.intercept_}
    save_file(
        {name: value.astype(np.float32) for name, value in arrays.items()}, folder / "weights.safetensors"
    )


def train_probe(sentences: Sequence[Sentence], folder: Path) -> None:
    """Logistic regression of the model's mean hidden states, standardised for the fit."""
    model = load_policy(str(folder.parent / "model"), choose("cpu", "float32"), bytes_per_parameter=4)
    tokenizer = model.codec.tokenizer
    texts = [Example(tuple(tokenizer(one.text)["input_ids"]), ()) for one in sentences]
    states = torch.stack(mean_states(model, texts)).double().numpy()
    mean, spread = states.mean(0), states.std(0)
    found = LogisticRegression(C=0.01, max_iter=2000).fit(
        (states - mean) / spread, [one.positive for one in sentences]
    )
    weights = found.coef_[0] / spread
    bias = found.intercept_ - weights @ mean
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"weights": weights, "bias": bias}
    save_file(
        {name: value.astype(np.float32) for name, value in arrays.items()}, folder / "probe.safetensors"
    )


def accuracy(judge: ScoringJudge, sentences: Sequence[Sentence]) -> Interval:
    """Share of sentences on the right side of a half."""
    scores = judge.score([Answer("", one.text) for one in sentences])
    right = [
        isinstance(score, float) and (score > 0.5) == one.positive
        for score, one in zip(scores, sentences, strict=True)
    ]
    return wilson(sum(right), len(right))


def main() -> None:
    """Train both, measure both, write the figures beside them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", type=Path, required=True, help="folder of the two zip files")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder that holds `model`")
    arguments = parser.parse_args()
    sentences = labelled_sentences(arguments.reviews)
    gold = [one for one in sentences if one.part == "gold"]
    unseen = [one for one in sentences if one.part in ("train", "dev")]
    train_words(gold, arguments.assets / "gold")
    train_probe(gold, arguments.assets / "witness")
    judges = {
        "gold": load_word_judge(str(arguments.assets / "gold")),
        "witness": load_probe(str(arguments.assets / "witness"), choose("cpu", "float32")),
    }
    figures = {name: accuracy(judge, unseen).percent() for name, judge in judges.items()}
    print(json.dumps({"trained on": len(gold), "measured on": len(unseen), **figures}, ensure_ascii=False))


if __name__ == "__main__":
    main()
