"""kill -9 of the real server under load: what was acknowledged is there, once, as it was said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import feedback_site

    if request.param == "postgresql" and feedback_site.postgresql_binaries() is None:
        pytest.skip("no PostgreSQL server on this machine: apt-get install postgresql")
    with feedback_site.new_place(request.param, tmp_path) as place:
        yield place


def test_a_server_is_killed_five_times(place: str, tmp_path: Path) -> None:
    import feedback_kills

    found = feedback_kills.live_through(place, tmp_path / "server.log", kills=5, rate=60, people=20)
    assert found.held.acknowledged > 100
    assert (found.held.lost, found.held.doubled, found.held.changed, found.held.miscounted) == (0, 0, 0, 0)
    assert found.held.stored == found.held.acknowledged
    assert found.unanswered == 0
    assert found.resent > 0, "no kill met a judgment on its way"
    assert found.sound
