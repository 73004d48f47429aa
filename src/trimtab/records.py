"""The records that carry feedback through trimtab: frozen, and checked when they are built.

A record holds text, never token ids; `data.tokens` turns it into ids. Files and data sets
become records in `formats`; a record that breaks a rule here cannot exist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
Preferred = Literal["a", "b", "tie", "both_bad"]
ShownOrder = Literal["ab", "ba"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"role must be one of {', '.join(get_args(Role))}, got {self.role!r}")
        if not isinstance(self.content, str):
            raise ValueError(f"content must be text, got {type(self.content).__name__}")


Prompt = str | tuple[Message, ...]
"""What the model is asked: plain text to continue, or the chat so far."""


def check_prompt(prompt: Prompt) -> None:
    """Raise ValueError unless `prompt` is text, or a chat whose last turn waits for an answer."""
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, tuple) or not all(isinstance(turn, Message) for turn in prompt):
        raise ValueError("a prompt is text or a tuple of messages")
    if not prompt:
        raise ValueError("the prompt has no messages")
    if prompt[-1].role == "assistant":
        raise ValueError("the prompt ends with an assistant message: that is a response")


def prompt_text(prompt: Prompt) -> str:
    """The prompt as one readable text: `role: content` lines for a chat. For people and hashes."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt with a response that a person wrote."""

    prompt: Prompt
    response: str
    keywords: tuple[str, ...] = ()
    """What a good response must name, where someone said so: for evaluation, never for training."""

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if not self.response.strip():
            raise ValueError("the response is empty")
        if not all(keyword.strip() for keyword in self.keywords):
            raise ValueError(f"a keyword is blank, in {self.keywords!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which of two responses a judge preferred."""

    preferred: Preferred
    judge: str = ""
    """Who decided: a person's name, a reward model's run, a data set."""
    strength: int | None = None
    """1 slightly, 2 clearly, 3 strongly; None where nobody said."""
    shown: ShownOrder | None = None
    """The order in which the judge saw the two; None where it is not known."""
    at: str = ""
    """When, ISO 8601 in UTC; empty where it is not known."""

    def __post_init__(self) -> None:
        if self.preferred not in get_args(Preferred):
            raise ValueError(f"a verdict is one of {', '.join(get_args(Preferred))}, got {self.preferred!r}")
        if self.strength is not None and self.strength not in (1, 2, 3):
            raise ValueError(f"strength must be 1, 2 or 3, got {self.strength!r}")
        if self.shown is not None and self.shown not in get_args(ShownOrder):
            raise ValueError(f"shown must be ab or ba, got {self.shown!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A prompt, two responses, where each came from, and the verdict (None while unjudged)."""

    prompt: Prompt
    a: str
    b: str
    verdict: Verdict | None = None
    source_a: str = ""
    """What wrote `a`: a person, a model, a run."""
    source_b: str = ""
    stopped_a: bool = True
    """Whether `a` came to its end; False where a length limit cut it."""
    stopped_b: bool = True
    group: str = ""
    """Pairs implied by one person's ranking share a group; empty for a pair that stands alone."""

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if not isinstance(self.a, str) or not isinstance(self.b, str):
            raise ValueError("both responses must be text")

    @property
    def pair(self) -> tuple[tuple[str, bool], tuple[str, bool]]:
        """The preferred response and the other one, each with whether it came to its end."""
        assert self.verdict is not None and self.decided, "the comparison names no winner"
        a, b = (self.a, self.stopped_a), (self.b, self.stopped_b)
        return (a, b) if self.verdict.preferred == "a" else (b, a)

    @property
    def decided(self) -> bool:
        """Whether the verdict names a winner."""
        return self.verdict is not None and self.verdict.preferred in ("a", "b")

    @property
    def chosen(self) -> str:
        """The preferred response; only a decided comparison has one."""
        return self.pair[0][0]

    @property
    def rejected(self) -> str:
        """The response that lost; only a decided comparison has one."""
        return self.pair[1][0]

    def judged(self, verdict: Verdict) -> Comparison:
        """The same comparison with this verdict."""
        return replace(self, verdict=verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A prompt, one response, and a label (good or bad) or a grade from 1 to 7."""

    prompt: Prompt
    response: str
    label: bool | None = None
    grade: int | None = None
    judge: str = ""

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if not self.response.strip():
            raise ValueError("the response is empty")
        if (self.label is None) == (self.grade is None):
            raise ValueError("a rating has either a label or a grade")
        if self.grade is not None and self.grade not in range(1, 8):
            raise ValueError(f"a grade is a whole number from 1 to 7, got {self.grade!r}")
