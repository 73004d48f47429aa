"""Text for people's terminals: what models and data wrote must not steer them."""

from __future__ import annotations

_KEPT = "\n\t"
_SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20)},  # Unicode's pictures of control characters
    0x7F: "\N{SYMBOL FOR DELETE}",
    **{code: f"\\x{code:x}" for code in range(0x80, 0xA0)},
}
_SHOWN = {code: sign for code, sign in _SIGNS.items() if chr(code) not in _KEPT}


def visible(text: str) -> str:
    """The text with signs for its control characters; only line breaks and tabs stay.

    Otherwise an answer could clear the screen, rename the window or write to the clipboard.
    """
    return text.translate(_SHOWN)
