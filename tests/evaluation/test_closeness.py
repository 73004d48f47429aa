"""Closeness scores against cases worked by hand, the packages that define them, and properties."""

import collections
import json
import re
import string
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from trimtab.evaluation.closeness import (
    EMBEDDING,
    KEYWORDS,
    MEANING,
    SCORES,
    Answered,
    chrf,
    common_subsequence,
    embedding_similarities,
    keyword_accuracy,
    normalised,
    number_accuracy,
    paired_change,
    rouge_l,
    score_all,
    summarise,
)
from trimtab.evaluation.words import normalise, words
from trimtab.statistics.bootstrap import bootstrap_mean
from trimtab.statistics.intervals import wilson

DATA = Path(__file__).parents[1] / "data" / "closeness.jsonl"
GOLDEN = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
TEXT = st.text() | st.text(alphabet="aé \u0301日👍1.,-/½'٣ß")
SYMMETRIC = ("rouge_l", "exact", "normalised")


def fraction(text):
    return None if text is None else float(Fraction(text))


@pytest.mark.parametrize("case", GOLDEN, ids=[case["case"] for case in GOLDEN])
def test_a_case_by_hand(case):
    example = Answered(
        answer=case["answer"], reference=case["reference"], keywords=tuple(case.get("keywords", ()))
    )
    (row,) = score_all([example])
    expected = {name: fraction(score) for name, score in case["scores"].items()}
    assert row.scores == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["case"] for case in GOLDEN])
def test_the_working_of_a_case_gives_its_score(case):
    """The counts in the golden file, through the formulas in exact arithmetic."""
    overlap, grams = (case["working"][key] for key in list(case["working"])[:2])
    if overlap is not None:
        assert Fraction(case["scores"]["rouge_l"]) == Fraction(2 * overlap[0], overlap[1] + overlap[2])
    if grams is not None:
        orders = [order for order in grams if order[1] and order[2]]
        precision = sum(Fraction(shared, said) for shared, said, _ in orders) / max(len(orders), 1)
        recall = sum(Fraction(shared, wanted) for shared, _, wanted in orders) / max(len(orders), 1)
        both = 4 * precision + recall
        assert Fraction(case["scores"]["chrf"]) == (5 * precision * recall / both if both else 0)


def test_the_golden_file_holds_what_it_should():
    assert len(GOLDEN) >= 25
    assert all(set(case["scores"]) == {*SCORES, KEYWORDS} for case in GOLDEN)
    assert set(MEANING) == {*SCORES, KEYWORDS, EMBEDDING}


class OurWords:
    """The tokenizer seam of the rouge-score package."""

    def tokenize(self, text):
        return words(text)


@given(TEXT, TEXT)
def test_rouge_l_is_that_of_the_package_on_the_same_words(answer, reference):
    theirs = RougeScorer(["rougeL"], tokenizer=OurWords()).score(reference, answer)["rougeL"].fmeasure
    if words(answer) or words(reference):
        assert rouge_l(answer, reference) == pytest.approx(theirs, abs=1e-12)


@given(st.text(alphabet=string.printable))
def test_on_ascii_the_words_are_those_of_the_package(text):
    from rouge_score.tokenizers import DefaultTokenizer

    assert words(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


def squad(text):
    """normalize_answer of SQuAD's evaluation script, by its description."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(st.text(alphabet=string.digits + string.ascii_letters + string.punctuation + " \n\t") | TEXT)
def test_on_ascii_normalising_is_squads(text):
    if text.isascii() and text.isprintable():
        assert normalise(text) == squad(text)


@given(st.text(alphabet=string.ascii_letters + string.digits + " .", max_size=30), TEXT)
def test_chrf_is_its_definition(answer, reference):
    reference = reference if reference.isascii() else answer[::2]
    precisions, recalls = [], []
    for n in range(1, 7):
        grams = []
        for text in (answer, reference):
            joined = "".join(text.split())
            grams.append(collections.Counter(joined[i : i + n] for i in range(len(joined) - n + 1)))
        if grams[0] and grams[1]:
            shared = (grams[0] & grams[1]).total()
            precisions.append(shared / grams[0].total())
            recalls.append(shared / grams[1].total())
    if precisions:
        p, r = np.mean(precisions), np.mean(recalls)
        assert chrf(answer, reference) == pytest.approx(5 * p * r / (4 * p + r) if p + r else 0, abs=1e-9)


@given(TEXT, TEXT)
def test_every_score_is_a_share_or_nothing(answer, reference):
    scores = [score(answer, reference) for score in SCORES.values()]
    assert all(score is None or 0 <= score <= 1 for score in scores)
    assert (number_accuracy(answer, reference) is None) == (number_accuracy(reference, reference) is None)


@given(TEXT)
def test_every_text_is_closest_to_itself(text):
    assert {score(text, text) for score in SCORES.values()} <= {1.0, None}
    if text.split():
        assert keyword_accuracy(text, [text]) == 1.0


@given(TEXT, TEXT)
def test_symmetric_scores_are(answer, reference):
    for name in SYMMETRIC:
        assert SCORES[name](answer, reference) == SCORES[name](reference, answer)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_common_subsequence_is_the_tables(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    assert common_subsequence(first, second) == table[-1, -1]


def test_half_a_character_is_scored_too():
    assert score_all([Answered(answer="a\ud800", reference="a")])[0].scores["rouge_l"] == 1.0


def test_long_texts_take_seconds_at_most():
    """12,000 words a side: the package fills a table of 144 million cells, a minute and a gigabyte."""
    generator = np.random.default_rng(0)
    said, wanted = (" ".join(map(str, generator.integers(0, 50, 12_000))) for _ in range(2))
    assert 0.2 < rouge_l(said, wanted) < 0.3  # two random texts of 50 words share a quarter
    assert rouge_l("a" * 10**5, "b" * 10**5) == 0
    assert number_accuracy("1/" * 10**4, "1," * 10**4) == 1.0
    assert keyword_accuracy("a" * 10**5, ["a"]) == 0.0


def test_words_after_the_longest_text_are_not_read(monkeypatch):
    monkeypatch.setattr("trimtab.evaluation.closeness.LONGEST", 2)
    assert rouge_l("a b c", "a b d e") == 1.0


@pytest.mark.parametrize(
    ("answer", "keywords", "expected"),
    [
        ("Cats, dogs", ["cat"], 0),
        ("Cats, dogs", ["DOGS", "cats"], 1),
        ("snow_man", ["snow"], 1),
        ("cafe\u0301 noir", ["cafe"], 0),
        ("cafe\u0301 noir", ["CAFÉ"], 1),
        ("नमस्ते", ["नम"], 0),
        ("नमस्ते", ["नमस"], 0),  # a mark goes on where the keyword ends
        ("a👍b", ["👍", "a"], 1),
        ("x2 = 4", ["x", "4"], 1 / 2),
        ("", ["x"], 0),
        ("x", [], None),
    ],
)
def test_keywords_are_whole_words(answer, keywords, expected):
    assert keyword_accuracy(answer, keywords) == expected


def test_a_blank_keyword_is_refused():
    with pytest.raises(ValueError, match="blank"):
        keyword_accuracy("x", ["x", " "])


def test_articles_are_words_of_their_own():
    assert normalised("theatre", "theatre the") == 1
    assert normalised("theatre", "atre") == 0
    assert normalised("a", "the") == 0  # nothing left of either: they must be the same


VECTORS = {"up": [2.0, 0.0], "right": [0.0, 3.0], "between": [1.0, 1.0], "down": [-1.0, 0.0], "": [0.0, 0.0]}


def encoder(texts):
    assert len(texts) == len(set(texts)), "each text once"
    return np.array([VECTORS[text] for text in texts])


def test_embedding_similarity_is_the_cosine():
    pairs = [("up", "up"), ("up", "right"), ("up", "between"), ("up", "down"), ("", ""), ("", "up")]
    values = embedding_similarities([a for a, _ in pairs], [r for _, r in pairs], encoder)
    assert values == pytest.approx([1, 0, 0.5**0.5, 0, 1, 0], abs=1e-12)
    assert embedding_similarities([], [], encoder) == []


@pytest.mark.parametrize("vectors", [np.ones((1, 2)), np.ones(2), np.full((2, 2), np.nan)])
def test_vectors_that_are_none_are_refused(vectors):
    with pytest.raises(ValueError, match="finite vector"):
        embedding_similarities(["a"], ["b"], lambda texts: vectors)


def answered(*answers, reference="7 is a prime"):
    return [Answered(answer=answer, reference=reference) for answer in answers]


def test_a_summary_leaves_out_what_was_not_scored_and_counts_it():
    examples = [*answered("7 is a prime", "7", "no"), Answered(answer="yes", reference="yes")]
    rows = score_all(examples)
    summary = {score.name: score for score in summarise(rows, seed=4)}
    assert tuple(summary) == ("rouge_l", "chrf", "exact", "normalised", "numbers", "keywords")
    assert (summary["numbers"].scored, summary["numbers"].left_out) == (3, 1)
    assert summary["numbers"].mean == wilson(2, 3)
    assert summary["exact"].mean == wilson(2, 4)
    assert summary["rouge_l"].mean == bootstrap_mean([1.0, 2 / 5, 0.0, 1.0], seed=4)
    assert (summary["keywords"].mean, summary["keywords"].left_out) == (None, 4)


def test_a_mean_of_one_example_has_no_interval():
    summary = {score.name: score.mean for score in summarise(score_all(answered("7")), seed=0)}
    assert summary["rouge_l"] is None
    assert summary["exact"] == wilson(0, 1)


def test_a_paired_change_is_the_mean_of_the_differences():
    first, second = score_all(answered("7", "no", "7 is")), score_all(answered("7 is a prime", "no", "8"))
    change = {score.name: score for score in paired_change(first, second, seed=2)}
    differences = [1 - 2 / 5, 0.0, 0 - 4 / 6]
    assert change["rouge_l"].difference == bootstrap_mean(differences, seed=2)
    assert change["rouge_l"].second - change["rouge_l"].first == pytest.approx(np.mean(differences))
    assert change["numbers"].difference.estimate == pytest.approx(-1 / 3)
    assert (change["keywords"].difference, change["keywords"].left_out) == (None, 3)


def test_no_change_at_all_is_not_certainty():
    rows = score_all(answered("7", "no", "7 is"))
    change = paired_change(rows, rows, seed=0)[0].difference
    assert (change.estimate, change.low, change.high) == (0, -wilson(0, 3).high, wilson(0, 3).high)


def test_what_cannot_be_compared_is_refused():
    rows = score_all(answered("7", "no"))
    with pytest.raises(ValueError, match="same examples"):
        paired_change(rows, rows[::-1][:1], seed=0)
    with pytest.raises(ValueError, match="same examples"):
        paired_change(rows, score_all(answered("7", "no", reference="8")), seed=0)
    with pytest.raises(ValueError, match="no rows"):
        summarise([], seed=0)
    mixed = [*score_all([Answered(answer="up", reference="up")], encoder), *rows]
    with pytest.raises(ValueError, match="embedding"):
        summarise(mixed, seed=0)
