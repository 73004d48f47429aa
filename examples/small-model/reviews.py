"""The movie reviews as cleaned sentences with their parts and labels."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimtab.demo.sentences import Part, clean, key, part_of

DEV_SHARE = 0.02


@dataclass(frozen=True)
class Sentence:
    """One sentence of the 10,662 with its label."""

    text: str
    positive: bool
    part: Part


@dataclass(frozen=True)
class LanguageSentences:
    """What the language model learns from, and what its loss is measured on."""

    train: list[str]
    dev: list[str]


def labelled_sentences(folder: Path) -> list[Sentence]:
    """The one-sentence reviews; of sentences that count as the same, the first."""
    found: dict[str, Sentence] = {}
    with zipfile.ZipFile(folder / "sentence_polarity.zip") as archive:
        for name, positive in (("rt-polarity.pos", True), ("rt-polarity.neg", False)):
            lines = archive.read(f"sentence_polarity/{name}").decode("utf-8").splitlines()
            for text in filter(None, map(clean, lines)):
                found.setdefault(key(text), Sentence(text, positive, part_of(text)))
    return list(found.values())


def language_sentences(folder: Path) -> LanguageSentences:
    """The language part of the one-sentence reviews, and the long reviews sentence by sentence.

    A sentence of a long review that counts as the same as one of the other parts is left out.
    """
    labelled = labelled_sentences(folder)
    taken = {key(one.text) for one in labelled if one.part != "language"}
    texts = {key(one.text): one.text for one in labelled if one.part == "language"}
    for text in _long_reviews(folder):
        if key(text) not in taken:
            texts.setdefault(key(text), text)
    dev = {which for which in texts if _share(which) < DEV_SHARE}
    return LanguageSentences(
        train=[text for which, text in texts.items() if which not in dev],
        dev=[text for which, text in texts.items() if which in dev],
    )


def _long_reviews(folder: Path) -> Iterator[str]:
    with zipfile.ZipFile(folder / "movie_reviews.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt"):
                lines = archive.read(name).decode("latin-1").splitlines()
                yield from filter(None, map(clean, lines))


def _share(which: str) -> float:
    """Of another hash than the parts'."""
    return int.from_bytes(hashlib.sha256(f"dev {which}".encode()).digest()[:8], "big") / 2**64
