"""Text for people's terminals: what models and data wrote must not steer them."""

from trimtab.hidden import visible

__all__ = ["visible"]
