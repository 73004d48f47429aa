"""What can be counted in answers: how much they repeat themselves, and how much they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

STRETCH = 3
"""Words of the stretches that are looked for again."""


def repetition(text: str) -> float:
    """Share of a text's 3-word stretches that occurred in it before; 0 for a text of fewer words.

    Source: Welleck et al. 2020, arXiv:1908.04319, seq-rep-n.
    """
    stretches = list(_stretches(text, STRETCH))
    return 1 - len(set(stretches)) / len(stretches) if stretches else 0.0


def distinct(texts: Sequence[str], words: int = 2) -> float:
    """Distinct stretches of so many words over all of them, in all texts together; 0 where there are none.

    It falls as texts grow longer or more, so compare equally many texts of like length.
    Source: Li et al. 2016, arXiv:1510.03055, distinct-n.
    """
    stretches = [stretch for text in texts for stretch in _stretches(text, words)]
    return len(set(stretches)) / len(stretches) if stretches else 0.0


def _stretches(text: str, words: int) -> Iterator[tuple[str, ...]]:
    split = text.split()
    return (tuple(split[first : first + words]) for first in range(len(split) - words + 1))
