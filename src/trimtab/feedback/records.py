"""What people are asked and what they say: frozen records, checked when they are built.

An outcome speaks of the answers in the item's own order, always. The order in which a person saw them is
kept beside it, in `Judgment.shown`, and never mixed into it.

Pure Python: nothing here knows a database or a page.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from trimtab.records import Preferred, Prompt, check_prompt

Kind = Literal["demonstrate", "compare", "rank", "rate", "edit"]
"""What a project asks for."""

ANSWERS: Mapping[Kind, range] = {
    "demonstrate": range(1),
    "compare": range(2, 3),
    "rank": range(3, 10),
    "rate": range(1, 2),
    "edit": range(2, 3),
}
"""How many answers an item of each kind has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A response that the person wrote to the prompt."""

    response: str

    def __post_init__(self) -> None:
        _check_said(self.response, "response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Which of two answers is better."""

    preferred: Preferred
    strength: int | None = None
    """1 slightly, 2 clearly, 3 strongly; None where nobody said."""
    reason: str = ""
    comment: str = ""

    def __post_init__(self) -> None:
        _check_one_of(self.preferred, get_args(Preferred), "preferred")
        _check_text(self.reason, "reason")
        _check_text(self.comment, "comment")
        if self.strength is None:
            return
        _check_whole(self.strength, range(1, 4), "strength")
        if self.preferred not in ("a", "b"):
            raise ValueError(f"strength says how much better one answer is, and {self.preferred} names none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The place of each answer, in the item's order: 1 is best, equal places are ties, none is left out."""

    places: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.places, tuple) or not self.places:
            raise ValueError(f"places must be a tuple of numbers, got {self.places!r}")
        for place in self.places:
            _check_whole(place, range(1, len(self.places) + 1), "a place")
        if set(self.places) != set(range(1, max(self.places) + 1)):
            raise ValueError(f"places count 1, 2, 3 without gaps, got {self.places!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """How good one answer is, from 1 to 7."""

    grade: int
    comment: str = ""

    def __post_init__(self) -> None:
        _check_whole(self.grade, range(1, 8), "grade")
        _check_text(self.comment, "comment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """The better of two answers, and a better version of it; the same text where nothing was to mend."""

    preferred: Literal["a", "b"]
    response: str

    def __post_init__(self) -> None:
        _check_one_of(self.preferred, ("a", "b"), "preferred")
        _check_said(self.response, "response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """The person would not or could not say; never a vote."""

    reason: str = ""

    def __post_init__(self) -> None:
        _check_text(self.reason, "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged:
    """Something is wrong with the item itself."""

    reason: str
    comment: str = ""

    def __post_init__(self) -> None:
        _check_said(self.reason, "reason")
        _check_text(self.comment, "comment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """The judgment before this one is taken back."""


Outcome = Written | Compared | Ranked | Graded | Edited | Skipped | Flagged | Withdrawn

OUTCOMES: Mapping[str, type[Outcome]] = {kind.__name__.lower(): kind for kind in get_args(Outcome)}
_ANSWERED_BY: Mapping[Kind, type[Outcome]] = {
    "demonstrate": Written,
    "compare": Compared,
    "rank": Ranked,
    "rate": Graded,
    "edit": Edited,
}


def said(outcome: Outcome) -> str:
    """The name of the outcome's kind: `compared`, `skipped` ..."""
    return type(outcome).__name__.lower()


def counts(outcome: Outcome) -> bool:
    """Whether it answers what the project asks, and so counts towards the overlap."""
    return not isinstance(outcome, Skipped | Flagged | Withdrawn)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON with its `kind`; `outcome_of_json` is the inverse."""
    return {"kind": said(outcome), **asdict(outcome)}


def outcome_of_json(value: object) -> Outcome:
    """The outcome that `outcome_json` wrote, or that a page sent.

    Raises:
        ValueError: it says nothing that an outcome can mean.
    """
    if not isinstance(value, dict):
        raise ValueError(f"an outcome is an object with `kind`, got {type(value).__name__}")
    given = {**value}
    name = given.pop("kind", None)
    kind = OUTCOMES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"the kind of an outcome is one of {', '.join(OUTCOMES)}, got {name!r}")
    names = [field.name for field in fields(kind)]
    if unknown := sorted(map(str, given.keys() - set(names))):
        raise ValueError(f"an outcome `{name}` has no `{unknown[0]}`, only {', '.join(names) or 'its kind'}")
    if isinstance(given.get("places"), list):
        given["places"] = tuple(given["places"])
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"an outcome `{name}` needs {', '.join(names)}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One answer that people judge, and where it came from."""

    text: str
    source: str = ""
    """What wrote it: a person, a model, a run. Never shown before the judgment."""
    policy_hash: str = ""
    stopped: bool = True
    """Whether it came to its end; False where a length limit cut it."""

    def __post_init__(self) -> None:
        for name in ("text", "source", "policy_hash"):
            _check_text(getattr(self, name), name)
        if not isinstance(self.stopped, bool):
            raise ValueError(f"stopped must be true or false, got {self.stopped!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What is judged: a prompt and its answers, with passages to read beside them."""

    prompt: Prompt
    answers: tuple[Candidate, ...] = ()
    context: tuple[str, ...] = ()
    """Retrieved passages, shown beside the prompt."""
    gold: Outcome | None = None
    """What a careful person says, where that is known: for checks of people, never shown to them."""
    keywords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if not isinstance(self.answers, tuple) or not all(isinstance(a, Candidate) for a in self.answers):
            raise ValueError("answers must be a tuple of candidates")
        for name in ("context", "keywords"):
            texts = getattr(self, name)
            if not isinstance(texts, tuple):
                raise ValueError(f"{name} must be a tuple of texts")
            for text in texts:
                _check_text(text, name)
        if self.gold is not None and not counts(self.gold):
            raise ValueError(f"a gold outcome answers the question, got {said(self.gold)}")

    @property
    def digest(self) -> str:
        """SHA-256 of what a person sees and who wrote it: the same item imported twice is one item."""
        seen = [
            prompt_json(self.prompt),
            [[answer.text, answer.source] for answer in self.answers],
            list(self.context),
        ]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def prompt_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """Text, or a list of messages: what `formats` writes too, without the numpy that importing it brings."""
    return prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt]


def check_item(kind: Kind, item: Item) -> None:
    """Raise ValueError unless the item can be asked about in a project of this kind."""
    wanted = ANSWERS[kind]
    if len(item.answers) not in wanted:
        number = str(wanted[0]) if len(wanted) == 1 else f"{wanted[0]} to {wanted[-1]}"
        raise ValueError(f"an item of kind {kind} has {number} answers, this one {len(item.answers)}")
    if item.gold is not None:
        check_outcome(kind, len(item.answers), item.gold)


def check_outcome(kind: Kind, answers: int, outcome: Outcome) -> None:
    """Raise ValueError unless the outcome says something about an item of this kind and that many answers."""
    if not counts(outcome):
        return
    if not isinstance(outcome, _ANSWERED_BY[kind]):
        expected = _ANSWERED_BY[kind].__name__.lower()
        raise ValueError(f"an item of kind {kind} is {expected}, not {said(outcome)}")
    if isinstance(outcome, Ranked) and len(outcome.places) != answers:
        raise ValueError(f"{answers} answers have {answers} places, got {len(outcome.places)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A judgment on its way into the store. `Store.save` says what is refused."""

    item: int
    person: int
    outcome: Outcome
    shown: tuple[int, ...]
    """The order in which the answers were shown: `shown[0]` is the item's index of the first one."""
    blind: bool
    """Whether the person could not see who wrote the answers."""
    guidelines: int
    """The version that was in force when the person judged; 0 where there were none."""
    seconds: float
    """Time on task."""
    key: str
    """The sender's own name for this act: sent twice, it is stored once."""
    client: str = ""
    """What sent it: a browser, a program."""
    round: int = 0
    """0 the first time, 1 for a repeat that measures self-consistency."""
    supersedes: int | None = None
    """For an edit: the judgment that the person saw and changes. None judges whatever was said before."""

    def __post_init__(self) -> None:
        _check_act(self.shown, self.seconds, self.round)
        if not isinstance(self.blind, bool):
            raise ValueError(f"blind must be true or false, got {self.blind!r}")
        for name, longest in (("key", 100), ("client", 200)):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > longest or not value.isprintable():
                raise ValueError(f"{name} must be at most {longest} printable characters")
        if not self.key:
            raise ValueError("key is empty: it is what makes sending twice safe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """One act of one person, as the store keeps it for good."""

    id: int
    item: int
    project: int
    person: int
    outcome: Outcome
    shown: tuple[int, ...]
    blind: bool
    guidelines: int
    seconds: float
    policies: tuple[str, ...]
    """Hash of the policy behind each answer, in the item's order; empty texts where none is known."""
    client: str
    key: str
    round: int
    extra: bool
    """Beyond the overlap when it was saved, and still beyond it now; left out of exports by default."""
    supersedes: int | None
    at: str
    """When, ISO 8601 in UTC."""

    def __post_init__(self) -> None:
        _check_act(self.shown, self.seconds, self.round)


def _check_act(shown: tuple[int, ...], seconds: float, round: int) -> None:
    whole = isinstance(shown, tuple) and all(type(index) is int for index in shown)
    if not whole or sorted(shown) != list(range(len(shown))):
        raise ValueError(f"shown must name each answer once, got {shown!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds must be a number from 0 on, got {seconds!r}")
    _check_whole(round, range(2), "round")


def _check_text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {type(value).__name__}")


def _check_said(value: object, name: str) -> None:
    _check_text(value, name)
    if not str(value).strip():
        raise ValueError(f"the {name} is empty")


def _check_whole(value: object, allowed: range, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        raise ValueError(f"{name} is a whole number from {allowed[0]} to {allowed[-1]}, got {value!r}")


def _check_one_of(value: object, allowed: tuple[str, ...], name: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}, got {value!r}")
