"""Where responses end: lengths recorded from what people wrote, so that every arm samples the same.

    python lengths.py rt-polarity.pos rt-polarity.neg

writes lengths.json: of 256 sentences of film reviews (seed 0), the tokens after the first four, stop token
included, by SmolLM2's tokenizer; longer ones than the limit count as the limit. Their mean is about half.
Sentences: Pang and Lee 2005, sentence polarity data set v1.0.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

COUNT, CUT, LIMIT = 256, 4, 48
FILE = Path(__file__).parent / "lengths.json"


def recorded(count: int) -> list[int]:
    """The first so many lengths, from the beginning again where they end."""
    every: list[int] = json.loads(FILE.read_text())
    return [every[index % len(every)] for index in range(count)]


def main() -> None:
    """Tokenize and write."""
    from trimtab.model.load import load_tokenizer

    tokenizer = load_tokenizer("smollm2-135m-instruct").tokenizer
    lines = [line for name in sys.argv[1:] for line in Path(name).read_text("latin-1").splitlines() if line]
    random.Random(0).shuffle(lines)
    found = [len(tokenizer(line)["input_ids"]) - CUT + 1 for line in lines[:COUNT]]
    FILE.write_text(json.dumps([min(max(one, 1), LIMIT) for one in found]) + "\n")


if __name__ == "__main__":
    main()
