"""Text as words, in every script: for overlap, for matching, and for finding keywords.

The tokenizer that ROUGE comes with keeps a-z and 0-9 and drops the rest, so that an answer in Arabic or
Chinese has no words at all. Here letters, digits and the marks on them are words whatever their script;
scripts that put no spaces between words (Han, kana, Thai, ...) and emoji count one word a character.
Left out: stemming, and a dictionary for where words end in those scripts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Literal

Kind = Literal["letter", "mark", "alone", "gap"]
"""letter: part of a word; mark: belongs to the character before it; alone: a word of its own."""

UNSPACED = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY IDEOGRAPH",
    "IDEOGRAPHIC",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
)
"""How the Unicode names of characters begin whose scripts are written without spaces between words."""

ARTICLES = frozenset({"a", "an", "the"})
ASCII_SYMBOLS = frozenset("$+<=>^`|~")
"""Punctuation to SQuAD, symbols to Unicode."""
FRACTION_SLASH = "\u2044"
"""What ½ becomes under NFKC, where people type a plain slash."""


@cache
def kind(character: str) -> Kind:
    """What the character is to a word."""
    category = unicodedata.category(character)
    if category[0] == "M":
        return "mark"
    if category[0] in "LN":
        return "alone" if unicodedata.name(character, "").startswith(UNSPACED) else "letter"
    return "alone" if category == "So" else "gap"


def fold(text: str) -> str:
    """The text without differences of case, width and composition: NFKC, casefold, and NFKC again."""
    # Folding can take characters apart again: the second pass makes folding twice the same as once.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


class _Shape(dict[int, str]):
    """Code point -> the initial of its kind, filled in as characters are met."""

    def __missing__(self, code: int) -> str:
        self[code] = kind(chr(code))[0]
        return self[code]


_SHAPE = _Shape()
_WORD = re.compile("l[lm]*|am*")


def words(text: str) -> list[str]:
    """The folded words of the text, in order; marks without a letter before them are left out."""
    text = fold(text)
    return [text[found.start() : found.end()] for found in _WORD.finditer(text.translate(_SHAPE))]


def normalise(text: str) -> str:
    """The text as SQuAD compares answers, kept whole in other scripts than English.

    Folded; punctuation and invisible format characters deleted; `a`, `an`, `the` left out; single spaces.
    On ASCII it is SQuAD's own rule, with its weakness: 3.5 becomes 35. Numbers have a score of their own.
    Source: Rajpurkar et al. 2016, arXiv:1606.05250, the official evaluation script.
    """
    kept = "".join(character for character in fold(text) if not _is_punctuation(character))
    # Folded again: a mark whose punctuation is gone joins the letter before it.
    return " ".join(word for word in fold(kept).split() if word not in ARTICLES)


@cache
def _is_punctuation(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "P" or category == "Cf" or character in ASCII_SYMBOLS or character == FRACTION_SLASH


def holds(text: str, keyword: str) -> bool:
    """Whether the keyword stands in the text as whole words, whatever its case and spacing.

    A letter at the keyword's edge must not continue in the text: `art` is not in `party`. Characters
    of scripts without spaces, emoji and signs (the end of `C++`) have no such edge.
    """
    text, keyword = single_spaced(text), single_spaced(keyword)
    start = text.find(keyword)
    while start >= 0:
        end = start + len(keyword)
        if not _continues(text, start) and not _continues(text, end):
            return True
        start = text.find(keyword, start + 1)
    return False


def single_spaced(text: str) -> str:
    """Folded, with one space between words and none around."""
    return " ".join(fold(text).split())


def _continues(text: str, place: int) -> bool:
    """Whether a word, or a character with its marks, goes on across this place of the text."""
    if not 0 < place < len(text):
        return False
    after, before = kind(text[place]), place - 1
    while before > 0 and kind(text[before]) == "mark":
        before -= 1
    return after == "mark" or (after == "letter" and kind(text[before]) == "letter")
