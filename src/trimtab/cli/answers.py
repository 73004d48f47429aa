"""`trimtab generate|play|judge`: answers from models, side by side, and verdicts on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import AsJson
from trimtab.cli.people import PEOPLE, Question, judge_by_people
from trimtab.cli.stores import DEFAULT_STORE, StorePlace
from trimtab.cli.text import visible, visible_pieces
from trimtab.errors import ConfigError, Interrupted

app = typer.Typer()

MaxNew = Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option(help="Draw from the likeliest tokens with this probability together.")]
TopK = Annotated[int, typer.Option(min=0, help="Draw from so many of the likeliest tokens; 0: from all.")]
MinP = Annotated[
    float, typer.Option(help="Draw from tokens with this share of the likeliest one's probability.")
]
RepetitionPenalty = Annotated[
    float, typer.Option(min=1, help="Makes tokens that have been read or written less likely; 1: does not.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="Ends an answer once it holds this text, which stays in it; may be repeated.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="Of sampling.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A run, a folder, a hub id, a .gguf file or a known name.")],
    prompt: Annotated[
        str | None, typer.Option(help="What to ask; without it, read from standard input.")
    ] = None,
    max_new: MaxNew = 128,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Let MODEL answer one prompt; the answer appears as it is written.

    Example: trimtab generate runs/dpo --prompt "How do I apologise to a friend?"
    """
    text = sys.stdin.read().strip() if prompt is None else prompt
    if not text:
        raise ConfigError(
            "there is no prompt", where="--prompt", fix='--prompt "..." or text on standard input'
        )
    from trimtab.arena.matches import answer_question, tell_answer
    from trimtab.rollout.types import Sampling

    sampling = Sampling(
        max_new=max_new,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop_strings=tuple(stop or ()),
    )
    if as_json:
        answer = answer_question(model, text, sampling, seed=seed, device=device)
        typer.echo(json.dumps({"prompt": text, **answer}, ensure_ascii=False))
    else:
        _tell(tell_answer(model, text, sampling, seed=seed, device=device))


def _tell(pieces: Iterator[str]) -> None:
    """Print an answer as it is written.

    Raises:
        Interrupted: the person has read enough; what was written stays, on a line of its own.
    """
    try:
        for piece in visible_pieces(pieces):
            typer.echo(piece, nl=False)
    except KeyboardInterrupt:
        typer.echo()
        raise Interrupted("interrupted: the answer has not come to its end") from None
    typer.echo()


@app.command()
def play(
    left: Annotated[str, typer.Argument(help="The model that writes response a.")],
    right: Annotated[str, typer.Argument(help="The model that writes response b; may be the same one.")],
    prompts: Annotated[
        str, typer.Option(help="Prompts, demonstrations or comparisons: a file or hub data set.")
    ],
    out: Annotated[Path, typer.Option(help="The comparisons to write (JSONL).")],
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    max_new: MaxNew = 128,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Let LEFT and RIGHT answer the same prompts: unjudged comparisons, for people or `trimtab judge`.

    Example: trimtab play runs/sft runs/dpo --prompts held-out.jsonl --out matches.jsonl
    """
    from trimtab import formats
    from trimtab.arena.matches import play_matches
    from trimtab.rollout.types import Sampling

    _refuse_existing(out)
    rows = formats.usable(formats.read_prompts(prompts))[:count]
    sampling = Sampling(max_new=max_new, temperature=temperature, top_p=top_p, stop_strings=tuple(stop or ()))
    comparisons = play_matches(left, right, rows, sampling, seed=seed, device=device)
    formats.write_comparisons(out, comparisons)
    typer.echo(f"{len(comparisons)} comparisons in {out}")


@app.command()
def judge(
    comparisons: Annotated[str, typer.Argument(help="Comparisons to be judged: a file or hub data set.")],
    by: Annotated[
        list[str],
        typer.Option(
            help="A reward model (a run, or any sequence classification model), python:FILE.py:FUNCTION,"
            " implicit:DPO_RUN, llm:SETTINGS.yaml for a language model behind an endpoint, or `people`, who"
            " judge on the pages of `trimtab feedback serve`."
            " Several that score: the mean of their standardised scores."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The judged comparisons to write (JSONL).")],
    device: Device = "auto",
    store: StorePlace = DEFAULT_STORE,
    project: Annotated[
        str | None,
        typer.Option(help="People: the project, made where there is none; else named after the file."),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=1, help="People: how many judge each pair; the most frequent answer counts."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="People: wait until all is judged.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a judge give its verdict on each comparison, and say who won how often.

    People are asked at the first call. Called again, it writes what they have judged by then.

    Example: trimtab judge matches.jsonl --by runs/judge --out judged.jsonl
    """
    if PEOPLE in by:
        _refuse_company(by)
        question = Question(store=store, project=project, overlap=overlap, wait=wait)
        judge_by_people(comparisons, question, out, as_json=as_json)
    else:
        _judge_by_models(comparisons, by, out, device, as_json=as_json)


def _judge_by_models(comparisons: str, by: list[str], out: Path, device: str, *, as_json: bool) -> None:
    from trimtab import formats
    from trimtab.arena.jury import load_jury
    from trimtab.arena.matches import judge_comparisons
    from trimtab.arena.tally import tally
    from trimtab.model.device import choose

    _refuse_existing(out)
    reading = formats.read_comparisons(comparisons)
    rows = formats.usable(reading)
    jury = load_jury(by, choose(device, "auto"))
    judged, unread = judge_comparisons(rows, jury)
    formats.write_comparisons(out, judged)
    unusable = [(defect.where, f"{defect.kind}: {defect.what}") for defect in reading.defects_left_out]
    left_out = [*unusable, *unread]
    if as_json:
        result = {
            "verdicts": tally(judged),
            "left out": [{"where": where, "reason": reason} for where, reason in left_out],
            "notes": jury.notes(),
        }
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    for where, reason in left_out:
        typer.echo(visible(f"left out {where}: {reason}"), err=True)
    for note in jury.notes():
        typer.echo(visible(note))
    counts = {**tally(judged), "left out": len(left_out)}
    typer.echo(visible(", ".join(f"{name}: {count}" for name, count in counts.items())))
    typer.echo(out)


def _refuse_company(by: list[str]) -> None:
    if len(by) > 1:
        raise ConfigError(
            "people judge alone: they give verdicts, and scores cannot be averaged with them",
            where="--by",
            found=", ".join(by),
            fix="judge twice, and compare with trimtab eval agreement",
        )


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise ConfigError("the file exists already", where=str(out), fix="choose another --out, or delete it")
