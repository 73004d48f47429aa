"""Sentences of the movie reviews: cleaned, and each in one part of the split, by a hash of its words.

The parts keep the demo honest: the language model never saw what the scorers learned from, nor the
sentences whose beginnings are the prompts, and the test prompts are nobody's but the report's.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

Part = Literal["language", "gold", "train", "dev", "test"]
SHARES: dict[Part, float] = {"language": 0.40, "gold": 0.30, "train": 0.15, "dev": 0.075, "test": 0.075}
"""Expected shares: for the language model, for the scorers, and prompts for training, dev and test."""

SHORTEST, LONGEST = 4, 40
"""Words of a sentence."""

_STRANGE = re.compile(r"[^\x20-\x7e\xa1-\u024f\u2010-\u2030]")
_PARENTHESES = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_SPACE_BEFORE = re.compile(r"\s+([.,;:!?%])")
_SPACES = re.compile(r"\s+")
_DOTS = re.compile(r"\.(\s*\.)+")
_INITIALS = re.compile(r"\b(\w)\.\s+(?=\w\.)")
_PRONOUN = re.compile(r"\bi\b(?!\.)")
_INITIAL = re.compile(r"\b(\w)\.(?=[ \w])")
_AFTER_END = re.compile(r"(?<!\bvs)(?<!\bjr)(?<!\betc)([.!?] )([a-z])")
_QUOTED = re.compile(r'"\s*([^"]*?)\s*"')
_BAD = re.compile(r"[()\[\]{}<>*_=|\\~^@#/]|\d{5}|https?|www\.|\b(?:fuck|shit|cunt|nigg|fag)", re.IGNORECASE)


def clean(line: str) -> str | None:
    """A tokenised, lower-case line of the data as people would write it; None for one that is no sentence.

    What stands in parentheses (mostly the names of actors) is left out.
    """
    text = _STRANGE.sub(" ", line).replace("`", "'").replace("''", '"')
    text = _PARENTHESES.sub(" ", text)
    text = _QUOTED.sub(r'"\1"', text) if text.count('"') % 2 == 0 else text.replace('"', "")
    text = _DOTS.sub("...", text)
    text = _SPACE_BEFORE.sub(r"\1", _SPACES.sub(" ", text)).strip(" -,;:")
    text = _INITIALS.sub(r"\1.", text).replace(" -- ", " – ").replace(" - ", " – ")
    if not text or _BAD.search(text) or not SHORTEST <= len(text.split()) <= LONGEST:
        return None
    text = _PRONOUN.sub("I", text)
    first = next((place for place, letter in enumerate(text) if letter.isalpha()), None)
    if first is None or first > 1:
        return None
    text = text[:first] + text[first].upper() + text[first + 1 :]
    text = _INITIAL.sub(lambda found: f"{found[1].upper()}.", text)
    text = _AFTER_END.sub(lambda found: found[1] + found[2].upper(), text)
    return text if text.endswith((".", "!", "?", '"')) else f"{text}."


def key(text: str) -> str:
    """Equal for sentences that count as the same: case, spaces and punctuation do not tell them apart."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def part_of(text: str) -> Part:
    """The part that a sentence belongs to: it follows from its words alone."""
    place = int.from_bytes(hashlib.sha256(key(text).encode()).digest()[:8], "big") / 2**64
    for part, share in SHARES.items():
        place -= share
        if place < 0:
            return part
    return "test"  # where rounding leaves a hair above the last share
