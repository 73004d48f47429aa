"""Ids become text as they come, token by token: for people who watch, and for strings that end a response.

A tokenizer decodes ids together: a character may be cut over tokens, some tokens write nothing, and some
tokenizers drop the space of the very first one. So a new token is decoded behind the tokens that wrote the
text before it, and text is given only when no later token can change it.

Left out: tokenizers that tidy spaces over more than two neighbours; of these, a piece may keep a space that
the whole text has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are no character, or not yet."""

Decode = Callable[[Sequence[int]], str]
"""Ids to their text, untrimmed; control tokens may be left out of it."""


class Text:
    """The text of a response whose ids come one by one.

    All that `add` gives, and `rest` at the end, is together what the ids decode to as a whole.

    Args:
        decode: called twice a token at most, with the ids that wrote the last characters and those behind.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._before = 0
        """How many of the ids are here only as neighbours: their text has been given."""
        self._given = 0
        """Characters of the ids' text that have been given."""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before this token; often none, or more than its own.

        Characters whose bytes are not complete wait, and so does a genuine U+FFFD at the end.
        """
        self._ids.append(token)
        text = self._decode(self._ids)
        new = text.rstrip(UNFINISHED)[self._given :]
        self._given += len(new)
        if new and not text.endswith(UNFINISHED):
            self._ids = self._ids[self._before :]
            self._before, self._given = len(self._ids), len(self._decode(self._ids))
        return new

    def rest(self) -> str:
        """What is still held back once the last id has come: bytes that never became a character."""
        new = self._decode(self._ids)[self._given :]
        self._given += len(new)
        return new


class Stops:
    """Whether a response's text has come to hold one of the strings that end it.

    A string may begin and end anywhere within tokens. Only n - 1 characters before the new ones are kept, n
    being the longest string's: one that was not there before this token ends in this token's text, so it
    begins at most n - 1 characters before that.

    Args:
        strings: not empty, without U+FFFD.
    """

    def __init__(self, strings: Sequence[str], decode: Decode) -> None:
        self._strings = tuple(strings)
        self._text = Text(decode)
        self._kept = max(map(len, strings)) - 1
        self._tail = ""

    def complete(self, token: int) -> bool:
        """Whether this token, the response's next, completes a string."""
        new = self._text.add(token)
        if not new:
            return False
        found = self._tail + new
        self._tail = found[max(len(found) - self._kept, 0) :]
        return any(string in found for string in self._strings)


def pieces(ids: Iterable[int], decode: Decode) -> Iterator[str]:
    """The text of ids as soon as it is certain, never half a character; together what they decode to."""
    text = Text(decode)
    for token in ids:
        if new := text.add(token):
            yield new
    if last := text.rest():
        yield last


def trimmed(parts: Iterable[str]) -> Iterator[str]:
    """The parts of a text without the space at its two ends: space waits until something follows it."""
    held, begun = "", False
    for part in parts:
        held += part if begun else part.lstrip()
        if ready := held.rstrip():
            begun, held = True, held[len(ready) :]
            yield ready
