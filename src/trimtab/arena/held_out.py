"""Pairs that nobody was trained on, and the prompts among them that the policies answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab import formats
from trimtab.arena.settings import CompareSettings
from trimtab.data.tokens import Codec, Example, Limits, encode_prompts
from trimtab.errors import DataError
from trimtab.records import Comparison, Prompt


@dataclass(frozen=True)
class HeldOut:
    """Pairs that nobody was trained on, and the prompts that the policies answer."""

    pairs: Sequence[formats.Row[Comparison]]
    prompts: list[Prompt]
    examples: list[Example]
    codec: Codec
    """The reference's: all policies that share it are given the same ids."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(where, reason) of prompts that the reference cannot read."""
    shortened: int = 0
    """Prompts that the policies saw without their beginning."""

    @property
    def caveats(self) -> tuple[str, ...]:
        """What readers of the answers should know of their prompts."""
        said = []
        if self.left_out:
            said.append(f"{len(self.left_out)} held-out prompts could not be read and are left out.")
        if self.shortened:
            said.append(
                f"{self.shortened} prompts were longer than the policies were allowed to read: they answered "
                "the end of them, and the judge saw the whole."
            )
        return tuple(said)


def read_held_out(settings: CompareSettings, codec: Codec, limits: Limits) -> HeldOut:
    """All held-out pairs, and the first `prompts` different prompts among them."""
    reading = formats.read_comparisons(settings.held_out, dialogues=settings.dialogues)
    pairs = formats.usable(reading)
    different = {formats.prompt_key(row.record.prompt): row for row in reversed(pairs)}
    rows = [
        formats.Row(row.record.prompt, row.file, row.line) for row in pairs if different[_key(row)] is row
    ]
    encoded = encode_prompts(codec, rows[: settings.prompts], limits)
    if len(encoded.examples) < 2:
        raise DataError(
            "a comparison needs at least two held-out prompts",
            where=settings.held_out,
            found=f"{len(encoded.examples)} can be used",
            fix="give more held-out comparisons",
        )
    kept = set(encoded.wheres)
    prompts = [row.record for row in rows[: settings.prompts] if row.where in kept]
    return HeldOut(
        pairs, prompts, encoded.examples, codec, tuple(encoded.left_out), encoded.counts["prompts shortened"]
    )


def _key(row: formats.Row[Comparison]) -> str:
    return formats.prompt_key(row.record.prompt)
