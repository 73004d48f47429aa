"""trimtab's own record survives being written and read, whatever is in it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from trimtab.formats.own_record import comparison_json, read_comparison
from trimtab.records import Comparison, Message, Verdict

FILLED = st.text(max_size=8).filter(str.strip)
NAMES = st.sampled_from(["", "mara", "runs/ppo"])
CHATS = st.builds(
    lambda turns, last: (*(Message(role, text) for role, text in turns), Message("user", last)),
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=5)), max_size=2
    ),
    FILLED,
)
VERDICTS = st.builds(
    Verdict,
    preferred=st.sampled_from(["a", "b", "tie", "both_bad"]),
    judge=NAMES,
    strength=st.sampled_from([None, 1, 2, 3]),
    shown=st.sampled_from([None, "ab", "ba"]),
    at=st.sampled_from(["", "2026-01-31T12:00:00Z"]),
)
COMPARISONS = st.builds(
    Comparison,
    prompt=FILLED | CHATS,
    a=FILLED,
    b=FILLED,
    verdict=st.none() | VERDICTS,
    source_a=NAMES,
    source_b=NAMES,
    group=NAMES,
).filter(lambda pair: not pair.decided or pair.a.strip() != pair.b.strip())


@given(COMPARISONS)
def test_round_trip(comparison):
    assert read_comparison(json.loads(json.dumps(comparison_json(comparison)))) == comparison


def test_the_form_is_as_documented():
    comparison = Comparison(
        prompt=(Message("user", "p"),), a="x", b="y", verdict=Verdict(preferred="tie", strength=1), group="g"
    )
    assert comparison_json(comparison) == {
        "prompt": [{"role": "user", "content": "p"}],
        "a": "x",
        "b": "y",
        "verdict": {"preferred": "tie", "strength": 1},
        "group": "g",
    }
    assert comparison_json(Comparison(prompt="p", a="x", b="")) == {"prompt": "p", "a": "x", "b": ""}
