"""Every shape that records can be exported in, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.formats.exports import pairs, singles, votes
from trimtab.formats.exports.comparator import document, llm_comparator
from trimtab.formats.exports.shape import ExportShape
from trimtab.records import Comparison, Demonstration, Rating

EXPORTS: Mapping[str, ExportShape[Any]] = {
    "trimtab": ExportShape(
        holds=Comparison,
        what="trimtab's own comparisons: ties, judges, strengths, sources, groups, unjudged pairs",
        rows=votes.own,
        columns=votes.OWN,
        unknown=votes.OWN_UNKNOWN,
        undecided="kept",
        kinds_with_mixed_prompts=("jsonl", "jsonl.gz"),
    ),
    "preference": ExportShape(
        holds=Comparison,
        what="TRL preference with explicit prompts, for reward models and DPO",
        rows=pairs.preference,
        columns=pairs.PREFERENCE,
        unknown=pairs.PREFERENCE_UNKNOWN,
        undecided="choice",
    ),
    "unpaired_preference": ExportShape(
        holds=Rating,
        what="TRL unpaired preference: responses labelled good or bad",
        rows=singles.unpaired_preference,
        columns=pairs.UNPAIRED,
        unknown=pairs.UNPAIRED_UNKNOWN,
        undecided="none",
    ),
    "unpaired_from_pairs": ExportShape(
        holds=Comparison,
        what="TRL unpaired preference: of every pair the winner as good, the loser as bad",
        rows=pairs.unpaired_from_pairs,
        columns=pairs.UNPAIRED,
        unknown=pairs.UNPAIRED_UNKNOWN,
        undecided="leave_out",
    ),
    "ratings": ExportShape(
        holds=Rating,
        what="trimtab's own ratings: responses with a grade from 1 to 7, or labelled good or bad",
        rows=singles.ratings,
        columns=singles.RATINGS,
        unknown=singles.RATINGS_UNKNOWN,
        undecided="none",
    ),
    "prompt_completion": ExportShape(
        holds=Demonstration,
        what="TRL prompt-completion",
        rows=singles.prompt_completion,
        columns=singles.PROMPT_COMPLETION,
        unknown=singles.NO_KEYWORDS,
        undecided="none",
    ),
    "messages": ExportShape(
        holds=Demonstration,
        what="whole chats, as TRL and most fine-tuning tools read them",
        rows=singles.messages,
        columns=singles.MESSAGES,
        unknown=singles.NO_KEYWORDS,
        undecided="none",
    ),
    "rewardbench": ExportShape(
        holds=Comparison,
        what="RewardBench rows, to test reward models with",
        rows=pairs.rewardbench,
        columns=pairs.REWARDBENCH,
        undecided="leave_out",
    ),
    "fastchat": ExportShape(
        holds=Comparison,
        what="FastChat (Chatbot Arena) battles, for Elo and Bradley-Terry ratings of models",
        rows=votes.fastchat,
        columns=votes.FASTCHAT,
        undecided="kept",
        kinds=("json", "jsonl", "jsonl.gz", "parquet"),
    ),
    "llm_comparator": ExportShape(
        holds=Comparison,
        what="LLM Comparator, to look at two models side by side",
        rows=llm_comparator,
        columns={},
        undecided="kept",
        kinds=("json",),
        document=document,
    ),
}
