"""The judging of a comparison: the answers of all pairs of policies, and the judge's own test."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from trimtab import formats
from trimtab.arena.findings import RewardCard
from trimtab.arena.jury import Jury, ScoringJury
from trimtab.arena.play import Played
from trimtab.arena.winrate import JudgeQuality, Judgments, agreement, length_rule
from trimtab.errors import DataError
from trimtab.judges.judge import Answer, Unreadable
from trimtab.judges.quality import pair_quality
from trimtab.records import Comparison, Prompt, Verdict
from trimtab.runs.run import Run


def answers_of(one: Played, prompts: Sequence[Prompt]) -> list[Answer]:
    """A policy's answers as a judge reads them, one a prompt."""
    return [
        Answer(prompt, text, rollout.response.stopped)
        for prompt, text, rollout in zip(prompts, one.texts, one.rollouts, strict=True)
    ]


def scores_of(
    jury: Jury, played: Sequence[Played], prompts: Sequence[Prompt]
) -> dict[str, list[float | None]]:
    """Each policy's scores, one a prompt; all answers are scored in one call."""
    answers = [answer for one in played for answer in answers_of(one, prompts)]
    found = iter(jury.scores(answers))
    return {one.policy: list(itertools.islice(found, len(prompts))) for one in played}


def judge_matches(
    jury: Jury,
    played: Sequence[Played],
    prompts: Sequence[Prompt],
    scores: Mapping[str, Sequence[float | None]],
    run: Run,
) -> list[Judgments]:
    """Verdicts on every pair of policies and every prompt, asked in one call.

    Args:
        scores: each policy's, as `scores_of` gives them.
    """
    pairs = list(itertools.combinations(played, 2))
    comparisons = [
        Comparison(
            prompt=prompt,
            a=left.texts[index],
            b=right.texts[index],
            source_a=left.policy,
            source_b=right.policy,
            stopped_a=left.rollouts[index].response.stopped,
            stopped_b=right.rollouts[index].response.stopped,
        )
        for left, right in pairs
        for index, prompt in enumerate(prompts)
    ]
    given = jury.verdicts(comparisons)
    run.leave_out(
        [
            (f"prompt {place % len(prompts) + 1}, {one.source_a} against {one.source_b}", verdict.reason)
            for place, (one, verdict) in enumerate(zip(comparisons, given, strict=True))
            if isinstance(verdict, Unreadable)
        ]
    )
    verdicts = [None if isinstance(one, Unreadable) else one for one in given]
    return [
        Judgments(
            left.policy,
            right.policy,
            comparisons[place * len(prompts) : (place + 1) * len(prompts)],
            verdicts[place * len(prompts) : (place + 1) * len(prompts)],
            [
                None if a is None or b is None else (a, b)
                for a, b in zip(scores[left.policy], scores[right.policy], strict=True)
            ],
        )
        for place, (left, right) in enumerate(pairs)
    ]


def examine(
    jury: Jury, rows: Sequence[formats.Row[Comparison]], run: Run, *, seed: int, by: str, role: str
) -> tuple[JudgeQuality, RewardCard | None]:
    """How far a judge agrees with people on held-out pairs, and the card of one that scores.

    Raises:
        DataError: it can read none of the pairs.
    """
    decided = [row for row in rows if row.record.decided]
    given = jury.verdicts([row.record for row in decided])
    run.leave_out(
        [
            (row.where, one.reason)
            for row, one in zip(decided, given, strict=True)
            if isinstance(one, Unreadable)
        ]
    )
    kept = [(row.record, one) for row, one in zip(decided, given, strict=True) if isinstance(one, Verdict)]
    if not kept:
        raise DataError(
            f"the {role} can read none of the held-out pairs",
            where=jury.name,
            found=next((one.reason for one in given if isinstance(one, Unreadable)), "no pairs"),
        )
    pairs = [record for record, _ in kept]
    people = [record.verdict for record in pairs if record.verdict]
    verdicts = [verdict for _, verdict in kept]
    rule_name, rule = length_rule(
        [len(one.chosen) for one in pairs], [len(one.rejected) for one in pairs], seed=seed
    )
    quality = JudgeQuality(
        name=jury.name,
        accuracy=agreement(verdicts, people, seed=seed),
        ties=sum(verdict.preferred not in ("a", "b") for verdict in verdicts),
        rule=rule,
        rule_name=rule_name,
        by=by,
    )
    return quality, _card(jury, pairs, seed=seed, role=role)


def _card(jury: Jury, pairs: Sequence[Comparison], *, seed: int, role: str) -> RewardCard | None:
    if not isinstance(jury, ScoringJury):
        return None
    sides = [
        jury.scores(
            [Answer(one.prompt, text, stopped) for one in pairs for text, stopped in (one.pair[side],)]
        )
        for side in (0, 1)
    ]
    chosen, rejected = ([score for score in side if score is not None] for side in sides)
    return RewardCard(
        name=jury.name,
        role=role,
        quality=pair_quality(pairs, chosen, rejected, nats=jury.judge.nats, seed=seed),
    )


def gaps(scores: dict[str, list[float | None]], left: str, right: str) -> list[float | None]:
    """How far two policies' scores are apart on each prompt, in standard deviations of all scores."""
    every = [score for side in scores.values() for score in side if score is not None]
    spread = float(np.std(every)) if every else 0.0
    return [
        None if a is None or b is None or not spread else abs(a - b) / spread
        for a, b in zip(scores[left], scores[right], strict=True)
    ]
