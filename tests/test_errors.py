"""What people read, letter by letter."""

from __future__ import annotations

import pytest

from trimtab.errors import (
    ConfigError,
    DataError,
    Interrupted,
    ModelError,
    ResourceError,
    RunError,
    TrimtabError,
)


def test_what_where_found_fix() -> None:
    error = DataError("the reply is empty", where="a.jsonl:3", found="''", fix="drop the row")
    assert str(error) == "a.jsonl:3: the reply is empty\n  found: ''\n  fix:   drop the row"
    assert (error.what, error.where, error.found, error.fix) == (
        "the reply is empty",
        "a.jsonl:3",
        "''",
        "drop the row",
    )


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "it broke"),
        ({"where": "here"}, "here: it broke"),
        ({"found": "7"}, "it broke\n  found: 7"),
        ({"fix": "mend it"}, "it broke\n  fix:   mend it"),
    ],
)
def test_parts_that_are_not_given_take_no_line(parts: dict[str, str], expected: str) -> None:
    assert str(TrimtabError("it broke", **parts)) == expected


@pytest.mark.parametrize("kind", [ConfigError, DataError, ModelError, RunError, ResourceError, Interrupted])
def test_one_except_catches_them_all(kind: type[TrimtabError]) -> None:
    with pytest.raises(TrimtabError, match="it broke"):
        raise kind("it broke")


def test_ctrl_c_has_the_exit_code_of_shells() -> None:
    assert Interrupted.EXIT_CODE == 130
