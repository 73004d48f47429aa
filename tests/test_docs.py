"""What the documents say must be there: anchors, paths, commands, the tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "trimtab"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def public_functions(folder: Path) -> list[tuple[Path, ast.FunctionDef | ast.ClassDef]]:
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.append((path, node))
    return found


def test_every_anchor_that_code_names_exists() -> None:
    anchors = set(re.findall(r'<a id="([\w-]+)">', (ROOT / "docs" / "math.md").read_text(encoding="utf-8")))
    named = {
        anchor
        for path in SRC.rglob("*.py")
        for anchor in re.findall(r"docs/math\.md#([\w-]+)", path.read_text(encoding="utf-8"))
    }
    assert named and named <= anchors


@pytest.mark.parametrize("package", ["losses", "rollout", "model", "train", "arena", "runs", "data"])
def test_everything_public_says_what_it_is_for(package: str) -> None:
    silent = [
        f"{path.relative_to(SRC)}: {node.name}"
        for path, node in public_functions(SRC / package)
        if not ast.get_docstring(node)
    ]
    assert not silent


def test_every_loss_names_its_source() -> None:
    losses = {"bradley_terry", "preference", "ppo", "sft", "advantages", "kl"}
    without = [
        f"{path.stem}.{node.name}"
        for path, node in public_functions(SRC / "losses")
        if path.stem in losses
        and isinstance(node, ast.FunctionDef)
        and node.name not in ("ranked_right", "approximate_kl")
        and "docs/math.md#" not in (ast.get_docstring(node) or "")
    ]
    assert not without


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / "benchmarks").rglob("*.md")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_paths_in_documents_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]


def test_the_readme_tree_is_the_tree() -> None:
    block = README.split("## Where things are")[1]
    inside = re.findall(r"^      ([\w./]+)\s", block, flags=re.MULTILINE)
    here = {path.name + ("/" if path.is_dir() else "") for path in SRC.iterdir()}
    here -= {"__init__.py", "__main__.py", "py.typed", "__pycache__/"}
    assert set(inside) == here


def test_commands_in_the_readme_exist() -> None:
    from trimtab.cli.main import app

    known = {
        command.callback.__name__ if command.name is None else command.name
        for command in app.registered_commands
    }
    known |= {group.name for group in app.registered_groups}
    used = set(re.findall(r"^    (?:\.venv/bin/)?trimtab ([\w-]+)", README, flags=re.MULTILINE))
    assert used and used <= known


def test_every_config_is_a_valid_pipeline(tmp_path: Path) -> None:
    from trimtab.config import build, override, read_yaml
    from trimtab.pipeline.settings import PipelineSettings, plan

    configs = sorted((ROOT / "configs").glob("*.yaml"))
    assert len(configs) >= 3
    for path in configs:
        tree = read_yaml(path)
        needed = [f"{key}=something" for key in ("model", "comparisons") if key not in tree]
        pipeline = build(PipelineSettings, override(tree, needed), where=path.name)
        assert [stage.kind for stage in plan(pipeline, tmp_path, where=path.name)][-1] == "compare"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "results").glob("*/report.json")), ids=lambda path: path.parent.name
)
def test_committed_reports_can_be_read(path: Path) -> None:
    from trimtab.arena.findings import read_findings

    assert read_findings(path).headline
