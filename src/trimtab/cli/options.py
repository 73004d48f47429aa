"""Options that several commands share, and how settings are gathered from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.config import AnySettings, build, override, read_yaml

ConfigFile = Annotated[Path | None, typer.Argument(help="A YAML file of settings.", show_default=False)]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")
]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder to make.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
AsCSV = Annotated[bool, typer.Option("--csv", help="Print one row a verdict, for spreadsheets.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def settings_tree(config: Path | None, assignments: list[str] | None) -> dict[str, Any]:
    """The settings in the file, with the assignments put in."""
    return override(read_yaml(config) if config else {}, assignments or [])


def gather(kind: type[AnySettings], config: Path | None, assignments: list[str] | None) -> AnySettings:
    """Settings of one kind from the file and the assignments."""
    return build(kind, settings_tree(config, assignments), where=str(config) if config else "")
