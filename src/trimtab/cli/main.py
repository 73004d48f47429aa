"""The command line's entry: gather the commands, and turn errors into messages.

Exit codes: 0 done, 1 an error for people, 2 wrong usage, 130 interrupted with the state saved.
Nothing here imports torch, so that `trimtab --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings

import typer

from trimtab import __version__
from trimtab.cli import (
    answers,
    data,
    doctor,
    evaluations,
    feedback,
    merge,
    models,
    pipelines,
    plan,
    runs,
    stages,
    verify,
)
from trimtab.cli.text import visible
from trimtab.errors import Interrupted, ResourceError, TrimtabError

app = typer.Typer(
    help="Steer language models with human preferences: SFT, reward models, PPO, DPO, and their comparison.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (pipelines, plan, stages, merge, answers, doctor, verify):
    app.registered_commands += group.app.registered_commands
app.add_typer(data.app, name="data")
app.add_typer(evaluations.app, name="eval")
app.add_typer(feedback.app, name="feedback")
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"trimtab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line; errors for people become one message without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked workers would each print a warning
    _say_own_warnings_plainly()
    try:
        app()
    except Interrupted as error:
        _leave(str(error), Interrupted.EXIT_CODE)
    except TrimtabError as error:
        _leave(str(error), 1)
    except SystemExit as left:
        if left.code == Interrupted.EXIT_CODE:  # typer turns a KeyboardInterrupt into this, without a word
            typer.echo("interrupted; a run goes on from its last checkpoint with --resume", err=True)
        raise
    except OSError as error:
        _leave(str(_as_message(error)), 1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        full = ResourceError(
            "out of memory",
            found=str(error).splitlines()[0][:200],
            fix="lower row_tokens, or use a smaller model",
        )
        _leave(str(full), 1)


def _say_own_warnings_plainly() -> None:
    """trimtab's warnings are for people: without file, line and source."""
    usual = warnings.formatwarning

    def shown(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category.__module__.startswith("trimtab."):
            return f"  warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = shown


def _leave(message: str, code: int) -> None:
    typer.echo(visible(message), err=True)
    sys.exit(code)


def _as_message(error: OSError) -> TrimtabError:
    """What the system refuses (a full disk, a folder that may not be written) in the usual form."""
    return TrimtabError(
        "the system refused to read or write",
        where=str(error.filename or ""),
        found=error.strerror or str(error),
        fix="check the path, its permissions and the free space",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """torch raises plain RuntimeErrors when the CPU has no memory left."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
