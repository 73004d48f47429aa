"""`trimtab data`: what is wrong with data, what is in them, and how a model sees them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimtab import formats
from trimtab.cli.text import visible
from trimtab.data.tokens import Codec, Limits, UnusableRow
from trimtab.errors import DataError
from trimtab.formats.rows import Record
from trimtab.records import Comparison, Demonstration, Prompt, Rating

if TYPE_CHECKING:
    from trimtab.formats.checks import CountTokens, FileReport, Lengths

app = typer.Typer(help="Check data, describe them, and see them as a model does.", no_args_is_help=True)

Files = Annotated[
    list[str],
    typer.Argument(help="JSONL, JSONL.gz or Parquet files, or hub data sets as owner/name:part."),
]
Dialogues = Annotated[
    formats.Dialogues, typer.Option(help="Read raw HH-RLHF dialogues as messages, or as they stand.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option("--model", help="Count tokens with this model's tokenizer; without it they are estimated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
MaxPrompt = Annotated[int, typer.Option(min=1, help="Tokens of a prompt, as in the stages' settings.")]
MaxResponse = Annotated[int, typer.Option(min=1, help="Tokens of a response, the stop token included.")]
LIMITS = Limits()


@app.command("check")
def check_files(
    files: Files,
    model: Tokenizer = None,
    max_prompt: MaxPrompt = LIMITS.prompt,
    max_response: MaxResponse = LIMITS.response,
    dialogues: Dialogues = "chat",
    as_json: AsJson = False,
) -> None:
    """Find every defect in FILES, and every prompt that two of them share; exit with 1 if there is an error.

    Example: trimtab data check train.jsonl held-out.jsonl.gz
    """
    report = formats.check(
        files,
        count_tokens=_counter(model),
        max_prompt=max_prompt,
        max_response=max_response,
        dialogues=dialogues,
    )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        console = Console()
        for defect in sorted(report.defects, key=lambda defect: defect.severity == "error"):
            _print_defect(console, defect)
        for file in report.files:
            _print_file(console, file)
        _print_counts(console, report)
    raise typer.Exit(1 if report.failed else 0)


@app.command()
def stats(
    files: Files, model: Tokenizer = None, dialogues: Dialogues = "chat", as_json: AsJson = False
) -> None:
    """Describe FILES: records, lengths, and how often the shorter and the longer reply wins.

    Example: trimtab data stats examples/hh-harmless/comparisons.jsonl.gz
    """
    report = formats.check(
        files,
        count_tokens=_counter(model),
        max_prompt=LIMITS.prompt,
        max_response=LIMITS.response,
        dialogues=dialogues,
    )
    if as_json:
        described = [{**asdict(file), "defects": len(file.defects)} for file in report.files]
        typer.echo(json.dumps(described, ensure_ascii=False))
        return
    for file in report.files:
        _print_file(Console(), file)


@app.command()
def preview(
    file: Annotated[str, typer.Argument(help="A file or hub data set.")],
    model: Annotated[str, typer.Option(help="The model whose tokenizer and chat template are used.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to show, from the first usable one.")] = 1,
    max_prompt: MaxPrompt = LIMITS.prompt,
    max_response: MaxResponse = LIMITS.response,
    dialogues: Dialogues = "chat",
    as_json: AsJson = False,
) -> None:
    """Show rows of FILE as the model sees them: ids, tokens, and the mask of what counts in a loss.

    Example: trimtab data preview examples/hh-harmless/comparisons.jsonl.gz --model smollm2-135m-instruct
    """
    from trimtab.model.load import load_tokenizer

    reading = formats.read_any(file, dialogues=dialogues)
    shown = (reading.rows or formats.usable(reading))[:rows]
    codec, limits = load_tokenizer(model), Limits(prompt=max_prompt, response=max_response)
    previews = [_preview(codec, row, limits) for row in shown]
    if as_json:
        typer.echo(json.dumps(previews, ensure_ascii=False))
        return
    for each in previews:
        _print_preview(Console(), each)


def _counter(model: str | None) -> CountTokens | None:
    """The model's own count of a text's tokens; None without a model."""
    if model is None:
        return None
    from trimtab.model.load import load_tokenizer

    tokenizer = load_tokenizer(model).tokenizer
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _print_defect(console: Console, defect: formats.Defect) -> None:
    colour = "red" if defect.severity == "error" else "yellow"
    field = f" [{defect.field}]" if defect.field else ""
    what = visible(f": {defect.what}")
    line = Text.assemble((defect.where, "bold"), visible(f"{field}: "), (defect.kind, colour), what)
    console.print(line, soft_wrap=True, highlight=False)
    for name, text in (("found", defect.found), ("fix", defect.fix)):
        if text:
            console.print(Text(visible(f"  {name + ':':<7}{text}")), soft_wrap=True, highlight=False)


def _print_file(console: Console, file: FileReport) -> None:
    records = ", ".join(f"{count:,} {name}" for name, count in file.records.items()) or "no usable rows"
    console.print(Text.assemble("\n", (file.source, "bold"), f": {records}"), soft_wrap=True)
    if file.characters:
        table = Table("field", "unit", "rows", "min", "median", "mean", "p95", "max")
        for unit, fields in (("characters", file.characters), ("tokens", file.tokens)):
            for field, lengths in fields.items():
                table.add_row(field, unit, *_numbers(lengths))
        console.print(table)
    bias = file.length_bias
    if bias is not None:
        console.print(
            f"the shorter reply wins {bias.shorter:.1%}, the longer {bias.longer:.1%}, "
            f"equally long {bias.equal:.1%} of {bias.pairs:,} decided pairs",
            highlight=False,
            soft_wrap=True,
        )


def _numbers(lengths: Lengths) -> list[str]:
    numbers = (lengths.count, lengths.minimum, lengths.median, lengths.mean, lengths.p95, lengths.maximum)
    return [f"{number:,.0f}" for number in numbers]


def _print_counts(console: Console, report: formats.CheckReport) -> None:
    if not report.counts:
        console.print("\nno defects")
        return
    table = Table("defect", "count", "severity", "what a stage does")
    for kind, defect in {defect.kind: defect for defect in report.defects}.items():
        table.add_row(kind, f"{report.counts[kind]:,}", defect.severity, STAGES[defect.effect])
    console.print("")
    console.print(table)


STAGES = {"stops": "stops", "left out": "leaves the row out", "kept": "keeps the row"}


def _preview(codec: Codec, row: formats.Row[Record], limits: Limits) -> dict[str, Any]:
    """One row as parts in the order in which the model reads them."""
    prompt, responses = _prompt_and_responses(row.record)
    try:
        ids, shortened = codec.encode_prompt(prompt, limits.prompt)
        parts = [{"part": "prompt", "cut": shortened, **_tokens(codec, ids, counts=0)}]
        for name, text in responses.items():
            response = codec.encode_response(prompt, text, limits.response)
            parts.append(
                {"part": name, "cut": not response.stopped, **_tokens(codec, response.ids, counts=1)}
            )
    except UnusableRow as error:
        raise DataError("the model cannot be shown this row", where=row.where, found=str(error)) from error
    return {"where": row.where, "parts": parts}


def _prompt_and_responses(record: Record) -> tuple[Prompt, dict[str, str]]:
    if isinstance(record, Comparison):
        names = ("chosen", "rejected") if record.decided else ("a", "b")
        return record.prompt, {name: getattr(record, name) for name in names}
    if isinstance(record, Demonstration | Rating):
        return record.prompt, {"response": record.response}
    return record, {}


def _tokens(codec: Codec, ids: tuple[int, ...], *, counts: int) -> dict[str, list[int] | list[str]]:
    """Ids with their text; the mask is 1 where a token counts in a loss."""
    return {
        "ids": list(ids),
        "tokens": [codec.tokenizer.decode([token]) for token in ids],
        "mask": [counts] * len(ids),
    }


def _print_preview(console: Console, preview: dict[str, Any]) -> None:
    table = Table("part", "id", "token", "mask", title=Text(preview["where"]), title_justify="left")
    for part in preview["parts"]:
        name = part["part"] + (" (cut)" if part["cut"] else "")
        for number, (token, text, mask) in enumerate(
            zip(part["ids"], part["tokens"], part["mask"], strict=True)
        ):
            table.add_row(name if number == 0 else "", str(token), Text(repr(text)), str(mask))
        table.add_section()
    console.print(table)
