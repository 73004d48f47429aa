"""`trimtab run` and `trimtab demo`: many stages in order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import Assignments, Out, settings_tree
from trimtab.config import build
from trimtab.errors import ConfigError

app = typer.Typer()

CHECKOUT = Path(__file__).parents[3]
DEMO = CHECKOUT / "configs" / "demo.yaml"
DEMO_MODEL = "smollm2-135m-instruct"
DEMO_DATA = CHECKOUT / "examples" / "hh-harmless"


@app.command("run")
def run_file(
    pipeline: Annotated[Path, typer.Argument(help="A YAML file of stages in order.")],
    set_: Assignments = None,
    out: Out = None,
) -> None:
    """Run the stages of PIPELINE in order, skipping those that are done.

    Example: trimtab run configs/own-data.yaml --set model=my/model --set comparisons=comparisons.jsonl
    """
    from trimtab.arena.findings import read_findings
    from trimtab.pipeline.run import StageFailed, run_pipeline
    from trimtab.pipeline.settings import PipelineSettings, plan

    settings = build(PipelineSettings, settings_tree(pipeline, set_), where=str(pipeline))
    folder = out or Path("runs") / settings.name
    stages = plan(settings, folder, where=str(pipeline))
    try:
        run_pipeline(settings, stages, folder)
    except StageFailed as failed:
        raise typer.Exit(failed.exit_code) from None
    for stage in stages:
        if stage.kind == "compare":
            typer.echo(read_findings(stage.folder / "report.json").headline)
            typer.echo(stage.folder / "report.html")


@app.command()
def demo(set_: Assignments = None, out: Out = None) -> None:
    """Run the whole path on SmolLM2-135M-Instruct and real preferences: about a quarter of an hour.

    Example: trimtab demo
    """
    from trimtab.model import bundles
    from trimtab.runs import progress

    if not DEMO.exists():
        raise ConfigError(
            "the demo's settings and data come with the source checkout",
            where=str(DEMO),
            fix="clone the repository and run `make demo` there",
        )
    if not bundles.location(DEMO_MODEL).is_dir():
        bundles.get(DEMO_MODEL, report=progress.say)
    data = [
        f"comparisons={DEMO_DATA / 'comparisons.jsonl.gz'}",
        f"held_out={DEMO_DATA / 'held-out.jsonl.gz'}",
    ]
    run_file(DEMO, [*data, *(set_ or [])], out)
