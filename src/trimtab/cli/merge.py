"""`trimtab merge`: an adapter and its base model become one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def merge(
    run: Annotated[
        str, typer.Argument(help="A run trained with lora, or a folder with an adapter.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The model folder to make.", show_default=False)],
) -> None:
    """Add the adapter that RUN has trained to its base model, and write a model that needs neither.

    Example: trimtab merge runs/dpo --out models/dpo
    """
    from trimtab.train.merge import merge as write_merged

    write_merged(run, out)
    typer.echo(out)
