"""What the store tells about people, projects and work: frozen records, without any database in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from trimtab.feedback.records import Item, Kind

Role = Literal["admin", "annotator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An account."""

    id: int
    name: str
    role: Role
    active: bool
    has_password: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the work of a project is shared out; the kind is for good, all else can be changed at any time."""

    kind: Kind
    overlap: int = 1
    """How many people judge an item."""
    gold_share: float = 0.0
    """Share of a person's tasks that are gold items; 0 gives none, unless the project has nothing else."""
    repeat_share: float = 0.0
    """Share of a person's tasks that the person has judged before."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"a project's kind is one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if type(self.overlap) is not int or not 1 <= self.overlap <= 1000:
            raise ValueError(f"overlap is a whole number from 1 to 1000, got {self.overlap!r}")
        for name in ("gold_share", "repeat_share"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 0.5:
                raise ValueError(f"{name} is a number from 0 to 0.5, got {share!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A body of work of one kind."""

    id: int
    name: str
    settings: Settings
    guidelines: int
    """The newest version; 0 where there are none."""
    seed: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidelines:
    """What people are told about how to judge. Versions count from 1 and stay."""

    version: int
    text: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItem:
    """An item with its number."""

    id: int
    project: int
    content: Item
    judged: int
    """People whose live judgments of it count (repeats do not)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What an import did."""

    ids: tuple[int, ...]
    """The number of each item that was given, in that order; the same number where items were the same."""
    new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An item in a person's hands until the lease expires.

    Who wrote the answers, whether the item is gold and whether this is a repeat is not for the person's eyes.
    """

    item: int
    project: Project
    round: int
    content: Item
    shown: tuple[int, ...]
    """The order in which to show the answers: the same after a reload, and put beside the judgment."""
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one person has done in one project; live judgments only."""

    person: int
    judged: int
    """Answers, repeats and gold items among them."""
    repeats: int
    gold: int
    skipped: int
    flagged: int
    seconds: float
    """Time on all of these, in sum."""
    last: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How far a project is; live judgments only."""

    items: int
    """Without gold items."""
    gold: int
    complete: int
    """Items (not gold) with as many answers as the overlap wants."""
    begun: int
    """Items (not gold) with some, but fewer."""
    judgments: int
    """Answers, extras and repeats among them."""
    extra: int
    repeats: int
    skipped: int
    flagged: int
    leased: int
    """Tasks that are in people's hands now."""
