"""The quality of judgments as tables and sentences on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from trimtab.cli.tables import print_rows
from trimtab.cli.text import visible
from trimtab.statistics.intervals import PERCENT

if TYPE_CHECKING:
    from trimtab.feedback.quality import Annotator, Quality
    from trimtab.statistics.intervals import Interval


def print_quality(found: Quality) -> None:
    """What all agree on, each person, each two people, and who judges unlike a person who reads."""
    typer.echo(
        visible(
            f"{found.project} ({found.kind}): {found.judgments:,} first answers to {found.items:,} items, "
            f"{found.shared:,} of them judged by two or more"
        )
    )
    typer.echo(f"people agree on {_rate(found.agreement)}")
    typer.echo(
        f"Krippendorff's alpha: nominal {_text(found.alpha_nominal)}, ordinal {_text(found.alpha_ordinal)}"
    )
    if found.longer is not None:
        typer.echo(f"the longer answer was preferred in {_rate(found.longer)}")
    if found.annotators:
        typer.echo("")
        print_rows([_HEAD, *map(_row, found.annotators)])
    if found.between:
        typer.echo("")
        rows = [
            (one.first, one.second, f"{one.agreement.n:,}", one.agreement.percent()) for one in found.between
        ]
        print_rows([("person", "and", "items", "agree on"), *rows])
    for person in found.annotators:
        for check in person.checks:
            if check.suspicious:
                said = f"look at {person.name}: {check.what} (p = {check.adjusted:.2g}, adjusted)"
                typer.echo(visible(said))


_HEAD = (
    "person", "judged", "skipped", "flagged", "agree with others", "right on gold", "same on repeats",
    "first shown wins", "longer wins", "median s", "fast", "slow",
)  # fmt: skip


def _row(one: Annotator) -> tuple[str, ...]:
    pace = (
        ("", "", "")
        if one.pace is None
        else (f"{one.pace.median:.1f}", str(one.pace.fast), str(one.pace.slow))
    )
    return (
        one.name,
        f"{one.judgments:,}",
        str(one.skipped),
        str(one.flagged),
        _short(one.agreement),
        _short(one.gold_accuracy),
        _short(one.consistency),
        _short(one.side.share if one.side else None),
        _short(one.longer),
        *pace,
    )


def _short(rate: Interval | None) -> str:
    """`58 % of 40`."""
    return "" if rate is None else f"{100 * rate.estimate:.0f}{PERCENT} of {rate.n:,}"


def _rate(rate: Interval | None) -> str:
    return "nothing yet" if rate is None else f"{rate.percent()} of {rate.n:,}"


def _text(measure: Interval | None) -> str:
    return "unknown" if measure is None else measure.text()
