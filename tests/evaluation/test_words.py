"""Words and matching in scripts that the usual tokenizers drop or break."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trimtab.evaluation.words import fold, normalise, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 9 o'clock.", ["it", "s", "9", "o", "clock"]),
        ("snake_case", ["snake", "case"]),
        ("Ünïcode CAFÉ cafe\u0301", ["ünïcode", "café", "café"]),
        ("日本語テスト", ["日", "本", "語", "テ", "ス", "ト"]),
        ("iPhone手机2", ["iphone", "手", "机", "2"]),
        ("한국어 시험", ["한국어", "시험"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("مَرْحَبًا، يا", ["مَرْحَبًا", "يا"]),
        ("👍🏽 ok 👩\u200d🔬", ["👍", "ok", "👩", "🔬"]),
        ("\u0301 ...", []),
        ("５０％ ﬁne ½", ["50", "fine", "1", "2"]),
    ],
)
def test_words(text, expected):
    assert words(text) == [fold(word) for word in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  U.S.A. is an «Example»!", "usa is example"),
        ("مرحبا، يا «عالم»؟", "مرحبا يا عالم"),
        ("今日は、世界。", "今日は世界"),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया"),
        ("5 €, 3 °C 👍", "5 € 3 °c 👍"),
        ("\u202bbidi\u202c\ufeff", "bidi"),
    ],
)
def test_normalising(text, expected):
    assert normalise(text) == fold(expected)


@given(st.text())
@example("C:\u0327")
def test_folding_and_normalising_twice_is_once(text):
    assert fold(fold(text)) == fold(text)
    assert normalise(normalise(text)) == normalise(text)
