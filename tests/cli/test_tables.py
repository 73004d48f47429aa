"""Tables on terminals of every width: no word is cut, nothing is lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trimtab.cli import tables

ROWS = [
    ("policy", "against", "preferred", "at equal length", "wins", "p, adjusted", "verdict"),
    ("ppo", "dpo", "45.6 % [40.0, 50.9]", "50.6 % [44.5, 56.6]", "146", "0.262", "no clear winner"),
    ("ppo", "[red]sft", "81.7 % [77.2, 85.8]", "82.1 % [77.4, 86.0]", "261", "< 0.001", "ppo preferred"),
]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch):
    def at(width: int) -> str:
        written = io.StringIO()
        console = Console(file=written, width=width, force_terminal=True, color_system=None)
        monkeypatch.setattr(tables, "Console", lambda: console)
        tables.print_rows(ROWS, title="who was preferred")
        return written.getvalue()

    return at


@pytest.mark.parametrize("width", [40, 60, 61, 80, 100, 120, 200])
def test_no_word_is_cut_and_none_is_lost(printed, width: int) -> None:
    text = printed(width)
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    words = text.split()
    for row in ROWS:
        for cell in row:
            assert set(cell.split()) <= set(words), cell


def test_wide_terminals_get_one_line_a_row(printed) -> None:
    lines = printed(140).splitlines()
    assert len(lines) == 4 and " ".join(lines[1].split()) == " ".join(ROWS[0])


def test_narrow_terminals_get_one_line_a_cell(printed) -> None:
    lines = [line.rstrip() for line in printed(40).splitlines()]
    assert lines[:3] == ["who was preferred", "policy           ppo", "against          dpo"]
    assert lines.count("") == 2, "rows are apart"
