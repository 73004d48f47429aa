"""Comparisons as a file for LLM Comparator, which shows two models side by side.

Source: the JSON data format in the README of github.com/PAIR-code/llm-comparator, its client/lib/types.ts,
and for scores, labels and `is_flipped` its python/src/llm_comparator/llm_judge_runner.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from trimtab.errors import DataError
from trimtab.formats.exports.left_out import check_observation, verdict_of
from trimtab.formats.rows import RawRow
from trimtab.records import Comparison, Prompt, Verdict, prompt_text

BETTER: Mapping[int | None, tuple[float, str]] = {
    1: (0.5, "slightly better"),
    2: (1.0, "better"),
    3: (1.5, "much better"),
    None: (1.0, "better"),
}
"""Strength -> score of the winner on the tool's scale of -1.5 to 1.5, and the words of its judge."""
UNDECIDED = {"tie": "same", "both_bad": "both are bad"}
UNNAMED = ("A", "B")
FIELDS = [
    {"name": "verdict", "type": "category"},
    {"name": "judge", "type": "category"},
    {"name": "group", "type": "string"},
]
"""Both a tie and two bad responses score 0; the field `verdict` still tells them apart."""


def llm_comparator(comparison: Comparison, number: int) -> list[RawRow]:
    """One example. Side A is the model whose name comes first in the alphabet, whichever stood first."""
    verdict = verdict_of(comparison)
    check_observation(comparison)
    sides = [(comparison.source_a, "a", comparison.a), (comparison.source_b, "b", comparison.b)]
    if comparison.source_b < comparison.source_a:
        sides.reverse()
    (name_a, side, output_a), (name_b, _, output_b) = sides
    rating = _rating(verdict, side)
    return [
        {
            "models": (name_a or UNNAMED[0], name_b or UNNAMED[1]),
            "example": {
                "input_text": _input_text(comparison.prompt),
                "tags": [],
                "output_text_a": output_a,
                "output_text_b": output_b,
                "score": rating["score"],
                "individual_rater_scores": [rating],
                "custom_fields": {
                    "verdict": verdict.preferred if side == "a" else _OTHER[verdict.preferred],
                    "judge": verdict.judge,
                    "group": comparison.group,
                },
            },
        }
    ]


_OTHER = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}


def _rating(verdict: Verdict, side: str) -> dict[str, object]:
    """`side` is the response that stands as A in the file.

    The score is that of A in the file; the label is what the judge said, who may have seen them flipped.
    """
    flipped = None if verdict.shown is None else verdict.shown[0] != side
    if verdict.preferred in UNDECIDED:
        score, label = 0.0, UNDECIDED[verdict.preferred]
    else:
        score, better = BETTER[verdict.strength]
        a_won = verdict.preferred == side
        label = f"{'A' if a_won != bool(flipped) else 'B'} is {better}"
        score = score if a_won else -score
    return {"is_flipped": flipped, "score": score, "rating_label": label, "rationale": ""}


def _input_text(prompt: Prompt) -> str:
    if not isinstance(prompt, str) and len(prompt) == 1:
        return prompt[0].content
    return prompt_text(prompt)


def document(rows: Sequence[RawRow], everything: Sequence[RawRow]) -> object:
    """The whole file of one split.

    Raises:
        DataError: the export holds other than two models.
    """
    pairs = sorted({cast("tuple[str, str]", row["models"]) for row in everything})
    if len(pairs) != 1:
        raise DataError(
            "LLM Comparator shows two models, and the comparisons are of more",
            where="source_a, source_b",
            found=", ".join(" and ".join(pair) for pair in pairs),
            fix="export the comparisons of each two models apart",
        )
    return {
        "metadata": {"source_path": "trimtab", "custom_fields_schema": FIELDS},
        "models": [{"name": name} for name in pairs[0]],
        "examples": [row["example"] for row in rows],
    }
