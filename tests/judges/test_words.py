"""The classifier of words against scikit-learn, of which it is the scoring half."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trimtab.errors import ModelError
from trimtab.judges.judge import Answer
from trimtab.judges.named import load_judge
from trimtab.judges.words import load_word_judge, terms_of
from trimtab.model.device import choose
from trimtab.records import Message

GOOD = ["A good film, a very good film.", "Lovely and warm", "good fun for all", "it's a warm, lovely joy"]
BAD = ["A bad film.", "Dull and very bad", "no fun at all, dull", "it's a cold mess of a film"]
UNSEEN = ["", "zzz", "a very bad joy", "GOOD good\nfun", "It's lovely, and it's dull", "Ärger über good film"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fitted by scikit-learn with the same terms."""
    vectorizer = TfidfVectorizer(analyzer=lambda text: list(terms_of(text)), sublinear_tf=True)
    features = vectorizer.fit_transform(GOOD + BAD)
    fitted = LogisticRegression().fit(features, [1] * len(GOOD) + [0] * len(BAD))
    (tmp_path / "terms.json").write_text(json.dumps(vectorizer.get_feature_names_out().tolist()))
    arrays = {"idf": vectorizer.idf_, "weights": fitted.coef_[0], "bias": fitted.intercept_}
    save_file(
        {name: value.astype(np.float32) for name, value in arrays.items()}, tmp_path / "weights.safetensors"
    )
    expected = fitted.predict_proba(vectorizer.transform(UNSEEN))[:, 1]
    (tmp_path / "expected.json").write_text(json.dumps(expected.tolist()))
    return tmp_path


def test_it_scores_as_scikit_learn_does(folder: Path) -> None:
    judge = load_judge((f"words:{folder}",), choose("cpu", "float32"))
    expected = json.loads((folder / "expected.json").read_text())
    assert judge.score([Answer("", text) for text in UNSEEN]) == pytest.approx(expected, abs=1e-6)
    assert judge.name == f"words:{folder}" and not judge.nats


def test_words_and_pairs_are_scikit_learns_own() -> None:
    theirs = TfidfVectorizer(ngram_range=(1, 2)).build_analyzer()
    for text in [*UNSEEN, *GOOD, "don't x-y 3d 10/10 naïve café"]:
        assert sorted(terms_of(text)) == sorted(theirs(text))


def test_a_continuation_is_one_text_with_its_prompt(folder: Path) -> None:
    judge = load_word_judge(str(folder))
    (whole,), (parts,) = judge.score([Answer("", "A good film")]), judge.score([Answer("A go", "od film")])
    assert whole == parts
    chat = judge.score([Answer((Message("user", "good?"),), "bad")])[0]
    assert isinstance(chat, float)


def test_what_is_no_such_folder_is_told(folder: Path) -> None:
    with pytest.raises(ModelError, match="no classifier of words"):
        load_word_judge(str(folder / "nowhere"))
    (folder / "terms.json").write_text('["one"]')
    with pytest.raises(ModelError, match="1 terms for arrays"):
        load_word_judge(str(folder))
    (folder / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="no classifier of words"):
        load_word_judge(str(folder))
