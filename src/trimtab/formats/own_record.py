"""trimtab's own comparison record as JSON: the one form that holds verdicts, ties, sources and groups.

    {"prompt": "..." or [messages], "a": "...", "b": "...",
     "verdict": {"preferred": "a", "judge": "...", "strength": 2, "shown": "ba", "at": "2026-01-31T12:00Z"},
     "source_a": "runs/ppo", "source_b": "runs/dpo", "stopped_a": false, "group": "..."}

Only `prompt`, `a` and `b` are needed, and `preferred` in a verdict; what is not known is left away.
"""

from __future__ import annotations

from dataclasses import asdict

from trimtab.formats.rows import RawRow, RowError, excerpt
from trimtab.formats.values import check_different, check_reply, prompt_of_value, text_of
from trimtab.records import Comparison, Message, Prompt, Verdict

VERDICT_FIELDS = ("preferred", "judge", "strength", "shown", "at")


def read_comparison(row: RawRow) -> Comparison:
    """trimtab's own record: `prompt`, `a`, `b`; `verdict`, `source_a`, `source_b`, `group` if known.

    An empty reply is a defect unless its source is named: a policy that said nothing is an observation.
    """
    comparison = Comparison(
        prompt=prompt_of_value(row["prompt"], "prompt"),
        a=text_of(row["a"], "a"),
        b=text_of(row["b"], "b"),
        verdict=None if "verdict" not in row else _verdict(row["verdict"]),
        source_a=text_of(row.get("source_a", ""), "source_a"),
        source_b=text_of(row.get("source_b", ""), "source_b"),
        stopped_a=_flag(row, "stopped_a"),
        stopped_b=_flag(row, "stopped_b"),
        group=text_of(row.get("group", ""), "group"),
    )
    if not comparison.source_a:
        check_reply(comparison.a, "a")
    if not comparison.source_b:
        check_reply(comparison.b, "b")
    if comparison.decided:
        check_different(comparison.a, comparison.b, ("a", "b"))
    return comparison


def _flag(row: RawRow, field: str) -> bool:
    value = row.get(field, True)
    if not isinstance(value, bool):
        raise RowError(
            "wrong value", f"`{field}` is true or false", field=field, found=excerpt(value), fix="write false"
        )
    return value


def _verdict(value: object) -> Verdict:
    example = 'write {"preferred": "a"}, "b", "tie" or "both_bad"'
    if not isinstance(value, dict) or "preferred" not in value:
        raise RowError(
            "wrong value",
            "a verdict is an object with `preferred`",
            field="verdict",
            found=excerpt(value),
            fix=example,
        )
    known = {key: part for key, part in value.items() if part is not None}
    for key in known:
        if key not in VERDICT_FIELDS:
            raise RowError(
                "wrong value",
                f"a verdict has no `{key}`",
                field=f"verdict.{key}",
                found=excerpt(known[key]),
                fix=f"use {', '.join(VERDICT_FIELDS)}",
            )
    try:
        return Verdict(**known)
    except (TypeError, ValueError) as error:
        raise RowError(
            "wrong value", str(error), field="verdict", found=excerpt(value), fix=example
        ) from error


def comparison_json(comparison: Comparison) -> RawRow:
    """The inverse of `read_comparison`."""
    fields = {
        "prompt": prompt_json(comparison.prompt),
        "a": comparison.a,
        "b": comparison.b,
        "verdict": None if comparison.verdict is None else _known(asdict(comparison.verdict)),
        **_known({name: getattr(comparison, name) for name in ("source_a", "source_b", "group")}),
        **{name: False for name in ("stopped_a", "stopped_b") if not getattr(comparison, name)},
    }
    return {key: value for key, value in fields.items() if value is not None}


def _known(fields: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value not in (None, "")}


def prompt_json(prompt: Prompt) -> object:
    """Text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt]


def answer_json(prompt: Prompt, response: str) -> object:
    """The response in the form of its prompt: text after text, a list of one message after a chat."""
    return response if isinstance(prompt, str) else [asdict(Message("assistant", response))]
