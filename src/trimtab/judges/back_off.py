"""How long to wait before an endpoint that has failed is asked again."""

from __future__ import annotations

import email.utils
import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0


def back_off(attempt: int, retry_after: float | None) -> float:
    """Seconds before the next try: what the endpoint asks for and a little more, or 1, 2, 4 ... up to 60.

    The random part keeps many threads from coming back at once; it changes no verdict.
    """
    if retry_after is not None:
        return retry_after * random.uniform(1.0, 1.1)
    return float(min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None where it says nothing sane."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - datetime.now(UTC).timestamp()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
