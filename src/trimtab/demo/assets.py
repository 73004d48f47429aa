"""What the package carries for the demo: a small language model, two scorers, prompts, and unjudged pairs.

Made by the scripts in `examples/small-model` from movie reviews of Pang and Lee (CC BY 4.0; the attribution
is in assets/README.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

ASSETS = Path(__file__).parent / "assets"
MODEL = "film-reviews-5m"
"""The language model, by the name that every command knows."""
GOLD = "film-reviews-gold"
WITNESS = "film-reviews-witness"
"""The scorers, by their names."""
PAIRS = ASSETS / "pairs.jsonl.gz"
"""60 pairs of answers of the language model, for people to try the judging page with."""

Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


def prompts(part: Part) -> list[str]:
    """Beginnings of sentences that neither the language model nor a scorer has seen."""
    every: dict[str, list[str]] = json.loads((ASSETS / "prompts.json").read_text(encoding="utf-8"))
    return every[part]
