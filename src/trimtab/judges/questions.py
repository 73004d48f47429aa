"""What an LLM judge is asked, and how its answer is read.

Prompts and responses are hostile: a policy under training is paid to fool its judge. Each question
therefore has a code, drawn from the texts' hash so that the same question is the same bytes again,
and found in none of them. The texts stand between lines with the code, which they cannot end; a
verdict is a line with the code, which they cannot contain, so that one that is only quoted from
them never counts.

The grammar of an answer: its last line that is not blank is exactly `VERDICT code: X`, where X is
1, 2 or TIE; and wherever else the answer says `VERDICT code:`, in whatever case, X follows there too.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Literal, cast

from trimtab.errors import ConfigError

Choice = Literal["1", "2", "TIE"]

PLACEHOLDERS = {
    "prompt": "the prompt between its fences; a chat as `role: content` lines",
    "response_1": "the response shown first, between its fences",
    "response_2": "the response shown second, between its fences",
    "answer_format": "how to end the answer: the three verdict lines to choose from",
}
"""What a template may hold, each at least once. A brace of its own is written twice: {{ and }}."""

_OWN = resources.files("trimtab.judges") / "prompts"


class UnreadableAnswer(ValueError):
    """An answer without exactly one verdict; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Template:
    """A question with placeholders, checked."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent, and the code that the verdict must carry."""

    text: str
    code: str


def load_template(name: str) -> Template:
    """One of trimtab's own templates, or the text file at a path (with / or .txt).

    Raises:
        ConfigError: no such template, not readable text, or a placeholder that is unknown or missing.
    """
    own = {Path(file.name).stem: file for file in _OWN.iterdir() if file.name.endswith(".txt")}
    if name in own:
        return checked_template(own[name].read_text(encoding="utf-8"), name)
    path = Path(name)
    if path.suffix != ".txt" and len(path.parts) < 2:
        near = difflib.get_close_matches(name, own, n=1)
        known = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(own))}"
        raise ConfigError(
            "there is no such template", where="template", found=name, fix=f"{known}; or give a .txt file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the template cannot be read", where=name, found=str(error), fix="give a text file in UTF-8"
        ) from None
    return checked_template(text, name)


def checked_template(text: str, name: str) -> Template:
    """A template from its text; `name` is the place that errors tell.

    Raises:
        ConfigError: a placeholder that is unknown or missing, or a brace that stands alone.
    """
    try:
        parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise ConfigError(
            "a brace stands alone in the template",
            where=name,
            found=str(error),
            fix="write a brace that is meant as text twice: {{ or }}",
        ) from None
    known = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
    for _, field, format_spec, conversion in parts:
        if field not in PLACEHOLDERS or format_spec or conversion:
            found = (
                f"{field}{'!' + conversion if conversion else ''}{':' + format_spec if format_spec else ''}"
            )
            near = difflib.get_close_matches(str(field), PLACEHOLDERS, n=1)
            raise ConfigError(
                "the template has an unknown placeholder",
                where=name,
                found=f"{{{found}}}",
                fix=f"did you mean {{{near[0]}}}?" if near else f"known: {known}",
            )
    missing = [placeholder for placeholder in PLACEHOLDERS if placeholder not in {part[1] for part in parts}]
    if missing:
        raise ConfigError(
            "the template lacks a placeholder",
            where=name,
            found="no " + ", ".join(f"{{{placeholder}}}" for placeholder in missing),
            fix=f"put in {{{missing[0]}}}: {PLACEHOLDERS[missing[0]]}",
        )
    return Template(name, text)


def question(template: Template, prompt: str, first: str, second: str, *, attempt: int = 0) -> Question:
    """The question which of two responses is better; another attempt is the same with another code."""
    code = _code((template.text, prompt, first, second), attempt)
    text = template.text.format(
        prompt=_fenced("prompt", code, prompt),
        response_1=_fenced("response 1", code, first),
        response_2=_fenced("response 2", code, second),
        answer_format=_answer_format(code),
    )
    return Question(text, code)


def read_verdict(answer: str, code: str) -> Choice:
    """The one verdict in an answer.

    Raises:
        UnreadableAnswer: it does not end with a verdict line, or contradicts itself.
    """
    lines = [line.strip() for line in answer.split("\n") if line.strip()]
    ending = re.fullmatch(rf"VERDICT {code}: (1|2|TIE)", lines[-1] if lines else "")
    if ending is None:
        raise UnreadableAnswer(
            "the answer does not end with a verdict line" if lines else "the answer is empty"
        )
    said = {word.upper() for word in re.findall(rf"VERDICT\s+{code}\s*:\s*(\w*)", answer, re.IGNORECASE)}
    if said != {ending[1]}:
        raise UnreadableAnswer(f"the answer contradicts itself: {', '.join(sorted(said))}")
    return cast(Choice, ending[1])


def _code(texts: Sequence[str], attempt: int) -> str:
    seed = json.dumps([attempt, *texts])
    for draw in count():
        code = hashlib.sha256(f"{draw} {seed}".encode()).hexdigest()[:8]
        if not any(code in text.lower() for text in texts):
            return code
    raise AssertionError("unreachable")


def _fenced(name: str, code: str, text: str) -> str:
    return f"[{name} {code} begins]\n{text}\n[{name} {code} ends]"


def _answer_format(code: str) -> str:
    return (
        "End your answer with exactly one of these three lines, copied letter by letter, "
        "and write nothing after it:\n"
        f"VERDICT {code}: 1\n"
        f"VERDICT {code}: 2\n"
        f"VERDICT {code}: TIE\n"
        "They mean that response 1 is better, that response 2 is better, and that neither is."
    )
