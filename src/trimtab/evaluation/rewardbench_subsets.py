"""What RewardBench's subsets are called, how many rows they have, and what they weigh.

The published constants once had the rows of the two xstest subsets exchanged (250 and 154); here are the
rows of the data, which also give the published example.
Sources: Lambert et al. 2024, arXiv:2403.13787; Malik et al. 2025, arXiv:2506.01937; reward-bench
`constants.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Benchmark = Literal["RewardBench", "RewardBench 2", "own"]

SECTIONS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
"""RewardBench's sections, and what each subset weighs in its own."""

PRIOR = "Prior Sets"
PRIOR_SETS: Mapping[str, int] = {"anthropic_helpful": 1, "anthropic_hhh": 1, "shp": 1, "summarize": 1}
"""Older test sets: a plain mean, which counts half a section where it is counted at all."""

ALL_SECTIONS: Mapping[str, Mapping[str, int]] = {**SECTIONS, PRIOR: PRIOR_SETS}
FOUR: Mapping[str, float] = dict.fromkeys(SECTIONS, 1.0)
"""What each section weighs in the overall figure."""
FOUR_AND_PRIOR: Mapping[str, float] = {**FOUR, PRIOR: 0.5}

SECOND: Mapping[str, int] = {
    "Factuality": 475,
    "Precise IF": 160,
    "Math": 183,
    "Safety": 450,
    "Focus": 495,
    "Ties": 102,
}
"""RewardBench 2's subsets with their rows. They weigh the same."""

PUBLISHED: Mapping[Benchmark, Mapping[str, int]] = {
    "RewardBench": {name: rows for section in SECTIONS.values() for name, rows in section.items()}
    | {"math-prm": 447},
    "RewardBench 2": SECOND,
    "own": {},
}
"""Rows of every subset."""
