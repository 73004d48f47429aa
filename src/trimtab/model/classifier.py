"""Any sequence classification model of transformers, read padded and with its own tokenizer and template.

What trimtab has trained goes through `model.scalar`. This is the way for all others. Each text gets the score
that transformers gives it alone: the whole rendered chat, and every field that the tokenizer writes for it.

Dimensions: A = texts of a batch, T = tokens of the longest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from trimtab.data.tokens import UnusableRow
from trimtab.errors import ModelError
from trimtab.model import load
from trimtab.model.device import Numerics, require_memory
from trimtab.model.names import resolve
from trimtab.model.reading import brief, reading
from trimtab.records import Message, Prompt, prompt_text
from trimtab.runs import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 4096
"""Tokens of a text at most, where neither model nor tokenizer says less."""
BATCH_TOKENS = 4096
"""Padded tokens that go through the model at once."""

Encoding = dict[str, list[int]]
"""What the model reads of one text: input_ids, attention_mask, and where it has them token_type_ids."""


@dataclass(frozen=True)
class Classifier:
    """A model with a classification head of one label, or of two: then the log-odds of the second."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    numerics: Numerics
    source: str
    """What it was loaded from."""

    def encode(self, prompt: Prompt, text: str) -> Encoding:
        """What the model reads: its chat template where it has one, else prompt and text as a pair.

        Raises:
            UnusableRow: a text holds control tokens, the template refuses it, or it is longer than the model
                can read.
        """
        turns = [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]
        self._refuse_control_tokens([*turns, text])
        if self.tokenizer.chat_template:
            found = self.tokenizer(self._rendered(prompt, text), add_special_tokens=False)
        else:
            found = self.tokenizer(prompt_text(prompt), text)
        length = len(found["input_ids"])
        if not length:
            raise UnusableRow("there is no token of it to read")
        if length > self.longest:
            raise UnusableRow(
                f"prompt and response have {length} tokens together, more than the {self.longest} that this "
                "judge reads"
            )
        whole = {"attention_mask": [1] * length, **found}
        return {name: list(values) for name, values in whole.items() if name in self._fields}

    @cached_property
    def longest(self) -> int:
        """Tokens that the model can read."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 0
        said = [self.tokenizer.model_max_length, positions - _reserved_positions(self.model)]
        return min([LONGEST, *(int(length) for length in said if 0 < length < 1_000_000)])

    @cached_property
    def control_tokens(self) -> frozenset[str]:
        """What no person's text may spell: special tokens, and others that the template writes."""
        template = str(self.tokenizer.chat_template or "")
        added = self.tokenizer.added_tokens_decoder.values()
        special = {str(one) for one in added if one.special or (str(one).strip() and str(one) in template)}
        return frozenset(special | set(self.tokenizer.all_special_tokens))

    @cached_property
    def _fields(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.forward).parameters)

    def _rendered(self, prompt: Prompt, text: str) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(_chat(prompt, text), tokenize=False))
        except Exception as error:  # templates are programs and raise what they like
            raise UnusableRow(f"the chat template refuses it: {brief(error)}") from error

    def _refuse_control_tokens(self, texts: Sequence[str]) -> None:
        # As in data.tokens: such a text could close its turn and speak in another role.
        for text in texts:
            for token in self.control_tokens:
                if token in text:
                    raise UnusableRow(f"the text holds the model's control token {token!r}")


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
    _widen_head(model, numerics)
    return Classifier(model, tokenizer, numerics, source)


def _widen_head(model: PreTrainedModel, numerics: Numerics) -> None:
    """Keep what follows the backbone out of autocast: in bfloat16, close scores would become equal ones."""
    for part in model.children():
        if part is not model.base_model:
            part.forward = _in_float32(part, numerics.device)


def _in_float32(part: nn.Module, device: torch.device) -> Callable[..., Any]:
    forward = part.forward

    def wide(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, enabled=False):
            return forward(*map(_wide, inputs), **{name: _wide(value) for name, value in named.items()})

    return wide


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _reserved_positions(model: PreTrainedModel) -> int:
    """Rows of the position embedding that no token gets: RoBERTa's kind begins after its padding's row."""
    return max(
        (
            part.padding_idx + 1
            for name, part in model.named_modules()
            if isinstance(part, nn.Embedding)
            and name.endswith("position_embeddings")
            and part.padding_idx is not None
        ),
        default=0,
    )


@torch.no_grad()
def scores(classifier: Classifier, encoded: Sequence[Encoding]) -> list[float]:
    """The score of each encoded text, in order, with a bar."""
    found = [0.0] * len(encoded)
    with progress.bar("scoring", len(encoded), unit="answers") as bar:
        for group in _batches([len(one["input_ids"]) for one in encoded]):
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


def _logits(classifier: Classifier, rows: Sequence[Encoding]) -> Tensor:
    """[A, labels] float32."""
    filler = _filler(classifier.model, rows)
    if filler is None:
        return torch.cat([_forward(classifier, [row], filler=0) for row in rows])
    with _pad_id(classifier.model, filler):
        return _forward(classifier, rows, filler=filler)


def _filler(model: PreTrainedModel, rows: Sequence[Encoding]) -> int | None:
    """The id that transformers' decoders do not take for a text's last token.

    The model's own; where it has none, one that is in none of the rows; None where there is no such id.
    """
    own, size = _config_pad(model), model.get_input_embeddings().num_embeddings
    if own is not None and 0 <= own < size:
        return own
    used = {token for row in rows for token in row["input_ids"]}
    return next((token for token in range(size) if token not in used), None)


def _config_pad(model: PreTrainedModel) -> int | None:
    number: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)
    return number


@contextmanager
def _pad_id(model: PreTrainedModel, filler: int) -> Iterator[None]:
    """Tell the model for a while what its batches are filled with."""
    config, own = model.config.get_text_config(), _config_pad(model)
    config.pad_token_id = filler
    try:
        yield
    finally:
        config.pad_token_id = own


def _forward(classifier: Classifier, rows: Sequence[Encoding], *, filler: int) -> Tensor:
    """[A, labels] float32 of rows padded on the right to [A, T]."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": filler, "token_type_ids": classifier.tokenizer.pad_token_type_id}
    device = classifier.numerics.device
    fields = {
        name: torch.tensor(
            [[*row[name], *[fill.get(name, 0)] * (longest - len(row[name]))] for row in rows], device=device
        )
        for name in rows[0]
    }
    with classifier.numerics.autocast():
        logits: Tensor = classifier.model(**fields).logits
    return logits.float().cpu()


def _one_number(logits: Tensor) -> Tensor:
    """[A]: the one label's logit, or the log-odds of the second of two."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
