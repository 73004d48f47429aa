"""`trimtab doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import typer

from trimtab import __version__
from trimtab.cli.options import AsJson
from trimtab.cli.tables import print_rows

app = typer.Typer()

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "pyarrow",
    "pydantic",
    "plotly",
)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine offers: versions, device, arithmetic, memory, disk, models at hand.

    Example: trimtab doctor
    """
    found = _found()
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_rows([("what", "found"), *found.items()])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _found() -> dict[str, str]:
    import torch

    from trimtab.model import bundles
    from trimtab.model.device import available_memory, choose

    numerics = choose("auto", "auto")
    obtained = [bundle for bundle in bundles.BUNDLES if bundles.location(bundle).is_dir()]
    return {
        "trimtab": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "cores": f"{os.cpu_count()}, {torch.get_num_threads()} threads used",
        "computes on": numerics.name,
        "memory": f"{available_memory(numerics.device) / 1e9:.1f} GB available",
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB free here",
        "models at hand": ", ".join(obtained) or "none; try: trimtab models get smollm2-135m-instruct",
    }
