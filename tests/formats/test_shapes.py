"""Each shape against records written out by hand."""

import json
import re
from pathlib import Path

import pytest

from trimtab.formats.rows import EFFECTS, RowError
from trimtab.formats.shapes import (
    RATINGS,
    all_shapes,
    comparison_shapes,
    demonstration_shapes,
    prompt_shapes,
    read_row,
)
from trimtab.records import Comparison, Demonstration, Message, Rating, Verdict

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
USER = {"role": "user", "content": "Name a prime."}
SEVEN = {"role": "assistant", "content": "7"}
NINE = {"role": "assistant", "content": "9"}
CHAT = (Message("user", "Name a prime."),)
WON = Verdict(preferred="a")
CHAT_PAIR = Comparison(prompt=CHAT, a="7", b="9", verdict=WON)
TEXT_PAIR = Comparison(prompt="A prime: ", a="7", b="9", verdict=WON)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "A prime: ", "chosen": "7", "rejected": "9"}, TEXT_PAIR),
        ({"prompt": [USER], "chosen": [SEVEN], "rejected": [NINE]}, CHAT_PAIR),
        ({"prompt": [USER], "chosen": "7", "rejected": "9"}, CHAT_PAIR),
        ({"prompt": [USER], "chosen": [USER, SEVEN], "rejected": [USER, NINE]}, CHAT_PAIR),
        ({"prompt": "Name a prime.", "chosen": [USER, SEVEN], "rejected": [USER, NINE]}, CHAT_PAIR),
        ({"chosen": [USER, SEVEN], "rejected": [USER, NINE]}, CHAT_PAIR),
        (
            {"chosen": "A prime is 17", "rejected": "A prime is 18"},
            Comparison(prompt="A prime is", a=" 17", b=" 18", verdict=WON),
        ),
        (
            {"prompt": "A prime: ", "a": "9", "b": "7", "verdict": {"preferred": "b"}},
            Comparison(prompt="A prime: ", a="9", b="7", verdict=Verdict(preferred="b")),
        ),
        ({"prompt": "A prime: ", "a": "9", "b": "9"}, Comparison(prompt="A prime: ", a="9", b="9")),
        (
            {"prompt": "A prime: ", "a": "", "b": "9", "source_a": "runs/ppo"},
            Comparison(prompt="A prime: ", a="", b="9", source_a="runs/ppo"),
        ),
    ],
)
def test_comparison_shapes(row, expected):
    assert read_row(row, comparison_shapes("chat")) == expected


def test_demonstrations_ratings_and_prompts():
    text, chat = Demonstration(prompt="A prime: ", response="7"), Demonstration(prompt=CHAT, response="7")
    shapes = demonstration_shapes("chat")
    assert read_row({"messages": [USER, SEVEN]}, shapes) == chat
    assert read_row({"prompt": [USER], "completion": [SEVEN]}, shapes) == chat
    assert read_row({"prompt": "A prime: ", "completion": "7"}, shapes) == text
    assert (
        read_row({"prompt": "A prime: ", "a": "9", "b": "7", "verdict": {"preferred": "b"}}, shapes) == text
    )
    rated = {"prompt": "A prime: ", "completion": "9", "label": False}
    assert read_row(rated, RATINGS) == Rating(prompt="A prime: ", response="9", label=False)
    for row in ({"prompt": "A prime: "}, rated, {"prompt": "A prime: ", "chosen": "7", "rejected": "9"}):
        assert read_row(row, prompt_shapes("chat")) == "A prime: "
    assert read_row({"messages": [USER, SEVEN]}, prompt_shapes("chat")) == CHAT


def fault(row, shapes):
    with pytest.raises(RowError) as caught:
        read_row(row, shapes)
    return caught.value


@pytest.mark.parametrize(
    ("row", "kind", "field"),
    [
        ({"prompt": "p", "chosen": 7, "rejected": "9"}, "wrong value", "chosen"),
        ({"prompt": "p", "chosen": [SEVEN], "rejected": "9"}, "wrong value", "rejected"),
        ({"prompt": [USER], "chosen": [{"role": "user", "content": "x"}, SEVEN], "rejected": [NINE]},
         "differing prompts", "chosen"),
        ({"prompt": [USER, SEVEN], "chosen": "7", "rejected": "9"}, "wrong value", "prompt[1].role"),
        ({"prompt": [{"role": "human", "content": "x"}], "chosen": "7", "rejected": "9"},
         "wrong value", "prompt[0].role"),
        ({"prompt": [{"role": "user"}], "chosen": "7", "rejected": "9"},
         "missing field", "prompt[0].content"),
        ({"prompt": [{"role": "user", "content": ["x"]}], "chosen": "7", "rejected": "9"},
         "wrong value", "prompt[0].content"),
        ({"prompt": ["x"], "chosen": "7", "rejected": "9"}, "wrong value", "prompt[0]"),
        ({"prompt": "", "chosen": "7", "rejected": "9"}, "empty prompt", "prompt"),
        ({"prompt": [], "chosen": "7", "rejected": "9"}, "empty prompt", "prompt"),
        ({"chosen": [SEVEN], "rejected": [NINE]}, "empty prompt", "chosen"),
        ({"chosen": [USER], "rejected": [USER, NINE]}, "empty reply", "chosen"),
        ({"chosen": [], "rejected": [USER, NINE]}, "empty reply", "chosen"),
        ({"prompt": "p", "chosen": "7", "rejected": " 7\n"}, "identical pair", "rejected"),
        ({"prompt": "p", "chosen": "7", "rejected": " "}, "empty reply", "rejected"),
        ({"prompt": "p", "a": "7", "b": ""}, "empty reply", "b"),
        ({"prompt": "p", "a": "7", "b": "7", "verdict": {"preferred": "b"}}, "identical pair", "b"),
        ({"prompt": "p", "a": "7", "b": "9", "verdict": "a"}, "wrong value", "verdict"),
        ({"prompt": "p", "a": "7", "b": "9", "verdict": {"preferred": "c"}}, "wrong value", "verdict"),
        ({"prompt": "p", "a": "7", "b": "9", "verdict": {"preferred": "a", "strength": [1]}},
         "wrong value", "verdict"),
        ({"prompt": "p", "a": "7", "b": "9", "verdict": {"preferred": "a", "who": "x"}},
         "wrong value", "verdict.who"),
        ({"prompt": "p", "chosen": "7"}, "missing field", "rejected"),
        ({"chosen": "7"}, "missing field", "rejected"),
    ],
)  # fmt: skip
def test_comparison_faults(row, kind, field):
    error = fault(row, comparison_shapes("chat"))
    assert (error.kind, error.field) == (kind, field)
    assert error.found and error.fix


def test_other_faults():
    demonstrations = demonstration_shapes("chat")
    assert fault({"prompt": "p", "completion": "7", "label": True}, demonstrations).field == "label"
    assert fault({"prompt": "p", "completion": "7", "grade": 1}, demonstrations).field == "grade"
    assert fault({"prompt": "p", "a": "7", "b": "9"}, demonstrations).kind == "no winner"
    assert fault({"messages": [USER]}, demonstrations).kind == "empty reply"
    assert fault({"messages": [SEVEN]}, demonstrations).kind == "empty prompt"
    assert fault({"prompt": "p", "completion": "7", "label": 1}, RATINGS).field == "label"
    for grade in (0, 8, True, 4.0, "4"):
        assert fault({"prompt": "p", "completion": "7", "grade": grade}, RATINGS).field == "grade"


def test_a_missing_field_names_the_misspelled_one():
    error = fault({"prompt": "p", "chosen": "7", "Rejeted": "9"}, all_shapes("chat"))
    assert (error.kind, error.field, error.fix) == (
        "missing field",
        "rejected",
        "rename `Rejeted` to `rejected`",
    )
    error = fault({"prompt": "p", "completions": "7"}, all_shapes("chat"))
    assert (error.field, error.fix) == ("completion", "rename `completions` to `completion`")
    error = fault({"prompt": "p", "chosen": "7", "REJECTED": "9"}, all_shapes("chat"))
    assert error.fix == "rename `REJECTED` to `rejected`"
    error = fault({"question": "p", "reply": "7"}, demonstration_shapes("chat"))
    assert error.found == "the fields question, reply"


def test_a_prompt_alone_may_have_fields_of_its_own():
    assert read_row({"prompt": "p", "id": 3, "answer": "7"}, all_shapes("chat")) == "p"


def test_every_documented_example_is_read():
    blocks = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 15
    for line in lines:
        read_row(json.loads(line), all_shapes("chat"))


def test_the_documented_effects_are_the_real_ones():
    told = {"stops": "stops", "leaves the row out": "left out", "keeps the row": "kept"}
    rows = re.findall(r"^\| ([\w ]+) \| (error|warning) \| ([\w ]+) \|", DOCS.read_text(), re.MULTILINE)
    assert {kind: (severity, told[effect]) for kind, severity, effect in rows} == dict(EFFECTS)
