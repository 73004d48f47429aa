"""Waits before the next try."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from trimtab.judges.back_off import back_off, retry_after


def test_waits_double_up_to_a_minute_and_are_spread() -> None:
    for attempt, longest in enumerate([1, 2, 4, 8, 16, 32, 60, 60]):
        waits = [back_off(attempt, None) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_what_the_endpoint_asks_for_is_kept_and_hardly_exceeded() -> None:
    waits = [back_off(0, 20.0) for _ in range(50)]
    assert 20 <= min(waits) < max(waits) <= 22
    assert back_off(5, 0.0) == 0.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after({"retry-after": later}) == pytest.approx(90, abs=5)
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({}) is None
