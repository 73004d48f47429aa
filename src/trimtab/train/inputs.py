"""What a stage reads: its data as examples, and an account in the run folder of what was left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from trimtab import formats
from trimtab.data.rankings import encode_rankings
from trimtab.data.tokens import (
    Codec,
    Encoded,
    Example,
    Limits,
    encode_comparisons,
    encode_demonstrations,
    encode_prompts,
    encode_ratings,
)
from trimtab.records import Rating
from trimtab.runs import progress
from trimtab.runs.run import Run
from trimtab.train.settings import DPOSettings, StageSettings

Read = Callable[..., formats.Reading[Any]]
Encode = Callable[..., Encoded]


def comparisons(settings: StageSettings, codec: Codec, run: Run) -> tuple[list[Example], list[Example]]:
    """Training and dev pairs; the first response of each example is the chosen one."""
    return _read(settings, codec, run, formats.read_comparisons, encode_comparisons)


def rankings(settings: StageSettings, codec: Codec, run: Run) -> tuple[list[Example], list[Example]]:
    """Training and dev pairs; those of one ranking are one example with a branch for each response."""
    return _read(settings, codec, run, formats.read_comparisons, encode_rankings)


def demonstrations(settings: StageSettings, codec: Codec, run: Run) -> tuple[list[Example], list[Example]]:
    """Training and dev demonstrations; of comparisons, the chosen responses."""
    return _read(settings, codec, run, formats.read_demonstrations, encode_demonstrations)


def ratings(settings: DPOSettings, codec: Codec, run: Run) -> tuple[list[Example], list[Example]]:
    """Training and dev responses that were rated one by one."""

    def read(source: str, *, dialogues: str) -> formats.Reading[Rating]:
        return formats.read_ratings(source)  # no raw dialogue is rated

    return _read(settings, codec, run, read, partial(encode_ratings, good_from=settings.good_from))


def prompts(settings: StageSettings, codec: Codec, run: Run) -> tuple[list[Example], list[Example]]:
    """Training and dev prompts; of comparisons and demonstrations, each prompt once."""
    return _read(settings, codec, run, formats.read_prompts, encode_prompts)


def pretraining(settings: StageSettings, source: str, codec: Codec, run: Run) -> list[Example]:
    """Demonstrations that are learned beside what the stage is about."""
    reading = formats.read_demonstrations(source, dialogues=settings.dialogues)
    if settings.dev:
        formats.refuse_leakage(reading, formats.read_prompts(settings.dev, dialogues=settings.dialogues))
    examples, left_out = _encoded("pretraining", source, reading, settings, codec, run, encode_demonstrations)
    run.leave_out(left_out)
    return examples


def _read(
    settings: StageSettings, codec: Codec, run: Run, read: Read, encode: Encode
) -> tuple[list[Example], list[Example]]:
    train = read(settings.data, dialogues=settings.dialogues)
    dev = read(settings.dev, dialogues=settings.dialogues) if settings.dev else None
    if dev is not None:
        formats.refuse_leakage(train, dev)
    left_out: list[tuple[str, str]] = []
    parts: list[list[Example]] = []
    for name, source, reading in (("train", settings.data, train), ("dev", settings.dev, dev)):
        if reading is None:
            parts.append([])
            continue
        examples, left = _encoded(name, str(source), reading, settings, codec, run, encode)
        parts.append(examples)
        left_out += left
    run.leave_out(left_out)
    run.describe(chat_template=codec.template_hash)
    return parts[0], parts[1]


def _encoded(
    name: str,
    source: str,
    reading: formats.Reading[Any],
    settings: StageSettings,
    codec: Codec,
    run: Run,
    encode: Encode,
) -> tuple[list[Example], list[tuple[str, str]]]:
    """The examples of one source, told about in run.json, and what was left out, where and why."""
    limits = Limits(prompt=settings.max_prompt, response=settings.max_response)
    encoded = encode(codec, formats.usable(reading), limits)
    unusable = [(defect.where, f"{defect.kind}: {defect.what}") for defect in reading.defects_left_out]
    account = _account(source, reading.sha256, encoded, len(unusable))
    run.describe_input("data", name, account)
    _tell(name, account)
    return encoded.examples, unusable + encoded.left_out


def _account(source: str, sha256: str, encoded: Encoded, unusable: int) -> dict[str, Any]:
    return {
        "source": source,
        "sha256": sha256,
        "ids_sha256": _ids_hash(encoded.examples),
        "examples": len(encoded.examples),
        "tokens": encoded.tokens,
        "left out": unusable + len(encoded.left_out),
        **dict(encoded.counts),
    }


def _ids_hash(examples: Sequence[Example]) -> str:
    """Of all that the model sees: template and tokenizer are in it, and a template may write the date."""
    digest = hashlib.sha256()
    for example in examples:
        parts = [example.prompt, *((response.ids, response.stopped) for response in example.responses)]
        digest.update(repr(parts).encode())
    return digest.hexdigest()


def _tell(name: str, account: dict[str, Any]) -> None:
    cut = ", ".join(
        f"{account[key]:,} {key}"
        for key in ("left out", "prompts shortened", "responses cut")
        if account.get(key)
    )
    line = (
        f"  {name}: {account['examples']:,} examples, {account['tokens']:,} tokens from {account['source']}"
    )
    progress.say(line + (f" ({cut})" if cut else ""))


def tokens_in(examples: Sequence[Example]) -> int:
    """Ids in all, each prompt counted once."""
    return sum(example.tokens for example in examples)
