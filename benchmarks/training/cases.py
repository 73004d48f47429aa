"""What both sides train on: models and token ids, made once by trimtab's code.

Every case is made of the same real HH-RLHF pairs, read with the stages' own limits (prompts of at most 192
tokens, responses of at most 64). How they are cut:

- dpo-hh, reward, sft: pairs as they are whose prompt is at most 4 times as long as its responses are on
  average, in the order of the file; prompts then have about twice the tokens of a response. SFT sees the
  chosen responses.
- dpo-prompt-heavy: the same responses; each prompt is made 6 times as long as its two responses are on
  average, by putting the dialogues (prompt and chosen response) of the pairs that follow before it, and
  cutting on the left.
- dpo-response-heavy: of each prompt the last 48 tokens; responses made 3 times as long as that on average, by
  putting the responses of the pairs that follow behind them, chosen behind chosen and rejected behind
  rejected, and cutting on the right; which of the two is longer, and by how much, stays as it was.
- dpo-adverse: of each prompt its first token; every response exactly 128 tokens, lengthened in the same way:
  no prompt to share and nothing to pad.

Lengthened texts make no sense to a reader; to a clock they are tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trimtab import formats
from trimtab.data.tokens import Codec, Limits, encode_comparisons
from trimtab.model.device import Numerics
from trimtab.model.load import load_tokenizer
from trimtab.model.policy import load_policy
from trimtab.model.save import save_model
from trimtab.model.scalar import new_scorer
from trimtab.train.settings import DPOSettings

sys.path.append(str(Path(__file__).parents[1] / "trl"))
from our_stages import add_noise

MODEL = "smollm2-135m-instruct"
BUNDLED = Path(__file__).parents[2] / "examples" / "hh-harmless" / "comparisons.jsonl.gz"
FLOAT32 = Numerics(torch.device("cpu"), None)
LONGEST_PROMPT = 4
"""Times as long as the responses are on average."""
HEAVY_PROMPT, HEAVY_RESPONSES = 6, 3
SHORT_PROMPT, EQUAL_RESPONSES = 48, 128

Ids = list[int]
Row = dict[str, Ids]
"""prompt_ids, chosen_ids, rejected_ids: TRL's names."""


@dataclass(frozen=True)
class Case:
    """A loss and the lengths of what it is trained on."""

    loss: str
    """dpo, sft or reward."""
    cut: Callable[[Sequence[Row], int], Row]
    """The i-th row, made of all of them."""


def as_it_is(rows: Sequence[Row], index: int) -> Row:
    """dpo-hh, sft and reward."""
    return rows[index]


def prompt_heavy(rows: Sequence[Row], index: int) -> Row:
    """6 : 1."""
    row = rows[index]
    length = round(HEAVY_PROMPT * (len(row["chosen_ids"]) + len(row["rejected_ids"])) / 2)
    ids = row["prompt_ids"]
    others = _after(rows, index)
    while len(ids) < length:
        other = next(others)
        ids = other["prompt_ids"] + other["chosen_ids"] + ids
    return {**row, "prompt_ids": ids[-length:]}


def response_heavy(rows: Sequence[Row], index: int) -> Row:
    """1 : 3."""
    row = rows[index]
    prompt = row["prompt_ids"][-SHORT_PROMPT:]
    both = len(row["chosen_ids"]) + len(row["rejected_ids"])
    lengths = {
        side: max(round(HEAVY_RESPONSES * len(prompt) * 2 * len(row[side]) / both), 1) for side in SIDES
    }
    return {"prompt_ids": prompt, **_longer(rows, index, lengths)}


def adverse(rows: Sequence[Row], index: int) -> Row:
    """No prompt to speak of and equal lengths."""
    return {
        "prompt_ids": rows[index]["prompt_ids"][:1],
        **_longer(rows, index, dict.fromkeys(SIDES, EQUAL_RESPONSES)),
    }


SIDES = ("chosen_ids", "rejected_ids")
CASES = {
    "dpo-hh": Case("dpo", as_it_is),
    "dpo-prompt-heavy": Case("dpo", prompt_heavy),
    "dpo-response-heavy": Case("dpo", response_heavy),
    "dpo-adverse": Case("dpo", adverse),
    "sft": Case("sft", as_it_is),
    "reward": Case("reward", as_it_is),
}


def _longer(rows: Sequence[Row], index: int, lengths: dict[str, int]) -> Row:
    """Both responses with those of the following rows behind them, cut to their lengths."""
    found = {side: rows[index][side] for side in SIDES}
    others = _after(rows, index)
    while any(len(found[side]) < lengths[side] for side in SIDES):
        other = next(others)
        found = {side: ids + other[side] for side, ids in found.items()}
    return {side: ids[: lengths[side]] for side, ids in found.items()}


def _after(rows: Sequence[Row], index: int) -> Iterator[Row]:
    while True:
        index += 1
        yield rows[index % len(rows)]


def responses_of(loss: str, row: Row) -> list[Ids]:
    """Those that the loss reads."""
    return [row["chosen_ids"]] if loss == "sft" else [row[side] for side in SIDES]


def needed_tokens(loss: str, row: Row) -> int:
    """Each prompt once."""
    return len(row["prompt_ids"]) + sum(map(len, responses_of(loss, row)))


def logical_tokens(loss: str, row: Row) -> int:
    """Each response with its prompt: what a side without sharing and without padding would execute."""
    responses = responses_of(loss, row)
    return len(responses) * len(row["prompt_ids"]) + sum(map(len, responses))


def write_batches(path: Path, case: Case, pairs: Path, *, steps: int, pairs_a_step: int) -> None:
    """The batches of a case, in their order, unless they are there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = hh_rows(load_tokenizer(MODEL), pairs)
    needed = steps * pairs_a_step
    if len(rows) < needed:
        sys.exit(f"{needed} pairs are needed and {len(rows)} are there: lower --gate-steps, or give --pairs")
    cut = [case.cut(rows, index) for index in range(needed)]
    batches = [cut[first : first + pairs_a_step] for first in range(0, needed, pairs_a_step)]
    path.write_text(json.dumps(batches))


def hh_rows(codec: Codec, pairs: Path) -> list[Row]:
    """Pairs whose prompt does not outweigh their responses too far, in the order of the file."""
    limits = Limits(
        prompt=DPOSettings.model_fields["max_prompt"].default,
        response=DPOSettings.model_fields["max_response"].default,
    )
    found = []
    for example in encode_comparisons(
        codec, formats.usable(formats.read_comparisons(str(pairs))), limits
    ).examples:
        chosen, rejected = (list(response.ids) for response in example.responses)
        if 2 * len(example.prompt) <= LONGEST_PROMPT * (len(chosen) + len(rejected)):
            found.append({"prompt_ids": list(example.prompt), "chosen_ids": chosen, "rejected_ids": rejected})
    return found


def write_models(folder: Path) -> None:
    """The reference, a policy that has moved away from it, and a reward model, unless they are there.

    The gate begins from the moved policy: at the reference itself every preference loss is what it is
    whatever the log-probabilities are, and the first step could not fail. What is timed begins from the
    reference, as people do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "reference" / "config.json").exists():
        policy = load_policy(MODEL, FLOAT32, bytes_per_parameter=4)
        save_model(policy.model, policy.codec, folder / "reference")
    if not (folder / "policy" / "config.json").exists():
        policy = load_policy(str(folder / "reference"), FLOAT32, bytes_per_parameter=4)
        add_noise(policy.model, seed=1)
        save_model(policy.model, policy.codec, folder / "policy")
    if not (folder / "scorer" / "config.json").exists():
        generator = torch.Generator().manual_seed(2)
        scorer = new_scorer(str(folder / "policy"), FLOAT32, generator, bytes_per_parameter=4)
        save_model(scorer.model, scorer.codec, folder / "scorer")


def describe(loss: str, batches: Sequence[Sequence[Row]]) -> str:
    """Mean lengths, for people."""
    rows = [row for batch in batches for row in batch]
    prompt = sum(len(row["prompt_ids"]) for row in rows) / len(rows)
    responses = [
        sum(len(one[side]) for one in rows) / len(rows) for side in SIDES[: len(responses_of(loss, rows[0]))]
    ]
    logical = sum(logical_tokens(loss, row) for row in rows) / len(batches)
    lengths = " + ".join(f"{mean:.0f}" for mean in responses)
    return f"prompt {prompt:.0f}, response {lengths} tokens on average; {logical:.0f} logical tokens a step"
