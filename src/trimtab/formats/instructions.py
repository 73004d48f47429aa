"""Instructions with an answer: Alpaca's `instruction`, `input`, `output`, and Self-Instruct's `instances`.

Beside them may stand `keywords`, a list of what a good answer names.
"""

from __future__ import annotations

from trimtab.formats.rows import RawRow, RowError, excerpt
from trimtab.formats.values import check_not_blank, check_reply, keywords_of, text_of
from trimtab.records import Demonstration, Message


def read_instruction(row: RawRow) -> Demonstration:
    """`instruction` + `output`, with what the instruction is about in `input`, where there is any."""
    return _demonstration(row, row, "")


def read_instances(row: RawRow) -> Demonstration:
    """`instruction` + `instances`: a list with one object of `input` and `output`."""
    instances = row["instances"]
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
        raise RowError(
            "wrong value",
            "`instances` must be a list of one object",
            field="instances",
            found=excerpt(instances),
            fix='write [{"input": "...", "output": "..."}], and a row for each further instance',
        )
    return _demonstration(row, instances[0], "instances[0].")


def _demonstration(row: RawRow, instance: RawRow, place: str) -> Demonstration:
    """Instruction and input as one message of the user, a blank line between them."""
    asked = text_of(row["instruction"], "instruction").strip()
    about = text_of(instance.get("input") or "", f"{place}input").strip()
    prompt = (Message("user", f"{asked}\n\n{about}" if about else asked),)
    check_not_blank(prompt, "instruction")
    response = text_of(instance.get("output"), f"{place}output")
    check_reply(response, f"{place}output")
    return Demonstration(prompt=prompt, response=response, keywords=keywords_of(row))
