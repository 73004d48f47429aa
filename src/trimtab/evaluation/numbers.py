"""The numbers in a text, as values: 1,000 is 1000, 3.50 is 3.5, ½ is 0.5.

What is read, in English notation and in the digits of any script:
- thousands are parted by commas, apostrophes, or non-breaking and thin spaces, in groups of exactly three;
  in `3,5` the comma parts two numbers, and an ordinary space always does;
- the point is for decimals; `.5` is 0.5; `1.5e3` is 1500;
- a minus or plus touching the number (a currency sign may stand between) is its sign, unless a letter,
  digit or closing bracket stands before it: `3-5` and `COVID-19` hold no negative number;
- `1/2`, `½`, `1 1/2` and `3½` are fractions; `1/2/2020` is three numbers.
Left out: units (50 % and 50 are both 50), numbers in words, Roman numerals, decimal commas.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

Number = Fraction | str
"""A value; the bare digits where a number is too long to be one."""

LONGEST = 60
"""Digits up to which a number is computed with. Longer ones are compared as text."""

_SIGNS = str.maketrans("\u2212\ufe63\uff0d\uff0b\u066b\0", "---+. ")
"""The minus sign, wide and small signs, and the Arabic decimal point, as they are typed."""
_FRACTION_HERE = "\0"
"""Stands before a fraction that was one character, until it is known what stands before that."""
_FRACTION_AFTER_DIGIT = re.compile("(?<=[0-9])\0")
_SEPARATOR = "[,'\u2019\u066c\u00a0\u202f\u2009]"
_DIGITS = rf"(?:[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+(?![0-9])|[0-9]+)"
_SIGN = r"(?:(?<![\w)\]}])(?P<sign>[-+])[$€£¥₹]?)?"
_FRACTION = re.compile(
    rf"{_SIGN}(?<![0-9.,/⁄])(?:(?P<whole>[0-9]{{1,3}})[ \u00a0\u202f\u2009]+)?"
    r"(?<![0-9.,/⁄])(?P<over>[0-9]+)[/⁄](?P<under>[0-9]+)(?![0-9]*[/⁄.,]?[0-9])"
)
_DECIMAL = re.compile(
    rf"{_SIGN}(?:(?P<digits>{_DIGITS})(?P<part>\.[0-9]+)?|(?<![\w.])(?P<bare>\.[0-9]+))"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,3})(?!\w))?"
)


def numbers(text: str) -> set[Number]:
    """The distinct values in the text."""
    found: set[Number] = set()

    def take(match: re.Match[str]) -> str:
        values = _fraction(match)
        found.update(values)
        return " " if values else match[0]

    rest = _FRACTION.sub(take, _plain_digits(text))
    return found | {_decimal(match) for match in _DECIMAL.finditer(rest)}


def _plain_digits(text: str) -> str:
    """Digits of every script as 0-9, one sign for minus, ½ as `1⁄2` and 3½ as `3 1⁄2`.

    NFKC is not used for it: it would join the exponent of 10² to the ten.
    """
    plain = "".join(map(_plain, text.translate(_SIGNS)))
    return _FRACTION_AFTER_DIGIT.sub(" ", plain).replace(_FRACTION_HERE, "")


def _plain(character: str) -> str:
    if character.isascii():
        return character
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if unicodedata.decomposition(character).startswith("<fraction>"):
        written = unicodedata.normalize("NFKC", character)
        return f"{_FRACTION_HERE}{written} " if written[-1].isdigit() else character  # ⅟ lacks one
    return character


def _fraction(match: re.Match[str]) -> list[Number]:
    """The value of `1/2` or `1 1/2`, the two of `7 3/2`; none where it cannot be computed."""
    over, under = match["over"], match["under"]
    if max(len(over), len(under)) > LONGEST or not int(under):
        return []
    sign, whole = (-1 if match["sign"] == "-" else 1), match["whole"]
    part = Fraction(int(over), int(under))
    if whole is None:
        return [sign * part]
    return [sign * (int(whole) + part)] if part < 1 else [sign * Fraction(int(whole)), part]


def _decimal(match: re.Match[str]) -> Number:
    digits = re.sub(_SEPARATOR, "", match["digits"] or "0")
    plain = digits + (match["part"] or match["bare"] or "")
    if len(plain) > LONGEST:
        return ("-" if match["sign"] == "-" else "") + plain
    value = Fraction(plain) * Fraction(10) ** int(match["exponent"] or 0)
    return -value if match["sign"] == "-" else value
