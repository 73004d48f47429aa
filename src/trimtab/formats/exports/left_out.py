"""Which records no export may hold: nothing here repairs or guesses, it names the reason."""

from __future__ import annotations

from dataclasses import replace

from trimtab.formats.exports.shape import LeftOut, Ties
from trimtab.records import Comparison, Preferred, Prompt, Verdict


def check_prompt_filled(prompt: Prompt) -> None:
    """Raise LeftOut where there is nothing to answer."""
    last = prompt if isinstance(prompt, str) else prompt[-1].content
    if not last.strip():
        raise LeftOut("blank prompt")


def check_pair(comparison: Comparison) -> None:
    """Raise LeftOut unless the two are texts of which one can be better than the other."""
    check_prompt_filled(comparison.prompt)
    if not comparison.a.strip() or not comparison.b.strip():
        raise LeftOut("blank answer")
    if comparison.a.strip() == comparison.b.strip():
        raise LeftOut("identical answers")


def check_observation(comparison: Comparison) -> None:
    """Raise LeftOut for what cannot have been observed; `own_record.read_comparison` refuses the same.

    A named policy may say nothing, and two may say the same, but nobody can then prefer one of them.
    """
    check_prompt_filled(comparison.prompt)
    answers = ((comparison.a, comparison.source_a), (comparison.b, comparison.source_b))
    if any(not answer.strip() and not source for answer, source in answers):
        raise LeftOut("blank answer")
    if comparison.decided and comparison.a.strip() == comparison.b.strip():
        raise LeftOut("identical answers")


def verdict_of(comparison: Comparison) -> Verdict:
    """The verdict; raise LeftOut where there is none, as for a pair that was skipped."""
    if comparison.verdict is None:
        raise LeftOut("unjudged")
    return comparison.verdict


def decided_ways(comparison: Comparison, ties: Ties) -> list[Comparison]:
    """The comparison where it names a winner; as the choice says, once each way where it does not.

    Raises:
        LeftOut: nobody judged, or nobody won and the choice leaves that out.
    """
    verdict = verdict_of(comparison)
    if comparison.decided:
        return [comparison]
    if verdict.preferred == "tie" and ties == "leave_out":
        raise LeftOut("tie")
    if verdict.preferred == "both_bad" and ties != "both_ways_with_both_bad":
        raise LeftOut("both bad")
    ways: tuple[Preferred, Preferred] = ("a", "b")
    return [comparison.judged(replace(verdict, preferred=way, strength=None)) for way in ways]
