"""`trimtab runs list|show`: the run folders below a folder, and what one of them did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.options import AsJson
from trimtab.cli.tables import print_rows
from trimtab.runs.run import is_done, read_facts, read_metrics

app = typer.Typer(help="Look at run folders.", no_args_is_help=True)


@app.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, at any depth.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs below FOLDER: stage, state, steps, cost.

    Example: trimtab runs list runs/demo
    """
    found = [_brief(path.parent) for path in sorted(folder.glob("**/run.json")) if _is_run(path)]
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    elif not found:
        typer.echo(f"no runs below {folder}")
    else:
        head = tuple(found[0])
        print_rows([head, *(tuple(str(row[name]) for name in head) for row in found)])


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: AsJson = False,
) -> None:
    """Show what one run was made from, what it measured and what it cost.

    Example: trimtab runs show runs/demo/dpo
    """
    facts, rows = read_facts(folder), read_metrics(folder)
    if as_json:
        typer.echo(json.dumps({**facts, "metrics": rows}, ensure_ascii=False))
        return
    typer.echo(f"{folder}: {facts['stage']}, {_state(folder)}")
    print_rows([("fact", "value"), *((name, _short(value)) for name, value in facts.items())])
    measured = _first_and_last(rows)
    if measured:
        typer.echo("")
        print_rows([("metric", "first", "last"), *measured])


def _is_run(path: Path) -> bool:
    """Whether this run.json is one of ours: others use the name too."""
    try:
        return "stage" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, OSError):
        return False


def _brief(folder: Path) -> dict[str, Any]:
    facts, rows = read_facts(folder), read_metrics(folder)
    cost = facts.get("cost") or {}
    return {
        "run": str(folder),
        "stage": facts["stage"],
        "state": _state(folder),
        "steps": max((row["step"] for row in rows), default=0),
        "wall_s": round(cost.get("wall_s", 0.0)),
        "peak_gb": round(cost.get("peak_memory_bytes", 0) / 1e9, 1),
    }


def _state(folder: Path) -> str:
    if is_done(folder):
        return "done"
    return "interrupted" if any((folder / "checkpoints").glob("step-*")) else "not done"


def _first_and_last(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "time"))
    table: list[tuple[str, ...]] = []
    for name in names:
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if values:
            table.append((name, f"{values[0]:.4g}", f"{values[-1]:.4g}"))
    return table


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
