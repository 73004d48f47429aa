"""How far judges agree with each other: files of the same comparisons, each judged by someone else."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from trimtab import formats
from trimtab.errors import DataError
from trimtab.records import Comparison
from trimtab.statistics.agreement import cohens_kappa, nominal_alpha, raw_agreement
from trimtab.statistics.intervals import Interval

Item = tuple[str, str, str, int]
"""A comparison whichever way round it stands: prompt, two texts in order, how often it came before."""
Votes = Mapping[Item, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Two judges on the comparisons that both judged."""

    first: str
    second: str
    share: Interval
    """Of comparisons on which they say the same, ties included."""
    kappa: Interval | None
    """Cohen's; None where both know one word only, so that agreement and chance are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgesAgreement:
    """Several judges on the same comparisons."""

    judges: tuple[str, ...]
    comparisons: int
    """Judged by two of them or more."""
    between: tuple[Between, ...]
    alpha: Interval | None
    """Krippendorff's, of all together; None as for kappa."""


def votes_of(comparisons: Iterable[Comparison]) -> Votes:
    """Who won each comparison that has a verdict, by its text, so that sides may be swapped between files."""
    votes: dict[Item, str] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for one in comparisons:
        if one.verdict is None:
            continue
        text = (formats.prompt_key(one.prompt), min(one.a, one.b), max(one.a, one.b))
        winner = {"a": one.a, "b": one.b}.get(one.verdict.preferred)
        vote = one.verdict.preferred if winner is None else str(text.index(winner, 1))
        votes[(*text, seen[text])] = vote
        seen[text] += 1
    return votes


def agreement(votes: Mapping[str, Votes], *, seed: int = 0) -> JudgesAgreement:
    """Every two judges, and all together.

    Args:
        votes: each judge's, by the name that is shown.
    Raises:
        DataError: two judges without a comparison in common, which is what a wrong file looks like.
    """
    judges = tuple(votes)
    between = tuple(_between(one, other, votes, seed) for one, other in itertools.combinations(judges, 2))
    items = [item for item, count in Counter(itertools.chain(*votes.values())).items() if count > 1]
    table = [[votes[judge].get(item) for item in items] for judge in judges]
    return JudgesAgreement(
        judges=judges,
        comparisons=len(items),
        between=between,
        alpha=nominal_alpha(table, seed=seed) if _words(table) > 1 else None,
    )


def _between(first: str, second: str, votes: Mapping[str, Votes], seed: int) -> Between:
    shared = [item for item in votes[first] if item in votes[second]]
    if not shared:
        raise DataError(
            "the two files have no judged comparison in common",
            where=f"{first} and {second}",
            found=f"{len(votes[first])} and {len(votes[second])} verdicts on other texts",
            fix="give files of the same comparisons, such as two outputs of trimtab judge on one file",
        )
    rows = [[votes[judge][item] for item in shared] for judge in (first, second)]
    return Between(
        first=first,
        second=second,
        share=raw_agreement(rows, seed=seed).quoted,
        kappa=cohens_kappa(*rows, seed=seed) if _words(rows) > 1 else None,
    )


def _words(rows: Sequence[Sequence[str | None]]) -> int:
    return len({vote for row in rows for vote in row if vote is not None})


def agreement_rows(found: JudgesAgreement) -> list[tuple[str, ...]]:
    """As a table of text, its head first."""
    rows: list[tuple[str, ...]] = [("judge", "and", "comparisons", "agree on", "Cohen's kappa")]
    return rows + [
        (one.first, one.second, f"{one.share.n:,}", one.share.percent(), _or_undefined(one.kappa))
        for one in found.between
    ]


def alpha_sentence(found: JudgesAgreement) -> str:
    """All judges together, in words."""
    return (
        f"Krippendorff's alpha of the {len(found.judges)} judges on {found.comparisons:,} comparisons: "
        f"{_or_undefined(found.alpha)}. 1 is full agreement, 0 is chance."
    )


def agreement_json(found: JudgesAgreement) -> str:
    """Everything, for programs."""
    return json.dumps(asdict(found), ensure_ascii=False, allow_nan=False, indent=1)


def _or_undefined(measure: Interval | None) -> str:
    return "undefined: one answer only" if measure is None else measure.text()
