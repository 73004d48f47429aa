"""What hides, reorders or steers text is shown; the list is checked against Unicode's own categories."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.hidden import visible

WITHOUT_A_SHAPE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories: control, format, surrogate, separators of lines and paragraphs."""

KEPT = {
    *(0x09, 0x0A),  # tab and line break
    *(0xAD, 0x200C, 0x200D),  # soft hyphen, non-joiner, joiner
    *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD,  # signs that are seen
    0x180E,  # Mongolian
    *range(0x13430, 0x13440), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B),  # old scripts
}  # fmt: skip


def test_of_all_characters_without_a_shape_only_those_that_writing_needs_stay():
    codes = range(sys.maxunicode + 1)
    shapeless = [code for code in codes if unicodedata.category(chr(code)) in WITHOUT_A_SHAPE]
    kept = {code for code in shapeless if visible(chr(code)) == chr(code)}
    assert kept <= KEPT and {0x09, 0x0A, 0xAD, 0x200C, 0x200D} <= kept
    signs = {visible(chr(code)) for code in shapeless if code not in kept}
    assert all(unicodedata.category(one) not in WITHOUT_A_SHAPE for sign in signs for one in sign)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[0m\x7f\x85", "a\u2400b\u241b[0m\u2421⟦U+0085⟧"),
        ("\u202ec\u2066d\u2069", "⟦U+202E⟧c⟦U+2066⟧d⟦U+2069⟧"),
        ("\u061c\u200e\u200f", "⟦U+061C⟧⟦U+200E⟧⟦U+200F⟧"),
        ("D\u200bP\u2060O\ufeff", "D⟦U+200B⟧P⟦U+2060⟧O⟦U+FEFF⟧"),
        ("DPO\U000e0041\U000e007f", "DPO⟦U+E0041⟧⟦U+E007F⟧"),
        ("\u3164\u2028", "⟦U+3164⟧⟦U+2028⟧"),
        ("one\r\ntwo\rthree\n\ud800", "one\ntwo\u240dthree\n\ufffd"),
    ],
)
def test_what_hides_or_reorders_text_is_shown_as_a_sign(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["👩‍🔬 ❤️", "می‌خواهم", "שלום عليكم", "Grüße,\n\t“世界”", "葛\U000e0100", ""])
def test_writing_stays_as_it_is(text):
    assert visible(text) == text


@given(st.text())
def test_a_text_that_was_made_visible_is_visible(text):
    assert visible(visible(text)) == visible(text)
