"""`trimtab verify`: the closed-form checks and the known optima, on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import AsJson
from trimtab.cli.tables import print_rows

app = typer.Typer()


@app.command()
def verify(
    html: Annotated[Path | None, typer.Option(help="Write the table and its pictures to this file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Check losses, estimators and trainers against what is exactly known; about a minute.

    Exits with 1 if anything does not hold.

    Example: trimtab verify --html verification.html
    """
    from trimtab.model.device import choose
    from trimtab.pipeline import verify as checks

    numerics = choose(device, "float32")
    results = checks.verify(numerics)
    if as_json:
        typer.echo(json.dumps([{**asdict(one), "holds": one.holds} for one in results]))
    else:
        print_rows(checks.table(results))
        typer.echo(f"\n{checks.headline(results)}")
    if html is not None:
        typer.echo(checks.write_page(html, results, numerics), err=True)
    if not all(result.holds for result in results):
        raise typer.Exit(1)
