"""Text for people's terminals: what models and data wrote must not steer them."""

from collections.abc import Iterable, Iterator

from trimtab.hidden import visible

__all__ = ["visible", "visible_pieces"]


def visible_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """`visible` of a text that comes in pieces, whatever they are cut into: together the same."""
    held = ""
    for piece in pieces:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""  # with a line feed behind it, it is no sign
        yield visible(text.removesuffix(held))
    yield visible(held)
