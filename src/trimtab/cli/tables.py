"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.cli.text import visible

if TYPE_CHECKING:
    from trimtab.arena.findings import Findings

_WIDTH_OF_FILES = 160
"""Columns where the output is no terminal, so that rows stay whole."""
_UNBOUNDED = 100_000


def print_rows(rows: list[tuple[str, ...]], *, title: str = "") -> None:
    """A table whose first row is its head; cells are text and never markup.

    Where the terminal is too narrow for it, one row after the other, a line for each cell.
    """
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    whole = [[Text(visible(cell)) for cell in row] for row in rows]
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in whole[0]:
        table.add_column(name)
    for row in whole[1:]:
        table.add_row(*row)
    # The least width at which no word is cut. Rich reports no more than the room that it is given.
    unbounded = console.options.update(width=_UNBOUNDED)
    if Measurement.get(console, unbounded, table).minimum <= console.width:
        console.print(table)
    else:
        console.print(Group(*_one_by_one(whole, title)))


def _one_by_one(rows: list[list[Text]], title: str) -> Iterator[RenderableType]:
    if title:
        yield Text(title, style="italic")
    for row in rows[1:]:
        cells = Table.grid(padding=(0, 2))
        for name, cell in zip(rows[0], row, strict=True):
            cells.add_row(name, cell)
        yield Padding(cells, (0, 0, 1, 0))


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
