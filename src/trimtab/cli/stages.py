"""`trimtab sft|reward|dpo|ppo|compare`: one stage, in a run folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import AsCSV, AsJson, Assignments, ConfigFile, Out, Resume, gather
from trimtab.config import Settings
from trimtab.runs import progress
from trimtab.runs.run import Run, open_run

app = typer.Typer()


@app.command()
def sft(config: ConfigFile = None, set_: Assignments = None, out: Out = None, resume: Resume = False) -> None:
    """Fine-tune a model on demonstrations, or on the chosen responses of comparisons.

    Example: trimtab sft --set model=smollm2-135m-instruct --set data=comparisons.jsonl --out runs/sft
    """
    from trimtab.train.settings import SFTSettings

    settings = gather(SFTSettings, config, set_)
    with _opened("sft", settings, out, resume) as run:
        from trimtab.train import sft

        sft.train(settings, run)


@app.command()
def reward(
    config: ConfigFile = None, set_: Assignments = None, out: Out = None, resume: Resume = False
) -> None:
    """Train a Bradley-Terry reward model on comparisons and rankings, or an ensemble of several.

    Example: trimtab reward --set model=runs/sft --set data=comparisons.jsonl --out runs/reward

    Example: trimtab reward --set model=runs/sft --set data=comparisons.jsonl --set members=3
    """
    from trimtab.train.settings import RewardSettings

    settings = gather(RewardSettings, config, set_)
    with _opened("reward", settings, out, resume) as run:
        from trimtab.train import reward

        reward.train(settings, run)


@app.command()
def dpo(config: ConfigFile = None, set_: Assignments = None, out: Out = None, resume: Resume = False) -> None:
    """Train a policy on comparisons directly, without a reward model; with loss=kto on ratings too.

    Example: trimtab dpo --set model=runs/sft --set data=comparisons.jsonl --set loss.beta=0.1 --out runs/dpo
    """
    from trimtab.train.settings import DPOSettings

    settings = gather(DPOSettings, config, set_)
    with _opened("dpo", settings, out, resume) as run:
        from trimtab.train import dpo

        dpo.train(settings, run)


@app.command()
def ppo(config: ConfigFile = None, set_: Assignments = None, out: Out = None, resume: Resume = False) -> None:
    """Train a policy against a reward model, with a penalty on leaving the reference.

    Example: trimtab ppo --set model=runs/sft --set reward_model=runs/reward --set data=comparisons.jsonl
    """
    from trimtab.train.settings import PPOSettings

    settings = gather(PPOSettings, config, set_)
    with _opened("ppo", settings, out, resume) as run:
        from trimtab.train import ppo

        ppo.train(settings, run)


@app.command()
def compare(
    config: ConfigFile = None,
    set_: Assignments = None,
    out: Out = None,
    resume: Resume = False,
    as_json: AsJson = False,
    as_csv: AsCSV = False,
) -> None:
    """Let policies answer the same held-out prompts, judge the answers, and write a report.

    Example: trimtab compare --set policies.ppo=runs/ppo --set policies.dpo=runs/dpo --set reference=runs/sft
    --set judge=runs/judge --set held_out=held-out.jsonl --out runs/compare
    """
    from trimtab.arena.settings import CompareSettings

    settings = gather(CompareSettings, config, set_)
    with _opened("compare", settings, out, resume) as run:
        from trimtab.arena.compare import compare

        compare(settings, run)
        _show(run.folder, as_json=as_json, as_csv=as_csv)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished comparison.")],
    as_json: AsJson = False,
    as_csv: AsCSV = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a summary for a pull request.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Make the page anew, here.", show_default=False)] = None,
) -> None:
    """Show a comparison again: its tables, its data, or its page made anew by this version.

    Example: trimtab report runs/compare --csv > verdicts.csv
    """
    from trimtab.arena.exports import to_markdown
    from trimtab.arena.findings import read_findings
    from trimtab.arena.report import write_report

    if as_markdown:
        typer.echo(to_markdown(read_findings(run / "report.json")), nl=False)
    elif out is not None:
        typer.echo(write_report(out, read_findings(run / "report.json")))
    else:
        _show(run, as_json=as_json, as_csv=as_csv)


def _show(folder: Path, *, as_json: bool, as_csv: bool) -> None:
    """A finished comparison on standard output."""
    from trimtab.arena.findings import read_findings
    from trimtab.cli.tables import print_findings

    findings = read_findings(folder / "report.json")
    if as_json or as_csv:
        path = folder / f"report.{'json' if as_json else 'csv'}"
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
    else:
        print_findings(findings)
        typer.echo(folder / "report.html")


def _opened(stage: str, settings: Settings, out: Path | None, resume: bool) -> Run:
    folder = out or Path("runs") / stage
    progress.say(f"{stage} -> {folder}")
    return open_run(folder, stage, settings, resume=resume)
