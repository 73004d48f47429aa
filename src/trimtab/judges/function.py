"""A Python function on text as a judge: `score(prompt, response) -> float`.

It runs code of the user's own, so it is only ever named by the user, never by a file or a setting of a run.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from trimtab.errors import ConfigError, DataError
from trimtab.judges.judge import Answer, Scored
from trimtab.records import prompt_text

Function = Callable[[str, str], float]


@dataclass(frozen=True)
class FunctionJudge:
    """A function called once an answer, with the prompt as readable text."""

    nats: ClassVar[bool] = False
    function: Function
    name: str

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One number an answer.

        Raises:
            DataError: the function fails, or gives no finite number.
        """
        return [self._one(answer) for answer in answers]

    def _one(self, answer: Answer) -> float:
        try:
            value = float(self.function(prompt_text(answer.prompt), answer.text))
        except Exception as error:  # it is the user's code, and raises what it likes
            raise DataError(
                "the scoring function failed",
                where=self.name,
                found=f"{type(error).__name__}: {error} for the answer {answer.text[:60]!r}",
                fix="make it return a number for every prompt and response",
            ) from error
        if not math.isfinite(value):
            raise DataError(
                "the scoring function gave no finite number",
                where=self.name,
                found=f"{value} for the answer {answer.text[:60]!r}",
            )
        return value


def load_function(name: str) -> FunctionJudge:
    """The function that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names; importing it runs its module.

    Raises:
        ConfigError: there is no such file, module or function.
    """
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ConfigError(
            "a scoring function is named with its module",
            where="python:",
            found=name,
            fix="python:FILE.py:FUNCTION or python:MODULE:FUNCTION",
        )
    function = getattr(_module(place), attribute, None)
    if not callable(function):
        raise ConfigError("there is no such function", where=place, found=attribute, fix="check the spelling")
    return FunctionJudge(function, f"python:{name}")


def _module(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        return _from_file(Path(place).resolve())
    except Exception as error:  # the module's own code runs here
        raise ConfigError(
            "the scoring function's module cannot be imported",
            where=place,
            found=f"{type(error).__name__}: {error}",
        ) from error


def _from_file(path: Path) -> ModuleType:
    """The file as a module of a name that no other has."""
    name = f"scoring {path}".replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the names in postponed annotations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
