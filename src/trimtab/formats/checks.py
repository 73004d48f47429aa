"""What `trimtab data check` and `data stats` say about files: defects, lengths, and the pull of length.

Nothing is repaired here. Lengths are of the text alone; the chat template adds a few tokens to each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from trimtab.formats.dialogues import Dialogues
from trimtab.formats.reading import read_any
from trimtab.formats.rows import Defect, Reading, Record, RowError
from trimtab.formats.splits import leakage
from trimtab.records import Comparison, Demonstration, Rating, prompt_text

CountTokens = Callable[[str], int]
CHARACTERS_A_TOKEN = 4
"""A rule of thumb for English text, used where no tokenizer is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long the texts of one field are, in one unit."""

    count: int
    minimum: int
    median: float
    mean: float
    p95: float
    maximum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBias:
    """Of the decided pairs, the share won by the shorter and by the longer reply, in characters.

    What a judge scores that only looks at length: the baseline for every reward model.
    """

    pairs: int
    shorter: float
    longer: float
    equal: float


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One source: what is in it, what is wrong with it."""

    source: str
    sha256: str
    records: dict[str, int]
    """Comparisons, demonstrations, ratings, prompts: how many of each."""
    characters: dict[str, Lengths]
    """Field (prompt, chosen, rejected, response) -> lengths in characters."""
    tokens: dict[str, Lengths]
    """The same in tokens; empty without a tokenizer."""
    length_bias: LengthBias | None
    """None where no pair is decided."""
    defects: tuple[Defect, ...]


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All sources, and the leaks between them."""

    files: tuple[FileReport, ...]
    leaks: tuple[Defect, ...]

    @property
    def defects(self) -> list[Defect]:
        return [defect for file in self.files for defect in file.defects] + list(self.leaks)

    @property
    def counts(self) -> dict[str, int]:
        """Kind of defect -> how many."""
        kinds = [defect.kind for defect in self.defects]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    @property
    def failed(self) -> bool:
        """Whether a defect is an error rather than a warning."""
        return any(defect.severity == "error" for defect in self.defects)

    def as_dict(self) -> dict[str, object]:
        """For JSON output."""
        files = [
            {**asdict(file), "defects": [defect.as_dict() for defect in file.defects]} for file in self.files
        ]
        leaks = [defect.as_dict() for defect in self.leaks]
        return {"files": files, "leaks": leaks, "counts": self.counts, "failed": self.failed}


def check(
    sources: Sequence[str | Path],
    *,
    count_tokens: CountTokens | None,
    max_prompt: int,
    max_response: int,
    dialogues: Dialogues = "chat",
) -> CheckReport:
    """Read every source and find every defect, leakage between any two of them included.

    Args:
        count_tokens: the tokenizer's count; without it tokens are estimated from characters.
        max_prompt, max_response: tokens beyond which a stage with these settings cuts (a warning).
        dialogues: how raw HH-RLHF dialogues are read.
    Raises:
        DataError: a source does not exist.
    """
    readings = [read_any(source, dialogues=dialogues) for source in sources]
    files = tuple(_report(reading, count_tokens, max_prompt, max_response) for reading in readings)
    leaks = [leak for first, second in combinations(readings, 2) for leak in leakage(first, second)]
    return CheckReport(files=files, leaks=tuple(leaks))


def _report(
    reading: Reading[Record], count_tokens: CountTokens | None, max_prompt: int, max_response: int
) -> FileReport:
    records = reading.records
    names = [_name(record) for record in records]
    too_long = _too_long(reading, count_tokens or estimate_tokens, max_prompt, max_response)
    return FileReport(
        source=reading.source,
        sha256=reading.sha256,
        records={name: names.count(name) for name in dict.fromkeys(names)},
        characters=lengths(records, len),
        tokens=lengths(records, count_tokens) if count_tokens else {},
        length_bias=length_bias(record for record in records if isinstance(record, Comparison)),
        defects=tuple(sorted([*reading.defects, *too_long], key=lambda defect: defect.line)),
    )


def _name(record: Record) -> str:
    if isinstance(record, Comparison):
        return "comparisons"
    if isinstance(record, Demonstration):
        return "demonstrations"
    return "ratings" if isinstance(record, Rating) else "prompts"


def _texts(record: Record) -> dict[str, str]:
    """Field -> text. An undecided pair has two responses; a decided one a chosen and a rejected."""
    if isinstance(record, Comparison):
        prompt = prompt_text(record.prompt)
        if record.decided:
            return {"prompt": prompt, "chosen": record.chosen, "rejected": record.rejected}
        return {"prompt": prompt, "a": record.a, "b": record.b}
    if isinstance(record, Demonstration | Rating):
        return {"prompt": prompt_text(record.prompt), "response": record.response}
    return {"prompt": prompt_text(record)}


def lengths(records: Iterable[Record], count: Callable[[str], int]) -> dict[str, Lengths]:
    """Field -> how long its texts are, as `count` measures them."""
    measured: dict[str, list[int]] = {}
    for record in records:
        for field, text in _texts(record).items():
            measured.setdefault(field, []).append(count(text))
    return {field: _summary(values) for field, values in measured.items()}


def _summary(values: Sequence[int]) -> Lengths:
    return Lengths(
        count=len(values),
        minimum=min(values),
        median=float(np.median(values)),
        mean=float(np.mean(values)),
        p95=float(np.percentile(values, 95)),
        maximum=max(values),
    )


def length_bias(comparisons: Iterable[Comparison]) -> LengthBias | None:
    """Over the decided pairs; None when there is none."""
    differences = [len(pair.chosen) - len(pair.rejected) for pair in comparisons if pair.decided]
    if not differences:
        return None
    pairs = len(differences)
    return LengthBias(
        pairs=pairs,
        shorter=sum(difference < 0 for difference in differences) / pairs,
        longer=sum(difference > 0 for difference in differences) / pairs,
        equal=sum(difference == 0 for difference in differences) / pairs,
    )


def estimate_tokens(text: str) -> int:
    """From characters, rounded up."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def _too_long(
    reading: Reading[Record], count: CountTokens, max_prompt: int, max_response: int
) -> list[Defect]:
    """One defect for each text that a stage would cut."""
    defects = []
    for row in reading.rows:
        for field, text in _texts(row.record).items():
            tokens = count(text)
            setting, limit = (
                ("max_prompt", max_prompt) if field == "prompt" else ("max_response", max_response)
            )
            if tokens > limit:
                about = "about " if count is estimate_tokens else ""
                error = RowError(
                    "too long",
                    f"`{field}` is longer than the {limit} tokens of {setting}: stages cut it",
                    field=field,
                    found=f"{about}{tokens} tokens",
                    fix=f"shorten it, or raise {setting}",
                )
                defects.append(error.at(row.file, row.line))
    return defects
