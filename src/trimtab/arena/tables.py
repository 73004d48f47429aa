"""Findings as rows of text, so that the page and the command line print the same numbers."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.arena.findings import Findings, RewardCard
from trimtab.arena.winrate import verdict
from trimtab.statistics.intervals import number
from trimtab.statistics.ranking import Ranking

Rows = list[tuple[str, ...]]


def summary_rows(findings: Findings) -> Rows:
    """The policies as a table of text, its head first; a witness has a column where there is one."""
    witnessed = any(policy.witness_reward for policy in findings.policies)
    head = (
        "policy", "prompts", "judge reward", "proxy reward", *(["witness reward"] if witnessed else []),
        "KL, nats", "tokens", "stopped", "repetition", "distinct-2", "run", "seed",
    )  # fmt: skip
    return [
        head,
        *(
            (
                policy.name,
                str(policy.prompts),
                policy.judge_reward.text() if policy.judge_reward else "none",
                policy.proxy_reward.text() if policy.proxy_reward else "none",
                *([policy.witness_reward.text() if policy.witness_reward else "none"] if witnessed else []),
                policy.kl.text(),
                policy.response_tokens.text(1),
                policy.stopped.percent(),
                policy.repetition.percent(),
                number(policy.distinct, 2),
                policy.run,
                "" if policy.seed is None else str(policy.seed),
            )
            for policy in findings.policies
        ),
    ]


def match_rows(findings: Findings) -> Rows:
    """The matches as a table of text, its head first."""
    head = (
        "policy", "against", "preferred", "at equal length", "wins", "ties", "losses", "p, adjusted",
        "verdict",
    )  # fmt: skip
    return [
        head,
        *(
            (
                match.left,
                match.right,
                match.win_rate.percent(),
                match.controlled.controlled.percent() if match.controlled else "",
                str(match.wins),
                str(match.ties),
                str(match.losses),
                p_value(match.p_adjusted),
                verdict(match, findings.judge),
            )
            for match in findings.matches
        ),
    ]


def interval_rows(findings: Findings) -> Rows:
    """Each rate by both kinds of interval and at equal length, with the lengths that this rests on."""
    rows: Rows = [
        (
            "policy", "against", "bootstrap", "Wilson score", "at equal length", "worth of length, nats",
            "mean characters", "and the other's", "note",
        )
    ]  # fmt: skip
    for match in findings.matches:
        controlled = match.controlled
        lengths = ("", "", "", "") if controlled is None else (
            controlled.controlled.percent(),
            controlled.length_effect.text(),
            number(controlled.mean_left, 0),
            number(controlled.mean_right, 0),
        )  # fmt: skip
        caution = match.rate.caution or (controlled.caution if controlled else "")
        rows.append(
            (
                match.left,
                match.right,
                match.rate.bootstrap.percent() if match.rate.bootstrap else "",
                match.rate.score.percent(),
                *lengths,
                caution,
            )
        )
    return rows


def difference_rows(findings: Findings) -> Rows:
    """Mean differences of the judge's scores; only a head where the judge gives no scores."""
    rows: Rows = [("policy", "against", "difference of scores", "prompts", "p, adjusted")]
    rows += [
        (
            match.left,
            match.right,
            match.difference.mean.text(),
            str(match.difference.mean.n),
            p_value(match.difference.p_adjusted),
        )
        for match in findings.matches
        if match.difference
    ]
    return rows


def ranking_rows(ranking: Ranking) -> Rows:
    """Strengths and ranks as a table of text, the strongest first; its head before."""
    order = sorted(range(len(ranking.names)), key=lambda place: -ranking.strengths[place].estimate)
    rows: Rows = [("policy", "rank", "strength, nats")]
    rows += [
        (ranking.names[place], str(ranking.ranks[place]), ranking.strengths[place].text()) for place in order
    ]
    return rows


def matrix_rows(findings: Findings) -> Rows:
    """How often the row's policy was preferred to the column's, as measured; its head first."""
    names = [policy.name for policy in findings.policies]
    rates = {(match.left, match.right): match.rate_of(match.left) for match in findings.matches}
    rates |= {(match.right, match.left): match.rate_of(match.right) for match in findings.matches}
    rows: Rows = [("preferred to", *names)]
    rows += [
        (row, *(rates[row, column].percent() if (row, column) in rates else "" for column in names))
        for row in names
    ]
    return rows


def card_rows(cards: Iterable[RewardCard]) -> Rows:
    """The reward models' cards as a table of text, its head first."""
    head = (
        "model", "role", "accuracy", "where the longer was chosen", "where the shorter was",
        "calibration error", "ties",
    )  # fmt: skip
    rows: Rows = [head]
    for card in cards:
        quality = card.quality
        slices = [
            "" if part is None else part.percent() for part in (quality.longer_chosen, quality.shorter_chosen)
        ]
        error = ""
        if quality.calibration is not None and quality.calibration.miscalibrated is not None:
            error = quality.calibration.error.percent()
        rows.append((card.name, card.role, quality.accuracy.percent(), *slices, error, str(quality.ties)))
    return rows


def p_value(value: float) -> str:
    """`0.034`, `< 0.001`."""
    return "< 0.001" if value < 0.001 else number(value, 3)
