"""The table and the page of `trimtab verify`: what fails is said, and fails the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from trimtab.cli.main import app
from trimtab.errors import ConfigError
from trimtab.lab.properties.property import Property
from trimtab.model.device import Numerics
from trimtab.pipeline import verify
from trimtab.pipeline.known_optimum import Approach
from trimtab.pipeline.verify import KnownOptimum, Result

NUMERICS = Numerics(torch.device("cpu"), None)


def approach(final: float) -> Approach:
    return Approach("a run", seed=0, beta=0.5, gaps=(0.4, 0.1, final), range=0.4)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two properties and one trainer instead of all."""
    known = [
        Property(1, "one <b>bold</b>", "1 = 1", 1e-6, lambda lab: 0.0),
        Property(2, "two", "2 = 2", 0.0, lambda lab: 0.0),
    ]
    monkeypatch.setattr(verify, "PROPERTIES", known)
    trainer = KnownOptimum("a trainer", "gap → 0", 1e-3, lambda world, numerics: approach(1e-4))
    monkeypatch.setattr(verify, "KNOWN_OPTIMA", (trainer,))


def test_everything_holds(short: None) -> None:
    results = verify.verify(NUMERICS)
    assert [result.verdict for result in results] == ["holds"] * 3
    assert verify.headline(results) == "All 3 checks hold"
    head, first, *_, last = verify.table(results)
    assert head == ("property", "formula", "measured", "allowed", "verdict")
    assert first == ("1. one <b>bold</b>", "1 = 1", "0.0e+00", "1.0e-06", "holds")
    assert last == ("a trainer", "gap → 0", "1.0e-04", "1.0e-03", "holds")


def test_a_device_without_float64_is_refused() -> None:
    with pytest.raises(ConfigError, match="float64"):
        verify.verify(Numerics(torch.device("mps"), None))


@pytest.mark.parametrize("measured", [2e-6, float("nan"), float("inf"), -1.0])
def test_what_fails_is_named(measured: float) -> None:
    failing = Result("the name", "formula", measured, 1e-6)
    assert failing.verdict == "FAILS" and not failing.holds
    assert verify.headline([failing, Result("other", "", 0.0, 0.0)]) == "1 of 2 checks fail: the name"


def test_the_page_is_one_file_that_loads_nothing(short: None, tmp_path: Path) -> None:
    path = verify.write_page(tmp_path / "page.html", verify.verify(NUMERICS), NUMERICS)
    page = path.read_text(encoding="utf-8")
    assert "All 3 checks hold" in page and "one &lt;b&gt;bold&lt;/b&gt;" in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    figures = json.loads(page.split('id="figures">')[1].split("</script>")[0])
    (figure,) = figures.values()
    assert figure["data"][0]["y"] == [0.4, 0.1, 1e-4] and figure["data"][1]["y"] == [1e-3, 1e-3]
    assert page.count("data-figure=") == 1


def test_the_command_prints_the_table_and_writes_the_page(short: None, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", "--html", str(tmp_path / "page.html")])
    assert result.exit_code == 0 and "All 3 checks hold" in result.stdout
    assert (tmp_path / "page.html").exists()


def test_one_failure_is_exit_code_1(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = KnownOptimum("a trainer", "gap → 0", 1e-3, lambda world, numerics: approach(0.2))
    monkeypatch.setattr(verify, "KNOWN_OPTIMA", (bad,))
    result = CliRunner().invoke(app, ["verify", "--json"])
    assert result.exit_code == 1
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    assert [row["holds"] for row in rows] == [True, True, False]
