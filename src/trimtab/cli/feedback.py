"""`trimtab feedback`: let people judge, see how well they agree, and hand what they said to training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli import users
from trimtab.cli.filling import Match, add_demo, fill, read_files
from trimtab.cli.options import AsJson
from trimtab.cli.stores import (
    DEFAULT_STORE,
    ProjectName,
    StorePlace,
    find_project,
    make_or_open,
    missing_package,
    open_existing,
    require_feedback,
)
from trimtab.cli.tables import print_rows
from trimtab.cli.text import visible
from trimtab.errors import ConfigError, DataError
from trimtab.feedback.records import Kind
from trimtab.formats import FileKind, Ties

if TYPE_CHECKING:
    from trimtab.feedback.store.facts import Project, Settings
    from trimtab.feedback.store.store import Store
    from trimtab.formats import Manifest

app = typer.Typer(
    help="Collect judgments of people: pages to judge on, import, export, agreement.", no_args_is_help=True
)
app.add_typer(users.app, name="users")

KindOption = Annotated[Kind | None, typer.Option(help="What is asked; needed to make a project.")]
Overlap = Annotated[int | None, typer.Option(min=1, help="How many people judge an item.")]
GoldShare = Annotated[
    float | None, typer.Option(min=0, max=0.5, help="Share of a person's tasks that are gold items.")
]
RepeatShare = Annotated[
    float | None, typer.Option(min=0, max=0.5, help="Share of a person's tasks that come a second time.")
]
GuidelinesFile = Annotated[
    Path | None, typer.Option("--guidelines", help="A text file (Markdown) of what to look for.")
]


@app.command()
def serve(
    store: StorePlace = DEFAULT_STORE,
    host: Annotated[
        str, typer.Option(help="Where to listen; others than this machine's own need an admin's password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    name: Annotated[
        list[str] | None, typer.Option(help="A name by which browsers reach the server; may be repeated.")
    ] = None,
    https: Annotated[bool, typer.Option("--https", help="A proxy in front speaks https.")] = False,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the pages in a browser.")
    ] = True,
    demo: Annotated[
        bool, typer.Option("--demo/--no-demo", help="Put pairs to try into a store without any project.")
    ] = True,
) -> None:
    """Serve the pages on which people judge, until Ctrl-C; the first start prints a link for the admin.

    Example: trimtab feedback serve --store feedback.sqlite
    """
    try:
        from trimtab.web.serve import serve as serve_pages
    except ModuleNotFoundError as error:
        raise missing_package(error) from error

    if demo:
        add_demo(store)
    serve_pages(
        store,
        host=host,
        port=port,
        names=name or (),
        https=https,
        open_browser=open_browser,
        say=lambda line: typer.echo(visible(line)),
    )


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The project's name.")],
    kind: Annotated[Kind, typer.Option(help="What is asked; it cannot be changed later.")] = "compare",
    overlap: Overlap = None,
    gold_share: GoldShare = None,
    repeat_share: RepeatShare = None,
    guidelines: GuidelinesFile = None,
    store: StorePlace = DEFAULT_STORE,
) -> None:
    """Make an empty project.

    Example: trimtab feedback new films --kind compare --overlap 2 --guidelines guidelines.md
    """
    text = _guidelines(guidelines)
    settings = _settings(kind, overlap, gold_share, repeat_share)
    with make_or_open(store) as opened:
        made = opened.create_project(name, settings, guidelines=text)
    typer.echo(
        visible(f"made the project {made.name!r}: trimtab feedback import FILE --project {made.name!r}")
    )


@app.command()
def change(
    overlap: Overlap = None,
    gold_share: GoldShare = None,
    repeat_share: RepeatShare = None,
    guidelines: GuidelinesFile = None,
    project: ProjectName = None,
    store: StorePlace = DEFAULT_STORE,
) -> None:
    """Change how a project's work is shared out, or its guidelines, now or in the middle of the work.

    Example: trimtab feedback change --project films --overlap 3
    """
    text = _guidelines(guidelines)
    given = {"overlap": overlap, "gold_share": gold_share, "repeat_share": repeat_share}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes and guidelines is None:
        raise ConfigError("nothing to change is named", fix="for example --overlap 3")
    with open_existing(store) as opened:
        found = find_project(opened, project)
        if guidelines is not None:
            opened.set_guidelines(found.id, text)
        if changes:
            opened.change_project(found.id, **changes)
    typer.echo(visible(f"changed the project {found.name!r}"))


@app.command()
def projects(store: StorePlace = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List the projects, and how far each is.

    Example: trimtab feedback projects
    """
    with open_existing(store) as opened:
        found = [_brief(opened, project) for project in opened.projects()]
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    elif not found:
        typer.echo("no projects yet: trimtab feedback import FILE")
    else:
        head = tuple(found[0])
        print_rows([head, *(tuple(str(row[name]) for name in head) for row in found)])


@app.command("import")
def import_items(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts, comparisons, matches or lists of answers (JSONL, Parquet)."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Where they go; made where there is none. Else named after the file.")
    ] = None,
    kind: KindOption = None,
    overlap: Overlap = None,
    play: Annotated[
        tuple[str, str] | None, typer.Option(help="Let two models answer --prompts, and import the answers.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="What the models answer: a file or hub data set.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    max_new: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens with this probability together.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    store: StorePlace = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Put items into a project: from files, or from two models that answer prompts.

    Example: trimtab feedback import matches.jsonl --project films --overlap 2

    Or: trimtab feedback import --play runs/sft runs/dpo --prompts held-out.jsonl --count 50
    """
    if bool(files) == (play is not None) or (play is None) != (prompts is None):
        raise ConfigError(
            "an import takes files, or two models and prompts",
            where="trimtab feedback import",
            fix="give FILES, or --play A B --prompts FILE",
        )
    if play is not None and prompts is not None:
        match = Match(
            models=play, prompts=prompts, count=count, max_new=max_new, temperature=temperature,
            top_p=top_p, seed=seed, device=device,
        )  # fmt: skip
        fill(store, project, kind, overlap, match.name, match.read, as_json=as_json)
        return
    given = files or []
    stem = Path(given[0]).name.partition(".")[0]
    fill(store, project, kind, overlap, stem, lambda kind: read_files(given, kind), as_json=as_json)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder: a file for each split, and manifest.json.")],
    project: ProjectName = None,
    shape: Annotated[
        str, typer.Option(help="As `trimtab.formats` names them; without it, the one that loses least.")
    ] = "",
    file_kind: Annotated[FileKind, typer.Option(help="How files are written.")] = "jsonl",
    ties: Annotated[
        Ties, typer.Option(help="For preference: pairs of ties, one each way, or none.")
    ] = "leave_out",
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the prompts kept for tests.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    good_from: Annotated[
        int | None, typer.Option(help="For unpaired_preference: the grade from which a response is good.")
    ] = None,
    extra: Annotated[bool, typer.Option("--extra", help="Also judgments beyond the overlap.")] = False,
    gold: Annotated[bool, typer.Option("--gold", help="Also judgments of gold items.")] = False,
    repeats: Annotated[bool, typer.Option("--repeats", help="Also second answers of one person.")] = False,
    store: StorePlace = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Write a project's judgments for training, or for other tools.

    Shapes: trimtab, preference, unpaired_preference, unpaired_from_pairs, ratings, prompt_completion,
    messages, rewardbench, fastchat, llm_comparator.

    Example: trimtab feedback export judged --project films --shape preference
    """
    if shape == "llm_comparator" and file_kind == "jsonl":
        file_kind = "json"  # the only kind that it has
    with open_existing(store) as opened:
        from trimtab.feedback.outgoing import export as write

        found = find_project(opened, project)
        manifest = write(
            opened, found.id, folder, shape=shape, file_kind=file_kind, ties=ties, extra=extra, gold=gold,
            repeats=repeats, good_from=good_from, seed=seed,
            shares={"train": 1 - held_out, "held_out": held_out} if held_out else {"train": 1.0},
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(manifest.as_dict(), ensure_ascii=False))
    else:
        _print_manifest(manifest, folder)


@app.command()
def agreement(
    project: ProjectName = None, store: StorePlace = DEFAULT_STORE, as_json: AsJson = False
) -> None:
    """Say how far people agree with each other, with themselves and with gold items, and who does not.

    Example: trimtab feedback agreement --project films --json
    """
    with open_existing(store) as opened:
        from trimtab.feedback.quality import project_quality

        found = project_quality(opened, find_project(opened, project).id)
    if as_json:
        typer.echo(json.dumps(found.as_json(), ensure_ascii=False, allow_nan=False))
    else:
        from trimtab.cli.quality import print_quality

        print_quality(found)


@app.command()
def backup(
    path: Annotated[Path, typer.Argument(help="The file to write; its SHA-256 is written beside it.")],
    store: StorePlace = DEFAULT_STORE,
) -> None:
    """Write a backup of this moment while people go on judging.

    Example: trimtab feedback backup feedback-monday.backup
    """
    with open_existing(store) as opened:
        digest = opened.backup(path)
    typer.echo(visible(f"{path}\nSHA-256 {digest}"))


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(help="A backup, with its .sha256 file beside it.")],
    store: StorePlace = DEFAULT_STORE,
) -> None:
    """Check a backup and put it in the place of a store that holds no judgments; stop its server first.

    Example: trimtab feedback restore feedback-monday.backup --store restored.sqlite
    """
    require_feedback()
    from trimtab.feedback.store.store import restore as put_back

    put_back(path, store)
    typer.echo(visible(f"restored {path} to {store}"))


def _settings(
    kind: Kind, overlap: int | None, gold_share: float | None, repeat_share: float | None
) -> Settings:
    from trimtab.feedback.store.facts import Settings

    given = {"overlap": overlap, "gold_share": gold_share, "repeat_share": repeat_share}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Settings(kind=kind, **changes)


def _guidelines(path: Path | None) -> str:
    """The text of the file; empty without one."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError("the guidelines are not UTF-8", where=str(path), found=str(error)) from error


def _brief(store: Store, project: Project) -> dict[str, Any]:
    counts = store.counts(project.id)
    return {
        "project": project.name,
        "kind": project.settings.kind,
        "overlap": project.settings.overlap,
        "items": counts.items,
        "gold": counts.gold,
        "complete": counts.complete,
        "begun": counts.begun,
        "judgments": counts.judgments,
        "extra": counts.extra,
        "skipped": counts.skipped,
        "flagged": counts.flagged,
    }


def _print_manifest(manifest: Manifest, folder: Path) -> None:
    for name, split in manifest.splits.items():
        if split.file:
            said = f"{name}: {split.rows:,} rows of {split.prompts:,} prompts in {folder / split.file}"
            typer.echo(visible(said))
        else:
            typer.echo(f"{name}: no prompt fell into it, and no file is written")
    for reasons in (manifest.about["left_out"], manifest.left_out):
        assert isinstance(reasons, Mapping)
        for reason, count in reasons.items():
            typer.echo(f"left out: {count:,} {reason}")
    typer.echo(visible(f"{folder / 'manifest.json'}"))
