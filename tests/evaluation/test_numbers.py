"""The numbers read from texts, each listed by hand."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluation.numbers import numbers

HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no number, not even two", []),
        ("1000 1,000 1'000 1’000 1\u00a0000 1\u202f000 1\u2009000", [1000]),
        ("1,234,567.80", [Fraction("1234567.8")]),
        ("3,5 and 10,00", [3, 5, 10, 0]),
        ("1 000", [1, 0]),
        ("2019,2020", [2019, 2020]),
        ("3.50 03.5 ３．５", [Fraction("3.5"), 3, 5]),
        ("٣٫٥ १२", [Fraction("3.5"), 12]),
        (".5 0.5 0.50", [HALF]),
        ("5.", [5]),
        ("-2 −3 ＋4 (-5) $-6 -$7.25", [-2, -3, 4, -5, -6, Fraction("-7.25")]),
        ("3-5 COVID-19 (1)-2 2020-01-31", [3, 5, 19, 1, 2, 2020, 31]),
        ("10–20", [10, 20]),
        ("- 5", [5]),
        ("50 % 50% 50 percent", [50]),
        ("½ 1/2 2/4 0.5 1⁄2", [HALF]),
        ("3½ 3 1/2 3 ½", [Fraction("3.5")]),
        ("-½ -1 1/2", [-HALF, Fraction("-1.5")]),
        ("1/2/2020", [1, 2, 2020]),
        ("24/7 7 3/2", [Fraction(24, 7), 7, Fraction(3, 2)]),
        ("in 2020 1/2", [2020, HALF]),
        ("1/0 ⅟2", [1, 0, 2]),
        ("10² m² H₂O x1", [10, 1]),
        ("1.5e3 2E-1 1e5abc", [1500, Fraction("0.2"), 1, 5]),
        ("v1.2.3 12:30 3rd B2B", [Fraction("1.2"), 3, 12, 30, 2]),
        ("1\x002", [1, 2]),
        ("1e9999", [1, 9999]),
        ("9" * 61, ["9" * 61]),
        ("-" + "9" * 5000 + ".5", ["-" + "9" * 5000 + ".5"]),
    ],
)
def test_the_values_in_a_text(text, expected):
    assert numbers(text) == set(expected)


@given(st.integers(-(10**12), 10**12))
def test_an_integer_is_read_however_it_is_grouped(value):
    assert numbers(f"it is {value}") == numbers(f"it is {value:,}") == {value}


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6, places=3))
def test_a_decimal_is_read(value):
    assert numbers(f"it is {value:f} m") == {Fraction(value)}
