"""Cleaning by example, and a split in which no sentence stands twice."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from trimtab.demo.sentences import SHARES, clean, key, part_of

ROOT = Path(__file__).parents[2]
REVIEWS = ROOT.parent / "shared" / "data" / "movie-reviews"


@pytest.mark.parametrize(
    ("line", "cleaned"),
    [
        ("simplistic , silly and tedious . ", "Simplistic, silly and tedious."),
        ('the new " conan " is a joy , i think', 'The new "conan" is a joy, I think.'),
        ("i'm told that i am wrong . i doubt it .", "I'm told that I am wrong. I doubt it."),
        ("winona ( as abigail ) is very good here .", "Winona is very good here."),
        ("j . r . r . tolkien's book is a better one . . .", "J.R.R. Tolkien's book is a better one..."),
        ("smith vs . jones is fine . mr . smith wins", "Smith vs. jones is fine. Mr. Smith wins."),
        ("too short .", None),
        ("see http://example.org for the rest of it", None),
        ("an ( unclosed remark is left out of it", None),
        (" . . . and so on it goes , again", None),
        ("word " * 41, None),
    ],
)
def test_lines_become_sentences(line: str, cleaned: str | None) -> None:
    assert clean(line) == cleaned


def test_the_part_follows_from_the_words_alone() -> None:
    assert part_of("A good film!") == part_of("a  GOOD film") == part_of("“A good film.”")
    assert key("It's a good-ish film.") == "it s a good ish film"
    parts = Counter(part_of(f"sentence number {number}") for number in range(20_000))
    assert {part: parts[part] / 20_000 for part in SHARES} == pytest.approx(SHARES, abs=0.01)
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.skipif(not REVIEWS.exists(), reason="needs the movie reviews beside the checkout")
def test_no_sentence_is_in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "small-model"))
    from reviews import labelled_sentences, language_sentences

    labelled, language = labelled_sentences(REVIEWS), language_sentences(REVIEWS)
    sys.modules.pop("reviews")
    assert len(labelled) > 9_900 and len(language.train) > 50_000
    parts: dict[str, set[str]] = {part: set() for part in SHARES}
    for one in labelled:
        parts[one.part].add(key(one.text))
    parts["language"] |= {key(text) for text in [*language.train, *language.dev]}
    for part, keys in parts.items():
        for other, others in parts.items():
            assert part == other or not keys & others
    assert not {key(text) for text in language.train} & {key(text) for text in language.dev}
    shares = {part: sum(one.part == part for one in labelled) / len(labelled) for part in SHARES}
    assert shares == pytest.approx(SHARES, abs=0.02)
