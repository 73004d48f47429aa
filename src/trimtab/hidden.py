"""Characters that hide text, turn it around or steer a terminal, and the signs that are shown for them.

One table for pages, pictures, exports and terminals. Line breaks and tabs stay, and so do characters that
writing needs although they have no shape: joiners and non-joiners (emoji, Persian), variation selectors,
soft hyphens, and the format characters of single scripts.
"""

from __future__ import annotations

from collections.abc import Iterator

_KEPT_CONTROLS = (0x09, 0x0A)
_FORMAT_CONTROLS = (
    (0x061C, 0x061C),  # Arabic letter mark: direction
    (0x200B, 0x200B),  # zero-width space
    (0x200E, 0x200F),  # marks of direction
    (0x2028, 0x202E),  # separators of lines and paragraphs; embeddings and overrides of direction
    (0x2060, 0x206F),  # word joiner, invisible operators, isolates, deprecated controls
    (0x3164, 0x3164),  # Hangul filler: a letter without a shape
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),  # Hangul filler, half width
    (0xFFF9, 0xFFFB),  # annotations
    (0xE0000, 0xE007F),  # tags: a whole alphabet that is not shown
)


def _signs() -> Iterator[tuple[int, str]]:
    # Unicode has pictures of the first 32 controls and of "delete".
    yield from ((code, chr(0x2400 + code)) for code in range(0x20) if code not in _KEPT_CONTROLS)
    yield 0x7F, "\N{SYMBOL FOR DELETE}"
    for first, last in ((0x80, 0x9F), *_FORMAT_CONTROLS):
        yield from ((code, f"⟦U+{code:04X}⟧") for code in range(first, last + 1))
    yield from ((code, "\N{REPLACEMENT CHARACTER}") for code in range(0xD800, 0xE000))


_SIGNS = dict(_signs())


def visible(text: str) -> str:
    """The text with signs for what would hide or reorder parts of it, and for halves of surrogate pairs.

    Otherwise an answer could clear the screen, write to the clipboard, or look like another one.
    """
    return text.replace("\r\n", "\n").translate(_SIGNS)
