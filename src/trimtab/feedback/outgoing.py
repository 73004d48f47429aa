"""Judgments as files to train on, and for other tools: the only way by which they leave the store.

An answer becomes records of `trimtab.records`, and `formats` writes these. Skipped and flagged items become
nothing. Ties and two bad answers stay what they are, unless `ties` asks for pairs of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import ConfigError, DataError
from trimtab.feedback.records import (
    Compared,
    Edited,
    Graded,
    Item,
    Judgment,
    Kind,
    Ranked,
    Written,
    counts,
    said,
)
from trimtab.feedback.votes import implied, pair_of
from trimtab.formats.exports.manifest import Manifest
from trimtab.formats.exports.shape import Exported, FileKind, Ties
from trimtab.formats.exports.table import EXPORTS
from trimtab.formats.exports.write import write_export
from trimtab.records import Comparison, Demonstration, Preferred, Rating, ShownOrder, Verdict

if TYPE_CHECKING:
    from trimtab.feedback.store.facts import Project
    from trimtab.feedback.store.store import Store

DEFAULT_SHAPES: Mapping[Kind, str] = {
    "demonstrate": "prompt_completion",
    "compare": "trimtab",
    "rank": "trimtab",
    "rate": "ratings",
    "edit": "trimtab",
}
"""What a project is exported as when nobody says: the shape that loses least."""
SHARES: Mapping[str, float] = {"train": 0.9, "held_out": 0.1}
OBSERVED = ("rewardbench", "fastchat", "llm_comparator")
"""Shapes about the models that wrote the answers: what a person wrote has no place in them."""
ANONYMOUS = ("fastchat",)
"""Shapes whose votes were cast without knowing who wrote the answers."""


def export(
    store: Store,
    project: int,
    folder: Path | str,
    *,
    shape: str = "",
    file_kind: FileKind = "jsonl",
    ties: Ties = "leave_out",
    extra: bool = False,
    gold: bool = False,
    repeats: bool = False,
    good_from: int | None = None,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
) -> Manifest:
    """Write a project's judgments into a new folder: a file for each split, and `manifest.json`.

    Args:
        shape: a name in `formats.EXPORTS`; empty: the kind's in `DEFAULT_SHAPES`.
        ties: pairs for a tie, for `preference` alone.
        extra: also judgments beyond the overlap.
        gold: also those of gold items, whose answers are known already.
        repeats: also second answers of a person to the same item.
        good_from: the grade from which a response is a good one; needed to make labels of grades.
        shares: split -> expected share of the prompts.
        seed: of the split.
    Raises:
        ConfigError: an option that does not fit the shape.
        DataError: the shape cannot hold what this project asks, or nothing can be exported.
    """
    found = store.project(project)
    shape = shape or DEFAULT_SHAPES[found.settings.kind]
    _check_shape(found, shape, good_from)
    items = {item.id: item.content for item in store.items(project)}
    wanted = {"extra": extra, "gold": gold, "repeat": repeats}
    used, left_out = _used(store.judgments(project, leave_out=()), items, wanted, shape)
    names = {person.id: person.name for person in store.people()}
    records = [
        record
        for one in used
        for record in records_of(
            one, items[one.item], judge=names[one.person], shape=shape, good_from=good_from, name=found.name
        )
    ]
    if not records:
        raise _nothing(found, left_out)
    about = {
        "project": found.name,
        "kind": found.settings.kind,
        "judgments": len(used),
        "items": len({one.item for one in used}),
        "people": len({one.person for one in used}),
        "guidelines": sorted({one.guidelines for one in used}),
        "good_from": good_from,
        "left_out": left_out,
    }
    return write_export(
        records, folder, shape=shape, file_kind=file_kind, shares=shares, seed=seed, ties=ties, about=about
    )


def records_of(
    judgment: Judgment, item: Item, *, judge: str, shape: str, good_from: int | None = None, name: str = ""
) -> list[Exported]:
    """What one judgment says, as records for a shape: none where it is no answer.

    A ranking gives each two of its answers, an edit its two answers and the new version above both: pairs of
    one group, which training counts as one judgment.

    Args:
        name: the project's, which makes groups of several projects different.
    """
    holds = EXPORTS[shape].holds
    outcome = judgment.outcome
    if isinstance(outcome, Written) and holds is Demonstration:
        return [Demonstration(prompt=item.prompt, response=outcome.response, keywords=item.keywords)]
    if isinstance(outcome, Edited) and holds is Demonstration:
        return [Demonstration(prompt=item.prompt, response=outcome.response, keywords=item.keywords)]
    if isinstance(outcome, Graded) and holds is Rating:
        return [_rating(outcome, item, judge, good_from if shape != "ratings" else None)]
    if holds is not Comparison:
        return []
    group = f"ranking-{_short_hash(name, judgment)}"
    if isinstance(outcome, Compared):
        return [pair_of(item, 0, 1, _verdict(judgment, judge, outcome.preferred, (0, 1), outcome.strength))]
    if isinstance(outcome, Ranked):
        return [
            pair_of(item, i, j, _verdict(judgment, judge, preferred, (i, j)), group=group)
            for i, j, preferred in implied(outcome)
        ]
    if isinstance(outcome, Edited):
        return [*_edited(judgment, outcome, item, judge, group if shape not in OBSERVED else "")]
    return []


def _check_shape(project: Project, shape: str, good_from: int | None) -> None:
    if shape not in EXPORTS:
        raise ConfigError(
            "there is no such shape to export", where="shape", found=shape, fix=f"use {', '.join(EXPORTS)}"
        )
    kind, holds = project.settings.kind, EXPORTS[shape].holds
    if holds not in _HOLDS[kind]:
        fitting = ", ".join(name for name, one in EXPORTS.items() if one.holds in _HOLDS[kind])
        raise ConfigError(
            f"what a project of kind {kind} asks does not fit the shape {shape}",
            where=f"project {project.name!r}",
            found=f"{shape} holds {holds.__name__.lower()}s",
            fix=f"use {fitting}",
        )
    if (shape == "unpaired_preference") != (good_from is not None):
        raise ConfigError(
            "where good begins must be said to make labels of grades"
            if good_from is None
            else f"{shape} makes no labels of grades",
            where="good_from",
            found=str(good_from),
            fix="for example 5: grades of 5 and more are good" if good_from is None else "leave it away",
        )
    if good_from is not None and good_from not in range(2, 8):
        raise ConfigError(
            "grades run from 1 to 7", where="good_from", found=str(good_from), fix="write 2 to 7"
        )


_HOLDS: Mapping[Kind, tuple[type[Exported], ...]] = {
    "demonstrate": (Demonstration,),
    "compare": (Comparison,),
    "rank": (Comparison,),
    "rate": (Rating,),
    "edit": (Comparison, Demonstration),
}


def _used(
    judgments: Sequence[Judgment], items: Mapping[int, Item], wanted: Mapping[str, bool], shape: str
) -> tuple[list[Judgment], dict[str, int]]:
    """The answers to export, and how many judgments are left out for which reason."""
    reasons = Counter[str]()
    used = []
    for one in judgments:
        is_so = {
            "extra": one.extra,
            "gold": items[one.item].gold is not None,
            "repeat": one.round == 1,
        }
        reason = said(one.outcome) if not counts(one.outcome) else ""
        reason = reason or next((name for name, so in is_so.items() if so and not wanted[name]), "")
        if not reason and shape in ANONYMOUS and not one.blind:
            reason = "not blind"
        if isinstance(one.outcome, Graded) and not items[one.item].answers[0].text.strip():
            reason = reason or "blank answer"
        if reason:
            reasons[reason] += 1
        else:
            used.append(one)
    return used, dict(sorted(reasons.items()))


def _nothing(project: Project, left_out: Mapping[str, int]) -> DataError:
    counted = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return DataError(
        "the project has no judgment to export",
        where=f"project {project.name!r}",
        found=f"left out: {counted}" if counted else "none yet",
        fix="judge some items first: trimtab feedback serve",
    )


def _verdict(
    judgment: Judgment,
    judge: str,
    preferred: Preferred,
    pair: tuple[int, int],
    strength: int | None = None,
) -> Verdict:
    first, second = (judgment.shown.index(index) for index in pair)
    shown: ShownOrder = "ab" if first < second else "ba"
    return Verdict(preferred=preferred, judge=judge, strength=strength, shown=shown, at=judgment.at)


def _edited(judgment: Judgment, outcome: Edited, item: Item, judge: str, group: str) -> list[Comparison]:
    """The better answer over the other; with a group, and where it was changed, its new version over both."""
    better = 0 if outcome.preferred == "a" else 1
    chosen = pair_of(item, 0, 1, _verdict(judgment, judge, outcome.preferred, (0, 1)), group=group)
    if not group or outcome.response.strip() == item.answers[better].text.strip():
        return [pair_of(item, 0, 1, chosen.verdict)]
    new = Verdict(preferred="a", judge=judge, at=judgment.at)
    return [
        chosen,
        *(
            Comparison(
                prompt=item.prompt,
                a=outcome.response,
                b=item.answers[index].text,
                verdict=new,
                source_a=judge,
                source_b=item.answers[index].source,
                stopped_b=item.answers[index].stopped,
                group=group,
            )
            for index in (better, 1 - better)
        ),
    ]


def _rating(outcome: Graded, item: Item, judge: str, good_from: int | None) -> Rating:
    response = item.answers[0].text
    if good_from is None:
        return Rating(prompt=item.prompt, response=response, grade=outcome.grade, judge=judge)
    return Rating(prompt=item.prompt, response=response, label=outcome.grade >= good_from, judge=judge)


def _short_hash(name: str, judgment: Judgment) -> str:
    """The same at every export, and another one for every judgment of every project."""
    return hashlib.sha256(f"{name}\n{judgment.person}\n{judgment.key}".encode()).hexdigest()[:16]
