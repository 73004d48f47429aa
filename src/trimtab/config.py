"""Settings: YAML and `--set a.b=c` become a frozen model; an unknown key names the nearest known one.

YAML is 1.2, so that 1e-5 is a number and `no` is a word.
"""

from __future__ import annotations

import difflib
import io
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from trimtab.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown, each field's docstring is its help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_nested_defaults(cls, tree: Any) -> Any:
        """Setting one value of a group leaves the stage's own defaults of the others as they are."""
        if not isinstance(tree, Mapping):
            return tree
        result = dict(tree)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Settings) and isinstance(result.get(name), Mapping):
                result[name] = _merged(field.default.model_dump(), result[name])
        return result


AnySettings = TypeVar("AnySettings", bound=Settings)

# Besides its own errors the parser raises ValueError for impossible dates and endless digits, and
# RecursionError for endless brackets.
_NOT_YAML = (YAMLError, ValueError, RecursionError)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        fix = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise ConfigError("there is no such config file", where=str(path), fix=fix) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the config file cannot be read", where=str(path), found=str(error)) from None
    try:
        tree = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(
            "this is not YAML", where=f"{path}:{line}", found=str(error.problem or error)
        ) from None
    except _NOT_YAML as error:
        raise ConfigError("this is not YAML", where=str(path), found=str(error)) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            "a config is a mapping of settings",
            where=str(path),
            found=type(tree).__name__,
            fix="write key: value",
        )
    return tree


def override(tree: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """The tree with each `a.b=value` put in; values are read as YAML."""
    result = _copy(tree)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                "--set takes key=value",
                where=f"--set {assignment}",
                fix="for example --set optimizer.learning_rate=1e-5",
            )
        try:
            value = YAML(typ="safe", pure=True).load(text)
        except _NOT_YAML:
            value = text  # a path with a colon or a star is simply text
        _put(result, keys, value, assignment)
    return result


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _put(tree: dict[str, Any], keys: list[str], value: Any, assignment: str) -> None:
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            raise ConfigError(
                f"{key} has no settings below it", where=f"--set {assignment}", found=repr(tree)
            )
    tree[keys[-1]] = value


def build(kind: type[AnySettings], tree: Mapping[str, Any], *, where: str = "") -> AnySettings:
    """Settings of this kind from a tree; `where` (a file) begins each error's place.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of the wrong kind.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _explained(kind, error, where) from None


def _explained(kind: type[Settings], error: ValidationError, where: str) -> ConfigError:
    details = error.errors(include_url=False)
    first = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    path = [str(part) for part in first["loc"]]
    place = ": ".join(part for part in (where, ".".join(path)) if part)
    if first["type"] == "extra_forbidden":
        known = _fields_at(kind, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        fix = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return ConfigError(
            "there is no such setting", where=place, found=f"{path[-1]} = {first['input']!r}", fix=fix
        )
    if first["type"] == "missing":
        return ConfigError(
            "this setting is needed", where=place, fix=f"add {path[-1]}: ... or --set {'.'.join(path)}=..."
        )
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(message[0].lower() + message[1:], where=place, found=repr(first["input"]))


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = kind.model_fields.get(part)
        inner = _settings_in(field.annotation) if field else None
        if inner is None:
            break
        kind = inner
    return list(kind.model_fields)


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def to_yaml(settings: Settings) -> str:
    """Every setting as used, none left implicit."""
    return dump_yaml(settings.model_dump(mode="json"))


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """A plain tree as YAML, keys in order."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 110
    stream = io.StringIO()
    yaml.dump(dict(tree), stream)
    return stream.getvalue()


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`key: old -> new` for each setting in which two trees differ."""
    found: list[str] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} -> {new}")
    return found
