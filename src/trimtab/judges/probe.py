"""A linear probe of a language model as a judge: what its hidden states, averaged over a text, say.

Another family than a classifier of words: it reads words in their context. Beside such a classifier it shows
when a policy has learned to please the one and not the other.

Dimensions: T = tokens of a row, D = model size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Codec, Example
from trimtab.errors import ModelError
from trimtab.judges.judge import Answer, Scored, Unreadable
from trimtab.judges.words import whole_text
from trimtab.model.bundles import SCORERS
from trimtab.model.device import Numerics
from trimtab.model.packed import hidden_states
from trimtab.model.passes import over_rows
from trimtab.model.policy import Policy, backbone, load_policy

ROW_TOKENS = 2048
LONGEST = 1024
"""Tokens of a text."""


@dataclass(frozen=True)
class ProbeJudge:
    """Scores the prompt and the response as one text; scores lie between 0 and 1."""

    nats: ClassVar[bool] = False
    name: str
    model: Policy
    weights: Tensor  # [D] log-odds
    bias: float

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """P(good) of each text; too long a text is unreadable."""
        encoded = [_encode(self.model.codec, whole_text(answer)) for answer in answers]
        readable = [one for one in encoded if isinstance(one, Example)]
        means = iter(mean_states(self.model, readable))
        return [
            one
            if isinstance(one, Unreadable)
            else float(torch.sigmoid(next(means) @ self.weights + self.bias))
            for one in encoded
        ]

    def _log_odds(self, mean: Tensor) -> Tensor:
        return mean @ self.weights + self.bias


def load_probe(folder: str, numerics: Numerics) -> ProbeJudge:
    """Read FOLDER/probe.safetensors; the model that it probes is FOLDER/../model.

    Args:
        folder: or the name of a scorer that the package carries.

    Raises:
        ModelError: a file is missing or is not of this kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        path = SCORERS.get(folder, Path(folder))
        arrays = load_file(path / "probe.safetensors")
        weights, bias = arrays["weights"].float(), float(arrays["bias"][0])
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(
            "this is no probe of a language model",
            where=f"probe:{folder}",
            found=str(error),
            fix="name a folder with probe.safetensors beside a folder `model`",
        ) from error
    model = load_policy(str(path.parent / "model"), numerics, bytes_per_parameter=4)
    return ProbeJudge(f"probe:{folder}", model, weights, bias)


def mean_states(model: Policy, texts: Sequence[Example]) -> list[Tensor]:
    """[D] for each text: the mean of its tokens' last hidden states."""

    def means(row: PackedRow) -> Tensor:
        states = hidden_states(backbone(model.model), row).float()  # [T, D]
        return torch.stack([states[span.start : span.start + span.prompt].mean(0) for span in row.spans])

    rows = over_rows(
        texts, means, lambda _: 1, row_tokens=ROW_TOKENS, numerics=model.numerics, name="probing"
    )
    return [row[0] for row in rows]


def _encode(codec: Codec, text: str) -> Example | Unreadable:
    ids = tuple(codec.tokenizer(text)["input_ids"])
    if not 0 < len(ids) <= LONGEST:
        return Unreadable(f"the text has {len(ids)} tokens, not 1 to {LONGEST}")
    return Example(ids, ())
