"""Instructions with an answer become demonstrations; what is missing is said with its place."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.formats.rows import RowError
from trimtab.formats.shapes import demonstration_shapes, read_row
from trimtab.records import Demonstration, Message

SHAPES = demonstration_shapes("chat")


def read(row: dict[str, Any]) -> Demonstration:
    return read_row(row, SHAPES)


def shown(prompt: str, response: str) -> Demonstration:
    return Demonstration(prompt=(Message("user", prompt),), response=response)


@pytest.mark.parametrize("about", [{}, {"input": ""}, {"input": "  "}, {"input": None}])
def test_an_instruction_without_input_is_the_whole_prompt(about: dict[str, Any]) -> None:
    assert read({"instruction": " Name a prime. ", "output": "7", **about}) == shown("Name a prime.", "7")
    row = {"id": 1, "instruction": "Name a prime.", "instances": [{"output": "7", **about}]}
    assert read(row) == shown("Name a prime.", "7")


def test_the_input_follows_after_a_blank_line() -> None:
    expected = shown("Translate.\n\nDas Haus", "the house ")
    assert read({"instruction": "Translate.", "input": "Das Haus\n", "output": "the house "}) == expected
    row = {"instruction": "Translate.", "instances": [{"input": "Das Haus", "output": "the house "}]}
    assert read(row) == expected


def test_keywords_are_kept() -> None:
    words = {"keywords": ["seven", "prime number"]}
    expected = ("seven", "prime number")
    for row in (
        {"instruction": "Name a prime.", "output": "7", **words},
        {"instruction": "Name a prime.", "instances": [{"output": "7"}], **words},
        {"prompt": "A prime: ", "completion": "7", **words},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "7"}], **words},
    ):
        assert read(row).keywords == expected
        assert read({**row, "keywords": []}).keywords == ()


@pytest.mark.parametrize(
    ("row", "kind", "field"),
    [
        ({"instruction": "x", "output": "y", "keywords": "seven"}, "wrong value", "keywords"),
        ({"prompt": "x", "completion": "y", "keywords": ["seven", 7]}, "wrong value", "keywords"),
        ({"prompt": "x", "completion": "y", "keywords": [" "]}, "wrong value", "keywords"),
        ({"instruction": "x", "output": "  "}, "empty reply", "output"),
        ({"instruction": "  ", "output": "y"}, "empty prompt", "instruction"),
        ({"instruction": 3, "output": "y"}, "wrong value", "instruction"),
        ({"instruction": "x", "instances": [{"input": "a"}]}, "wrong value", "instances[0].output"),
        (
            {"instruction": "x", "instances": [{"input": 4, "output": "a"}]},
            "wrong value",
            "instances[0].input",
        ),
        ({"instruction": "x", "instances": []}, "wrong value", "instances"),
        ({"instruction": "x", "instances": [{"output": "a"}, {"output": "b"}]}, "wrong value", "instances"),
        ({"instruction": "x", "instances": "a"}, "wrong value", "instances"),
    ],
)
def test_what_is_wrong_is_named(row: dict[str, Any], kind: str, field: str) -> None:
    with pytest.raises(RowError) as caught:
        read(row)
    assert (caught.value.kind, caught.value.field) == (kind, field)
