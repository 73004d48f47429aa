"""Any sequence classification model of transformers, read padded and with its own tokenizer and template.

What trimtab can pack goes through `model.scalar`. This is the way for all others: encoders of the BERT kind,
and heads that are not one linear layer.

Dimensions: A = texts of a batch, T = tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import AutoTokenizer

from trimtab.errors import ModelError
from trimtab.model import load
from trimtab.model.device import Numerics, require_memory
from trimtab.model.names import resolve
from trimtab.model.reading import reading
from trimtab.records import Message, Prompt, prompt_text
from trimtab.runs import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 2048
"""Tokens of a text at most, where neither model nor tokenizer says less."""
BATCH_TOKENS = 4096
"""Padded tokens that go through the model at once."""


@dataclass(frozen=True)
class Classifier:
    """A model with a classification head of one label, or of two: then the log-odds of the second."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    numerics: Numerics
    source: str
    """What it was loaded from."""

    def ids(self, prompt: Prompt, text: str) -> list[int]:
        """What the model reads: its chat template where it has one, else prompt and text as a pair.

        Longer than the model can read: the beginning of the prompt is left out.
        """
        if self.tokenizer.chat_template:
            whole = self.tokenizer.apply_chat_template(_chat(prompt, text), tokenize=False)
            return self._plain(str(whole))[-self.longest :]
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        room = max(self.longest - special - len(self._plain(text)), 0)
        pair = self.tokenizer(
            self._end_of(prompt_text(prompt), room), text, truncation="longest_first", max_length=self.longest
        )
        return list(pair["input_ids"])

    @property
    def longest(self) -> int:
        """Tokens that the model can read."""
        said = [self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 0)]
        return min([LONGEST, *(int(length) for length in said if length and length < 1_000_000)])

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _end_of(self, text: str, tokens: int) -> str:
        """As much of the end of `text` as `tokens` tokens hold."""
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        if len(offsets) <= tokens:
            return text
        return text[offsets[-tokens][0] :] if tokens else ""


def load_classifier(source: str, numerics: Numerics) -> Classifier:
    """Load a model and its tokenizer for scoring: float32, without dropout, safetensors only.

    Raises:
        ModelError: it cannot be read, has no classification head, or one of more than two labels.
        ResourceError: it would not fit into memory.
    """
    require_memory(numerics.device, load.parameter_count(source) * 4, source)
    model = load.load_classifier(source, device=numerics.device)
    if model.config.num_labels not in (1, 2):
        raise ModelError(
            "this model gives neither a score nor a choice of two",
            where=source,
            found=f"{model.config.num_labels} labels",
            fix="name a model with one label (a score) or two (bad, good)",
        )
    with reading("the tokenizer", resolve(source)):
        tokenizer = AutoTokenizer.from_pretrained(resolve(source), trust_remote_code=False)
    if model.config.pad_token_id is None:  # by which transformers' decoders find a text's last token
        model.config.pad_token_id = _pad(tokenizer)
    return Classifier(model, tokenizer, numerics, source)


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id or 0)


@torch.no_grad()
def scores(classifier: Classifier, texts: Sequence[tuple[Prompt, str]]) -> list[float]:
    """The score of each text as an answer to its prompt, in order, with a bar."""
    encoded = [classifier.ids(prompt, text) for prompt, text in texts]
    found = [0.0] * len(texts)
    with progress.bar("scoring", len(texts), unit="answers") as bar:
        for group in _batches([len(ids) for ids in encoded]):
            logits = _logits(classifier, [encoded[index] for index in group])
            for index, value in zip(group, _one_number(logits).tolist(), strict=True):
                found[index] = value
            bar.advance(len(group))
    return found


def _chat(prompt: Prompt, text: str) -> list[dict[str, str]]:
    """The prompt's turns, plain text being one of a user, and the text as the assistant's."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [{"role": turn.role, "content": turn.content} for turn in (*turns, Message("assistant", text))]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of texts of like length, so that little is padded."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if group and lengths[group[0]] * (len(group) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _logits(classifier: Classifier, rows: Sequence[Sequence[int]]) -> Tensor:
    """[A, labels] float32, right-padded and masked."""
    pad = _pad(classifier.tokenizer)
    longest = max(len(ids) for ids in rows)
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(longest)[None, :] < lengths[:, None]
    device = classifier.numerics.device
    with classifier.numerics.autocast():
        logits: Tensor = classifier.model(
            input_ids=ids.to(device), attention_mask=mask.long().to(device)
        ).logits
    return logits.float().cpu()


def _one_number(logits: Tensor) -> Tensor:
    """[A]: the one label's logit, or the log-odds of the second of two."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
