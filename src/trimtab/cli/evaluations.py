"""`trimtab eval demonstrations|reward|agreement`: models against what people wrote and chose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import AsJson
from trimtab.cli.tables import print_rows
from trimtab.cli.text import visible
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.evaluation.closeness import Encoder

app = typer.Typer(help="Evaluate models against what people wrote and chose.", no_args_is_help=True)


@app.command()
def demonstrations(
    models: Annotated[list[str], typer.Argument(help="Runs or models; the first is compared against.")],
    data: Annotated[str, typer.Option(help="Demonstrations that none of them was trained on.")],
    out: Annotated[Path, typer.Option(help="Folder to write scores.jsonl and summary.json into.")],
    text: Annotated[
        str | None,
        typer.Option(help="Plain text that must not be unlearned; passages parted by blank lines."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=2, help="Only the first so many demonstrations.")] = None,
    max_new: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 128,
    max_prompt: Annotated[
        int, typer.Option(min=1, help="Tokens of a prompt at most; longer chats lose their oldest turns.")
    ] = 512,
    encoder: Annotated[
        str | None,
        typer.Option(help="Sentence encoder for similarity of meaning: a folder or hub id; `none`."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Score how close MODELS come to people's answers, and what they still know, with intervals.

    Example: trimtab eval demonstrations runs/base runs/sft runs/dpo --data held-out.jsonl --out scores
    """
    from trimtab.evaluation import demonstration_results as results
    from trimtab.evaluation import demonstrations as evaluation
    from trimtab.evaluation.settings import DemonstrationSettings

    if out.exists():
        raise ConfigError(
            "the folder exists already", where=str(out), fix="choose another --out, or delete it"
        )
    settings = DemonstrationSettings(
        models=tuple(models), data=data, text=text, count=count, max_prompt=max_prompt, max_response=max_new,
        device=device, encoder=encoder,
    )  # fmt: skip
    found = evaluation.evaluate(settings, _encoder(encoder, device))
    results.write_demonstrations(out, settings, found)
    if note := results.text_note(settings, found):
        typer.echo(visible(note), err=True)
    if as_json:
        typer.echo(results.demonstrations_json(settings, found))
        return
    print_rows(results.closeness_rows(found), title="how close to people's answers")
    typer.echo("")
    print_rows(results.likelihood_rows(found), title="nats per token of held-out text: less is better")
    typer.echo(f"\n{out}")


@app.command()
def reward(
    by: Annotated[
        list[str],
        typer.Argument(
            help="A reward model, implicit:DPO_RUN or python:FILE.py:FUNCTION; several are averaged."
        ),
    ],
    data: Annotated[str, typer.Option(help="RewardBench's format, or comparisons that people judged.")],
    out: Annotated[Path, typer.Option(help="Folder to write report.html, card.json and scores.jsonl into.")],
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a reward model on rows whose right answer is known: RewardBench, or your own held-out pairs.

    Example: trimtab eval reward runs/reward --data held-out.jsonl --out card
    """
    from trimtab.evaluation import reward as evaluation
    from trimtab.evaluation import reward_results as results
    from trimtab.judges.named import load_judge
    from trimtab.model.device import choose

    if out.exists():
        raise ConfigError(
            "the folder exists already", where=str(out), fix="choose another --out, or delete it"
        )
    rows, left_out = evaluation.read_rows(data, count)
    judge = load_judge(tuple(by), choose(device, "auto"))
    found = evaluation.evaluate(judge, rows, seed=0, left_out=left_out)
    results.write(out, found, data)
    if as_json:
        typer.echo(results.to_json(found, data))
        return
    typer.echo(visible(results.headline(found)))
    for sentence in results.sentences(found):
        typer.echo(visible(sentence))
    for table in (
        results.section_rows(found.card),
        results.subset_rows(found.card),
        results.slice_rows(found.card),
    ):
        typer.echo("")
        print_rows(table)
    if found.calibration is not None:
        typer.echo(f"\n{results.calibration_sentence(found.calibration)}")
    typer.echo(f"\n{out / 'report.html'}")


@app.command()
def agreement(
    files: Annotated[
        list[str], typer.Argument(help="Two or more files of the same comparisons, one a judge or a person.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say how far judges agree with each other, and how far beyond chance.

    Example: trimtab eval agreement people.jsonl by-reward-model.jsonl by-llm.jsonl
    """
    from trimtab import formats
    from trimtab.evaluation import agreement as evaluation

    if len(set(files)) < 2:
        raise ConfigError(
            "agreement needs two files",
            where="FILES",
            found=", ".join(files),
            fix="name a file for each judge, such as the outputs of trimtab judge",
        )
    votes = {
        file: evaluation.votes_of(row.record for row in formats.usable(formats.read_comparisons(file)))
        for file in files
    }
    found = evaluation.agreement(votes)
    if as_json:
        typer.echo(evaluation.agreement_json(found))
        return
    print_rows(evaluation.agreement_rows(found))
    typer.echo(f"\n{evaluation.alpha_sentence(found)}")


def _encoder(name: str | None, device: str) -> Encoder | None:
    """The named sentence encoder, the installed one, or none where that is asked for or none is there."""
    from trimtab.evaluation.encoder import INSTALL, default_is_installed, load_encoder

    if name == "none":
        return None
    if name is None and not default_is_installed():
        typer.echo(
            f"No sentence encoder is installed, so similarity of meaning is not measured: {INSTALL} adds it, "
            "and --encoder none leaves it out without this note.",
            err=True,
        )
        return None
    return load_encoder(name, device="cpu" if device == "auto" else device)
