"""Cut the demo's prompts from the sentences of the parts train, dev and test: 2 to 8 tokens, none twice.

python examples/small-model/make_prompts.py --reviews ../shared/data/movie-reviews
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from reviews import labelled_sentences
from transformers import AutoTokenizer

from trimtab.demo.assets import ASSETS
from trimtab.demo.sentences import key

FEWEST, MOST = 2, 8
"""Tokens of a prompt, the start token not counted."""
WORDS = (2, 3, 4, 5)


def main() -> None:
    """Write prompts.json, test and dev first: what begins alike belongs to them alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", type=Path, required=True, help="folder of the two zip files")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder that holds `model`")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.assets / "model")
    sentences = sorted(labelled_sentences(arguments.reviews), key=lambda one: _digest(one.text))
    taken: set[str] = set()
    made: dict[str, list[str]] = {"test": [], "dev": [], "train": []}
    for part, prompts in made.items():
        for sentence in (one.text for one in sentences if one.part == part):
            words = sentence.split()
            order = [WORDS[(_digest(sentence) + turn) % len(WORDS)] for turn in range(len(WORDS))]
            for prompt in (" ".join(words[:count]) for count in order if count < len(words)):
                tokens = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
                if FEWEST <= tokens <= MOST and key(prompt) not in taken:
                    taken.add(key(prompt))
                    prompts.append(prompt)
                    break
    path = arguments.assets / "prompts.json"
    path.write_text(json.dumps(made, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print({part: len(prompts) for part, prompts in made.items()})


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"prompt {key(text)}".encode()).digest()[:8], "big")


if __name__ == "__main__":
    main()
