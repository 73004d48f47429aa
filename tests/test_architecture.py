"""The layers: imports point down, nothing sideways, one door per dependency, light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "trimtab"

LAYERS = [
    "errors",
    "records config hidden",
    "statistics formats health",
    "losses data runs pages feedback",
    "model",
    "rollout judges",
    "lab",
    "train arena evaluation",
    "pipeline",
    "demo",
    "web",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}

DOORS = {
    "transformers": {"model", "data/tokens.py"},
    "peft": {"model/adapters.py"},
    "datasets": {"formats"},
    "pyarrow": {"formats"},
    "typer": {"cli"},
    "ruamel": {"config.py"},
    "plotly": {"pages"},
    "jinja2": {"pages", "web/rendering.py"},
    "fastapi": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web/serve.py"},
    "markdown_it": {"web/markdown.py"},
    "nh3": {"web/markdown.py"},
    "openai": {"judges/llm.py"},
    "sentence_transformers": {"evaluation/encoder.py"},
    "sacrebleu": {"evaluation/closeness.py"},
    "sqlalchemy": {"feedback/store"},
    "alembic": {"feedback/store"},
    "argon2": {"feedback/store"},
    "psycopg": {"feedback/store"},
    "torch.distributed": set(),
}

NO_TORCH = [
    "errors.py",
    "records.py",
    "config.py",
    "hidden.py",
    "health.py",
    "statistics",
    "formats",
    "feedback",
    "web",
]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            if module == "trimtab":
                yield from ((node.lineno, f"trimtab.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def home(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return [path for path in sorted(SRC.rglob("*.py")) if home(path) not in ("__init__", "__main__")]


def test_every_module_has_a_layer() -> None:
    assert {home(path) for path in files()} == set(LEVEL)


def test_imports_point_down() -> None:
    upward = []
    for path in files():
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] != "trimtab" or len(parts) < 2 or parts[1] == "__version__" or parts[1] == home(path):
                continue
            if LEVEL[parts[1]] >= LEVEL[home(path)]:
                upward.append(f"{path.relative_to(SRC)}:{line} imports {module}")
    assert not upward, "\n".join(upward)


def test_no_stage_imports_another() -> None:
    stages = {"sft", "reward", "dpo", "ppo"}
    crossing = [
        f"{stage}:{line} imports {module}"
        for stage in stages
        for line, module in imports(SRC / "train" / f"{stage}.py")
        if module.startswith("trimtab.train.") and module.split(".")[2] in stages
    ]
    assert not crossing, "\n".join(crossing)


def test_each_dependency_has_one_door() -> None:
    through_walls = []
    for path in files():
        place = path.relative_to(SRC).as_posix()
        for line, module in imports(path):
            for dependency, doors in DOORS.items():
                if module == dependency or module.startswith(dependency + "."):
                    allowed = any(place == door or place.startswith(door + "/") for door in doors)
                    type_checking = _only_for_types(path, line)
                    if not allowed and not type_checking:
                        through_walls.append(f"{place}:{line} imports {module}")
    assert not through_walls, "\n".join(through_walls)


def _only_for_types(path: Path, line: int) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return any(child.lineno <= line <= (child.end_lineno or 0) for child in node.body)
    return False


def test_light_modules_do_not_name_torch() -> None:
    heavy = []
    for path in files():
        place = path.relative_to(SRC).as_posix()
        if any(place == light or place.startswith(light + "/") for light in NO_TORCH):
            heavy += [f"{place}:{line}" for line, module in imports(path) if module.split(".")[0] == "torch"]
    assert not heavy, "\n".join(heavy)


@pytest.mark.parametrize("statement", ["import trimtab", "import trimtab.cli.main", "import trimtab.formats"])
def test_starting_brings_no_heavy_package(statement: str) -> None:
    heavy = (
        "{'torch', 'transformers', 'datasets', 'pyarrow', 'openai', 'sentence_transformers', 'sklearn', "
        "'sacrebleu'}"
    )
    code = f"{statement}; import sys; print(*{heavy} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_no_drawer_modules() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc", "legacy"}
    assert not [path for path in files() if drawers & set(path.with_suffix("").parts)]
