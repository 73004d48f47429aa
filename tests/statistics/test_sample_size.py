"""The figures people know, and that the two directions agree."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from trimtab.statistics.sample_size import half_width_of, judgments_needed, sample_size_line


@pytest.mark.parametrize(("points", "needed"), [(10, 97), (5, 385), (3, 1068), (1, 9604)])
def test_the_known_figures(points, needed):
    assert judgments_needed(points / 100) == needed


@given(st.integers(4, 10_000), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
@settings(deadline=None)
def test_the_two_directions_agree(judgments, level):
    half = half_width_of(judgments, level)
    assert half == pytest.approx(norm.ppf(0.5 + level / 2) * (0.25 / judgments) ** 0.5, rel=1e-12)
    if half <= 0.5:
        assert judgments_needed(half, level) == judgments
        assert judgments_needed(half * 0.999999, level) == judgments + 1


def test_the_sentence():
    needs = "±5 points needs about 385 decisive judgments; here there "
    assert sample_size_line(96) == needs + "are 96, which give ±10.0."
    assert sample_size_line(1) == needs + "is 1, which gives ±98.0."
    assert sample_size_line(0) == needs + "are none."
    long = sample_size_line(12_345, goal=0.005)
    assert (
        long == "±0.5 points needs about 38,415 decisive judgments; here there are 12,345, which give ±0.9."
    )


@pytest.mark.parametrize("half", [0, -0.1, 0.51, 5, float("nan")])
def test_a_half_width_is_a_share(half):
    with pytest.raises(ValueError, match="half_width"):
        judgments_needed(half)


def test_what_has_no_half_width_is_refused():
    for judgments in (0, -1):
        with pytest.raises(ValueError, match="at least one"):
            half_width_of(judgments)
    with pytest.raises(ValueError):
        sample_size_line(-1)
    with pytest.raises(ValueError, match="level"):
        half_width_of(10, 95)
