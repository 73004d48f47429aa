"""Let the small model answer 60 of the demo's prompts for training, twice each: pairs for people to judge.

python examples/small-model/make_pairs.py
"""

from __future__ import annotations

from trimtab import formats
from trimtab.demo.assets import MODEL, PAIRS, prompts
from trimtab.demo.pairs import sample_pairs

COUNT = 60
FEWEST_WORDS = 3
EVERY = 5
"""Prompts of one film follow each other; every fifth is taken."""


def main() -> None:
    """Write pairs.jsonl.gz."""
    longer = [prompt for prompt in prompts("train") if len(prompt.split()) >= FEWEST_WORDS]
    pairs = sample_pairs(MODEL, longer[::EVERY][:COUNT], pairs=1, max_new=24, seed=0, device="cpu")
    formats.write_comparisons(PAIRS, pairs)


if __name__ == "__main__":
    main()
