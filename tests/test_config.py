"""Settings from YAML and `--set`, and the messages about what is wrong in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError, model_validator
from ruamel.yaml import YAML

from trimtab.config import Settings, build, differences, dump_yaml, override, read_yaml, to_yaml
from trimtab.errors import ConfigError


class Optimizer(Settings):
    learning_rate: float = 1e-4
    schedule: Literal["constant", "linear"] = "constant"


class Stage(Settings):
    data: str
    epochs: int = 1
    dev: str | None = None
    optimizer: Optimizer = Optimizer()
    own: Optimizer = Optimizer(learning_rate=0.5, schedule="linear")
    second: Optimizer | None = None
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _dev_differs(self) -> Stage:
        if self.dev == self.data:
            raise ValueError("Dev and data are the same file")
        return self


def refused(tree: dict[str, Any], where: str = "") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build(Stage, tree, where=where)
    return caught.value


def test_a_tree_becomes_frozen_settings() -> None:
    settings = build(Stage, {"data": "a.jsonl", "optimizer": {"learning_rate": 3}, "names": ["x"]})
    assert settings == Stage(data="a.jsonl", optimizer=Optimizer(learning_rate=3.0), names=("x",))
    with pytest.raises(ValidationError, match="frozen"):
        settings.epochs = 2  # type: ignore[misc]


def test_setting_one_value_of_a_group_keeps_the_stages_own_others() -> None:
    tree = {"data": "a", "own": {"learning_rate": 2}}
    assert build(Stage, tree).own == Optimizer(learning_rate=2.0, schedule="linear")
    assert tree == {"data": "a", "own": {"learning_rate": 2}}
    assert build(Stage, {"data": "a", "own": Optimizer()}).own == Optimizer()
    assert refused({"data": "a", "own": {"schedules": "linear"}}).fix == "did you mean schedule?"


def test_an_unknown_key_names_the_nearest() -> None:
    error = refused({"data": "a", "epoch": 3}, where="sft.yaml")
    assert (error.what, error.where, error.found, error.fix) == (
        "there is no such setting",
        "sft.yaml: epoch",
        "epoch = 3",
        "did you mean epochs?",
    )


@pytest.mark.parametrize("place", ["optimizer", "second"])
def test_an_unknown_key_further_down_names_the_nearest_there(place: str) -> None:
    error = refused({"data": "a", place: {"learning_rat": 0.1}})
    assert (error.where, error.fix) == (f"{place}.learning_rat", "did you mean learning_rate?")


def test_an_unknown_key_like_no_other_lists_what_is_known_there() -> None:
    assert refused({"data": "a", "optimizer": {"zzz": 0}}).fix == "known here: learning_rate, schedule"


def test_an_unknown_key_comes_first() -> None:
    # A misspelt key is often the reason for the missing one.
    assert refused({"dat": "a", "epochs": "many"}).fix == "did you mean data?"


def test_a_missing_setting() -> None:
    error = refused({"epochs": 2}, where="sft.yaml")
    assert (error.what, error.where) == ("this setting is needed", "sft.yaml: data")
    assert error.fix == "add data: ... or --set data=..."


@pytest.mark.parametrize(
    ("tree", "where", "found", "what"),
    [
        ({"epochs": "many"}, "epochs", "'many'", "valid integer"),
        ({"epochs": 1.5}, "epochs", "1.5", "valid integer"),
        ({"data": 3}, "data", "3", "valid string"),
        ({"optimizer": {"schedule": "square"}}, "optimizer.schedule", "'square'", "'constant' or 'linear'"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate", "nan", "finite number"),
        ({"names": "x"}, "names", "'x'", "valid tuple"),
    ],
)
def test_a_value_of_the_wrong_kind(tree: dict[str, Any], where: str, found: str, what: str) -> None:
    error = refused({"data": "a", **tree})
    assert (error.where, error.found) == (where, found)
    assert what in error.what
    assert error.what[0].islower()


def test_settings_at_odds_with_each_other() -> None:
    error = refused({"data": "a", "dev": "a"}, where="sft.yaml")
    assert (error.what, error.where) == ("dev and data are the same file", "sft.yaml")


def test_read_yaml_is_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("rate: 1e-5\nanswer: no\nlist: [1, two]\nnested: {on: yes}\nnothing:\n", encoding="utf-8")
    assert read_yaml(path) == {
        "rate": 1e-5,
        "answer": "no",
        "list": [1, "two"],
        "nested": {"on": "yes"},
        "nothing": None,
    }


def test_an_empty_file_is_an_empty_tree(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [1,\n", 3), ("a: 1\n\tb: 2\n", 2), ("a: 1\nb: 2\na: 3\n", 3), ("a: b: c\n", 1)],
)
def test_what_is_not_yaml_names_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert (caught.value.what, caught.value.where) == ("this is not YAML", f"{path}:{line}")
    assert caught.value.found


@pytest.mark.parametrize("text", ["a: 2020-99-99\n", "[" * 3000])
def test_what_the_parser_chokes_on_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="this is not YAML") as caught:
        read_yaml(path)
    assert caught.value.where.startswith(str(path))


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("just text\n", "str"), ("3\n", "int")])
def test_a_config_is_a_mapping(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match="mapping of settings") as caught:
        read_yaml(tmp_path / "a.yaml")
    assert caught.value.found == kind


def test_a_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "hh-smollm2.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="no such config file") as caught:
        read_yaml(tmp_path / "hh-smolm2.yaml")
    assert caught.value.fix == f"did you mean {tmp_path / 'hh-smollm2.yaml'}?"
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "nowhere" / "x.yaml")
    assert caught.value.fix == "check the path"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: Zoë\n".encode("latin-1"))
    for path in (tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read_yaml(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("3", 3),
        ("no", "no"),
        ("true", True),
        ("", None),
        ("[1, two]", [1, "two"]),
        ("{b: 1}", {"b": 1}),
        ("'3'", "3"),
        ("runs/a=b", "runs/a=b"),
        ("*star", "*star"),
        ("@at", "@at"),
        ("2020-99-99", "2020-99-99"),
    ],
)
def test_set_reads_values_as_yaml(text: str, value: object) -> None:
    result = override({}, [f"a={text}"])
    assert result == {"a": value}
    assert type(result["a"]) is type(value)


def test_set_reaches_down_and_makes_what_is_not_there() -> None:
    tree = {"a": {"b": 1, "c": 2}, "empty": None}
    result = override(tree, ["a.b=5", "x.y.z=6", "empty.one=7", " a.c =8", "a.b=9"])
    assert result == {"a": {"b": 9, "c": 8}, "x": {"y": {"z": 6}}, "empty": {"one": 7}}
    assert tree == {"a": {"b": 1, "c": 2}, "empty": None}, "the given tree stays as it was"


@pytest.mark.parametrize("assignment", ["learning_rate", "=3", "a.=3", ".a=3", "a..b=3"])
def test_a_bad_assignment(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set takes key=value") as caught:
        override({}, [assignment])
    assert caught.value.where == f"--set {assignment}"
    assert "optimizer.learning_rate=1e-5" in caught.value.fix


def test_a_value_has_no_settings_below_it() -> None:
    with pytest.raises(ConfigError, match="data has no settings below it") as caught:
        override({"data": "a.jsonl"}, ["data.path=b"])
    assert (caught.value.where, caught.value.found) == ("--set data.path=b", "'a.jsonl'")


def test_to_yaml_says_everything() -> None:
    text = to_yaml(Stage(data="a", second=Optimizer(learning_rate=1e-5)))
    assert YAML(typ="safe", pure=True).load(text) == {
        "data": "a",
        "epochs": 1,
        "dev": None,
        "optimizer": {"learning_rate": 1e-4, "schedule": "constant"},
        "own": {"learning_rate": 0.5, "schedule": "linear"},
        "second": {"learning_rate": 1e-5, "schedule": "constant"},
        "names": [],
    }
    assert text.startswith("data: a\nepochs: 1\n"), "in the order of the fields"


# Without control characters and Unicode's own line breaks, which the YAML library does not keep.
PLAIN = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
TEXTS = PLAIN | st.sampled_from(["no", "1e-5", "null", "", "~", "2020-01-01", "0x1F", "a: b", "*x", "12"])


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    data=TEXTS,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    names=st.lists(TEXTS, max_size=3),
)
def test_settings_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: str, rate: float, names: list[str]
) -> None:
    settings = Stage(data=data, optimizer=Optimizer(learning_rate=rate), names=tuple(names))
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8", newline="")
    assert build(Stage, read_yaml(path)) == settings


def test_dump_yaml_keeps_the_order() -> None:
    assert dump_yaml({"b": 1, "a": {"d": [1, 2], "c": None}}) == "b: 1\na:\n  d:\n  - 1\n  - 2\n  c:\n"


def test_differences() -> None:
    before = {"same": 1, "model": "a", "optimizer": {"rate": 0.1, "schedule": "linear"}, "gone": 2}
    after = {"same": 1, "model": "b", "optimizer": {"rate": 0.2, "schedule": "linear"}, "new": {"x": 1}}
    assert differences(before, after) == [
        "gone: 2 -> None",
        "model: a -> b",
        "new: None -> {'x': 1}",
        "optimizer.rate: 0.1 -> 0.2",
    ]
    assert differences(before, before) == []
