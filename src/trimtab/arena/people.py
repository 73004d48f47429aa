"""People as a judge: comparisons go into a feedback project, and what people said comes back as verdicts.

Nothing is kept but the project itself: asked again with the same comparisons, their items are found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from trimtab.errors import ConfigError
from trimtab.feedback.incoming import items_of
from trimtab.feedback.records import Compared, Judgment
from trimtab.feedback.store.facts import Project, Settings
from trimtab.feedback.store.store import Store
from trimtab.feedback.votes import majority
from trimtab.records import Comparison, Verdict

NAME = "people"
"""Under which their verdicts are kept."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Comparisons in people's hands."""

    project: Project
    new: int
    """Items that were not in the project before."""
    items: tuple[int | None, ...]
    """The item of each comparison; None where both answers are the same text, which nobody need be asked."""


def ask(store: Store, name: str, comparisons: Sequence[Comparison], *, overlap: int | None) -> Asked:
    """Put comparisons into the project of this name, which is made where there is none; none goes in twice.

    Args:
        overlap: how many people judge each; None: as the project has it, 1 for a new one.
    Raises:
        ConfigError: the project is not one of comparisons.
    """
    project = store.project_named(name)
    if project is None:
        project = store.create_project(name, Settings(kind="compare", overlap=overlap or 1))
    elif project.settings.kind != "compare":
        raise ConfigError(
            "the project does not ask for comparisons",
            where=f"project {project.name!r}",
            found=f"kind {project.settings.kind}",
            fix="name another --project; it is made where there is none",
        )
    elif overlap not in (None, project.settings.overlap):
        assert overlap is not None
        project = store.change_project(project.id, overlap=overlap)
    different = [one for one in comparisons if one.a.strip() != one.b.strip()]
    added = store.add_items(project.id, items_of(different))
    numbers = iter(added.ids)
    items = tuple(next(numbers) if one.a.strip() != one.b.strip() else None for one in comparisons)
    return Asked(project, added.new, items)


def read_verdicts(store: Store, asked: Asked) -> list[Verdict | None]:
    """What people said of each comparison, in order; None where fewer answered than the overlap wants."""
    votes: dict[int, list[Judgment]] = {}
    for one in store.judgments(asked.project.id):
        if not one.round:
            votes.setdefault(one.item, []).append(one)
    wanted = store.project(asked.project.id).settings.overlap
    found: list[Verdict | None] = []
    for item in asked.items:
        if item is None:
            found.append(Verdict(preferred="tie", judge=NAME))
        else:
            said = votes.get(item, [])
            found.append(verdict_of(said) if len(said) >= wanted else None)
    return found


def verdict_of(judgments: Sequence[Judgment]) -> Verdict:
    """What was said most often; a tie where two things were said equally often.

    The strength is the (lower) median of those who preferred the winner, and None where one of them gave
    none. The shown order is known of a single vote alone; the time is that of the last vote.
    """
    said = [one.outcome for one in judgments if isinstance(one.outcome, Compared)]
    preferred = majority(outcome.preferred for outcome in said)
    strengths = [outcome.strength for outcome in said if outcome.preferred == preferred]
    known = [strength for strength in strengths if strength is not None]
    decided = preferred in ("a", "b") and len(known) == len(strengths)
    return Verdict(
        preferred=preferred,
        judge=NAME,
        strength=median_low(known) if decided else None,
        shown=("ab" if judgments[0].shown == (0, 1) else "ba") if len(judgments) == 1 else None,
        at=max(one.at for one in judgments),
    )


def judged_by_people(comparisons: Sequence[Comparison]) -> bool:
    """Whether all verdicts are people's: of a file that a later call may write anew."""
    return all(one.verdict is not None and one.verdict.judge == NAME for one in comparisons)
