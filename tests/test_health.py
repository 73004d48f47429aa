"""The table of usual ranges: one row a metric, with its reason, and none of a metric that nobody writes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from trimtab.health import LN2, RANGES, Healthy, healthy

MATH = (Path(__file__).parents[1] / "docs" / "math.md").read_text(encoding="utf-8")
TRAIN = "".join(path.read_text() for path in (Path(__file__).parents[1] / "src/trimtab/train").glob("*.py"))


def test_each_metric_has_one_row_with_meaning_and_source() -> None:
    keys = [(row.stage, row.metric) for row in RANGES]
    assert len(set(keys)) == len(keys)
    assert all(row.meaning and row.source for row in RANGES)


@pytest.mark.parametrize("row", RANGES, ids=lambda row: f"{row.stage}-{row.metric}")
def test_a_row_is_of_a_metric_that_its_stage_writes(row: Healthy) -> None:
    assert re.search(rf"\b{row.metric}\b", TRAIN)


@pytest.mark.parametrize("row", [row for row in RANGES if "docs/math.md" in row.source])
def test_a_derivation_that_is_named_exists(row: Healthy) -> None:
    anchor = row.source.rpartition("#")[2]
    assert f'<a id="{anchor}">' in MATH


def test_the_ends_are_inside_and_what_is_beyond_is_not() -> None:
    row = healthy("dpo", "loss")
    assert row is not None and math.log(2) == LN2
    assert row.contains(LN2) and row.contains(-1e9) and not row.contains(LN2 + 1e-9)
    assert not row.contains(math.nan)


def test_nothing_is_known_of_other_metrics() -> None:
    assert healthy("dpo", "learning_rate") is None and healthy("sft", "loss") is None


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^ppo/kl: the range 1.0 to 1.0 is empty$"):
        Healthy(stage="ppo", metric="kl", low=1.0, high=1.0, meaning="m", source="s")
