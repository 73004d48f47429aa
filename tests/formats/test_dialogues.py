"""HH-RLHF dialogues: the good ones, and each known defect. Texts are invented, shapes are the data set's."""

import pytest

from trimtab.formats.dialogues import is_dialogue, read_chat, read_raw
from trimtab.formats.rows import RowError
from trimtab.records import Message

HISTORY = "\n\nHuman: Hello \n\nAssistant: Hi.\nHow are you?\n\nHuman: Name a prime.\n\nAssistant:"


def row(chosen, rejected):
    return {"chosen": chosen, "rejected": rejected}


def test_a_dialogue_becomes_messages():
    pair = read_chat(row(HISTORY + " 7 ", HISTORY + " 9"))
    assert pair.prompt == (
        Message("user", "Hello"),
        Message("assistant", "Hi.\nHow are you?"),
        Message("user", "Name a prime."),
    )
    assert (pair.chosen, pair.rejected) == ("7", "9")


def test_a_raw_dialogue_stays_as_it_is():
    pair = read_raw(row(HISTORY + " 7 ", HISTORY + " 9"))
    assert (pair.prompt, pair.chosen, pair.rejected) == (HISTORY, " 7 ", " 9")


@pytest.mark.parametrize(
    ("chosen", "rejected", "kind", "field"),
    [
        (HISTORY + " 7", HISTORY.replace("Hello", "Hallo") + " 9", "differing prompts", "rejected"),
        (HISTORY + " 7\n\nAssistant: or 11", HISTORY + " 9", "differing prompts", "rejected"),
        (HISTORY + " 7", "no dialogue at all", "differing prompts", "rejected"),
        (HISTORY + " ", HISTORY + " 9", "empty reply", "chosen"),
        (HISTORY + " 7", "", "empty reply", "rejected"),
        (HISTORY + " 7\n\nHuman: Thanks", HISTORY + " 9", "empty reply", "chosen"),
        (HISTORY + " Human: what?", HISTORY + " 9", "role marker", "chosen"),
        (HISTORY + " 7", HISTORY + " 9 \nAssistant: 9", "role marker", "rejected"),
        (HISTORY + " 7\n\nAssistant: 7", HISTORY + " 7\n\nAssistant: 9", "role marker", "chosen"),
        (HISTORY + " 7", HISTORY + " 7", "identical pair", "rejected"),
        ("\n\nHuman: \n\nAssistant: 7", "\n\nHuman: \n\nAssistant: 9", "empty prompt", "chosen"),
    ],
)
def test_damaged_dialogues_are_refused_with_the_reason(chosen, rejected, kind, field):
    with pytest.raises(RowError) as caught:
        read_chat(row(chosen, rejected))
    assert (caught.value.kind, caught.value.field) == (kind, field)
    assert caught.value.found and caught.value.fix


def test_a_human_reply_about_humanity_is_no_marker():
    assert read_chat(row(HISTORY + " A Human is one.", HISTORY + " 9")).chosen == "A Human is one."


def test_what_counts_as_a_dialogue():
    assert is_dialogue(row(HISTORY + " 7", ""))
    assert not is_dialogue(row("Q: 7", "Q: 9"))
    assert not is_dialogue(row([{"role": "user", "content": HISTORY}], HISTORY))
