"""Results as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimtab.cli.text import visible

if TYPE_CHECKING:
    from trimtab.arena.findings import Findings

_WIDTH_OF_FILES = 160
"""Columns where the output is no terminal, so that rows stay whole."""


def print_rows(rows: list[tuple[str, ...]], *, title: str = "") -> None:
    """A table whose first row is its head; cells are text and never markup."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name)
    for row in rows[1:]:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    console.print(table)


def print_findings(findings: Findings) -> None:
    """The headline, how good the judge is, the verdicts, the policies, and the costs."""
    from trimtab.arena.cost import method_rows
    from trimtab.arena.tables import match_rows, summary_rows

    typer.echo(visible(f"\n{findings.headline}\n{findings.judge.sentence}\n"))
    print_rows(match_rows(findings), title="who was preferred")
    typer.echo("")
    print_rows(summary_rows(findings), title="what they are like (proxy: what PPO was trained on)")
    if findings.costs:
        typer.echo("")
        print_rows(method_rows(findings.costs), title="what they cost")
