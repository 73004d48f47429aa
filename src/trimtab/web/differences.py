"""Which words differ between two answers."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import accumulate

Spans = tuple[str, ...]
"""A text in pieces: the first is shared with the other text, the second is not, and so on in turns."""

_WORDS = re.compile(r"\w+|[^\w\s]")
MOST_WORDS = 1200
"""In one text; longer ones are not compared."""
MOST_PAIRS = 4000
"""Pairs of equal words that the comparison starts from. Texts of a few words repeated would take minutes."""


@lru_cache(maxsize=1024)
def differences(first: str, second: str) -> tuple[Spans, Spans] | None:
    """Both texts in pieces, shared and not in turns; None where they are too long.

    Words and signs are compared, and the space between them is not: what is shared is the same but for space.
    """
    places, other_places = list(_WORDS.finditer(first)), list(_WORDS.finditer(second))
    if max(len(places), len(other_places)) > MOST_WORDS:
        return None
    words, others = [place[0] for place in places], [place[0] for place in other_places]
    common = _common(words, others)
    matcher = SequenceMatcher(common.__contains__, words, others, autojunk=False)
    blocks = matcher.get_matching_blocks()
    return (
        _pieces(first, places, [(block.a, block.size) for block in blocks]),
        _pieces(second, other_places, [(block.b, block.size) for block in blocks]),
    )


def _common(words: list[str], others: list[str]) -> set[str]:
    """The words beyond `MOST_PAIRS`, by rarity: they are shared only beside others that are."""
    counts, other_counts = Counter(words), Counter(others)
    pairs = sorted((number * other_counts[word], word) for word, number in counts.items())
    sums = accumulate(number for number, _ in pairs)
    return {word for (_, word), total in zip(pairs, sums, strict=True) if total > MOST_PAIRS}


def _pieces(text: str, places: list[re.Match[str]], shared: list[tuple[int, int]]) -> Spans:
    """The text cut where a run of shared words begins or ends; space belongs to what is shared."""
    pieces = [""]
    start = end = 0  # in the text, and in its words
    for first, size in shared:
        if first > end:
            own_start, own_end = places[end].start(), places[first - 1].end()
            pieces[-1] += text[start:own_start]
            pieces += [text[own_start:own_end], ""]
            start = own_end
        end = first + size
    pieces[-1] += text[start:]
    return tuple(pieces)
