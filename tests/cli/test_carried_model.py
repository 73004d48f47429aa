"""The model that comes with trimtab, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NAME = "film-reviews-5m"


def test_every_command_knows_its_name(trimtab: Callable[..., Any]) -> None:
    options = ["--prompt", "The film is", "--max-new", "8", "--temperature", "0", "--device", "cpu"]
    said = trimtab("generate", NAME, *options)
    assert said.code == 0 and len(said.out.split()) > 2, said.err
    listed = trimtab("models", "list").out
    assert NAME in listed and "comes with" in listed
