"""What transformers, safetensors and the hub raise while reading becomes one ModelError."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging

from trimtab.errors import ModelError

# OSError covers what is missing or unreachable, ValueError (JSON's among them) and LookupError what
# transformers does not know, RuntimeError shapes that do not fit, ImportError a package that a file
# format needs, struct.error and the rest files that end too early.
_RAISED = (OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError, struct.error)


@contextmanager
def reading(what: str, source: Path | str) -> Iterator[None]:
    """Turn every error of the block into "`what` cannot be read".

    Args:
        what: the part being read: "the config", "the weights", "the tokenizer".
        source: a local path, or (as text) a hub id, which decides what the fix says.
    Raises:
        ModelError: always instead of the errors that reading raises; others pass through.
    """
    try:
        with without_progress_bars():
            yield
    except _RAISED as error:
        raise ModelError(
            f"{what} cannot be read", where=str(source), found=brief(error), fix=_fix(source)
        ) from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing on the terminal, which belongs to the command line."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def without_reports() -> Iterator[None]:
    """Keep transformers from warning of weights that a base lacks, where that is checked later."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def brief(error: Exception, limit: int = 300) -> str:
    """The error's first paragraph on one line, at most `limit` characters."""
    text = " ".join(str(error).strip().split("\n\n")[0].split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _fix(source: Path | str) -> str:
    if isinstance(source, Path):
        return "check that the files are complete, or obtain the model again"
    return (
        "check the spelling and the connection to the hub (a gated model needs `hf auth login`),"
        " or name a local folder"
    )
