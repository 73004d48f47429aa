"""`trimtab run` and `trimtab demo`: many stages in order."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import Assignments, Out, settings_tree
from trimtab.config import build

app = typer.Typer()


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
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    noise: Annotated[
        float,
        typer.Option(
            min=0, help="How much the judge of the pairs doubts: 0 not at all, 1 as a person might."
        ),
    ] = 0.0,
    pairs: Annotated[int, typer.Option(min=1, help="Judged pairs of answers to a training prompt.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    set_: Assignments = None,
    out: Out = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
) -> None:
    """Run PPO and DPO on a small model that comes with trimtab, and compare them: about five minutes.

    Example: trimtab demo --open
    """
    from trimtab.arena.findings import read_findings
    from trimtab.demo.run import DemoSettings, run_demo
    from trimtab.pipeline.run import StageFailed

    settings = DemoSettings(seed=seed, noise=noise, pairs=pairs, device=device)
    try:
        report = run_demo(settings, out or Path("runs") / "demo", set_ or [])
    except StageFailed as failed:
        raise typer.Exit(failed.exit_code) from None
    typer.echo(read_findings(report.with_suffix(".json")).headline)
    typer.echo(report)
    if open_:
        webbrowser.open(report.resolve().as_uri())
