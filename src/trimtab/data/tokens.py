"""Records become token ids: the only place that applies a chat template and the only one that truncates.

Ids are chosen once. The prompt's ids are shared by all of its responses, and a response's ids are
those that the model would have to sample: the text that the template gives it, up to and including
the stop token. What the template writes after the stop token (SmolLM2: a line break) is dropped,
because a model that has stopped never writes it.

Left to others: which rows may be used (`formats`), how ids are laid out in rows (`data.batches`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.formats import Row
from trimtab.records import Comparison, Demonstration, Message, Prompt, Rating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Response:
    """The ids of one response."""

    ids: tuple[int, ...]
    stopped: bool
    """Whether the last id is the stop token; False where the limit cut the response."""


class Pair(NamedTuple):
    """Which of an example's responses a person preferred to which, by their places."""

    better: int
    worse: int
    strength: int | None = None
    """1 slightly, 2 clearly, 3 strongly; None where nobody said."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt's ids, and those of the responses to it: one for a demonstration, two for a pair."""

    prompt: tuple[int, ...]
    responses: tuple[Response, ...]
    weight: float = 1.0
    """What it counts beside the others in a loss: a mean over examples is a mean by weight."""
    pairs: tuple[Pair, ...] = ()
    """What was said of the responses; empty: of two, the first is the better."""
    group: str = ""
    """Pairs of one person's ranking share a group; empty for one that stands alone."""
    good: bool | None = None
    """What a person said of the only response; None where they compared, or said nothing."""

    @property
    def tokens(self) -> int:
        """Ids in all, the prompt counted once."""
        return len(self.prompt) + sum(len(response.ids) for response in self.responses)


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest sequences that a stage works with."""

    prompt: int = 192
    """Tokens of a prompt; a longer chat loses its oldest turns, a longer plain text its beginning."""
    response: int = 64
    """Tokens of a response, the stop token included; a longer one is cut and gets no stop token."""

    def __post_init__(self) -> None:
        for name in ("prompt", "response"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    "a limit is at least one token", where=f"max_{name}", found=str(getattr(self, name))
                )


Texts = tuple[tuple[str, bool], ...]
"""Responses, each with whether it came to its end."""


class UnusableRow(Exception):
    """This one row cannot become ids; the reason is the message."""


@dataclass
class Encoded:
    """Examples with the rows they came from, and what had to be cut or left out on the way."""

    examples: list[Example] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    """File and line of each example."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(where, reason) of each row that could not be used."""
    counts: Counter[str] = field(default_factory=Counter)
    """Examples whose prompt is a chat (`chats`), and how often something was cut (`prompts shortened`,
    `responses cut`)."""

    @property
    def tokens(self) -> int:
        """Ids in all, each prompt counted once."""
        return sum(example.tokens for example in self.examples)


@dataclass(frozen=True)
class Codec:
    """Text to ids and back for one model: its tokenizer, its chat template, its stop token."""

    tokenizer: PreTrainedTokenizerBase
    stop_id: int
    """The token that ends a response: learned in training, and what ends generation."""
    pad_id: int
    """Fills padded arrays for others' code; never the stop token."""

    def __post_init__(self) -> None:
        if self.stop_id == self.pad_id:
            raise ModelError(
                "the pad token is the stop token, so the stop token could not be learned",
                where=str(self.tokenizer.name_or_path),
                found=f"both are id {self.stop_id}",
                fix="choose another pad token",
            )

    @property
    def stop_text(self) -> str:
        """The stop token as the template writes it."""
        return str(self.tokenizer.convert_ids_to_tokens(self.stop_id))

    @cached_property
    def control_tokens(self) -> frozenset[str]:
        """What no person's text may spell."""
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return frozenset(special | set(self.tokenizer.all_special_tokens) | {self.stop_text})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the whole tokenizer, template and stop token: equal fingerprints give equal ids."""
        whole = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # Not its padding and truncation: they are settings of calls, and trimtab uses neither.
        rules = {key: value for key, value in whole.items() if key not in ("padding", "truncation")}
        parts = [json.dumps(rules, sort_keys=True), str(self.tokenizer.chat_template), str(self.stop_id)]
        return hashlib.sha256("\x00".join(parts).encode()).hexdigest()

    @property
    def template_hash(self) -> str:
        """SHA-256 of the chat template; empty for a model without one."""
        template = self.tokenizer.chat_template
        return hashlib.sha256(str(template).encode()).hexdigest() if template else ""

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt as the model reads it, up to where its response begins."""
        if isinstance(prompt, str):
            return prompt
        return self._render(prompt, add_generation_prompt=True)

    def response_text(self, prompt: Prompt, response: str) -> str:
        """What the model must write to give this response, its stop token last."""
        if isinstance(prompt, str):
            return response + self.stop_text
        before = self.prompt_text(prompt)
        whole = self._render((*prompt, Message("assistant", response)), add_generation_prompt=False)
        if not whole.startswith(before):
            raise ModelError(
                "the chat template rewrites the prompt once a response follows it",
                where=str(self.tokenizer.name_or_path),
                found=f"the rendered chat does not begin with the rendered prompt ({before[-40:]!r})",
                fix="use a model whose template keeps earlier turns as they were",
            )
        written, stop, _ = whole[len(before) :].rpartition(self.stop_text)
        if not stop:
            raise ModelError(
                "the chat template does not end a response with the stop token",
                where=str(self.tokenizer.name_or_path),
                found=f"{whole[len(before) :]!r} has no {self.stop_text!r}",
                fix="use a tokenizer whose template ends each assistant turn",
            )
        return written + stop

    def encode_prompt(self, prompt: Prompt, limit: int) -> tuple[tuple[int, ...], bool]:
        """Ids of the prompt, at most `limit`, and whether it had to be shortened.

        A chat loses whole turns, oldest first, a system message last of all, so that what is left
        is still a chat; plain text keeps its end.

        Raises:
            UnusableRow: the last turn alone is too long, the text holds control tokens, or is empty.
        """
        self._refuse_control_tokens(
            [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]
        )
        ids = self._ids(self.prompt_text(prompt), special=isinstance(prompt, str))
        if not ids:
            raise UnusableRow("the prompt is empty: there is no token to predict the response from")
        if len(ids) <= limit:
            return ids, False
        if isinstance(prompt, str):
            begins = ids[:1] if ids[0] == self.tokenizer.bos_token_id else ()
            return (*begins, *ids[len(ids) - limit + len(begins) :]), True
        for shorter in _without_oldest_turns(prompt):
            ids = self._ids(self.prompt_text(shorter), special=False)
            if len(ids) <= limit:
                return ids, True
        raise UnusableRow(f"the last turn alone needs {len(ids)} tokens, more than the {limit} of max_prompt")

    def encode_response(self, prompt: Prompt, response: str, limit: int, *, stopped: bool = True) -> Response:
        """Ids of the response, the stop token last; cut at `limit`, and then without a stop token.

        Args:
            stopped: False for a response that a length limit had cut before: it gets no stop token.

        Raises:
            UnusableRow: the text holds control tokens, or is empty and was cut.
        """
        self._refuse_control_tokens([response])
        ids = self._ids(self.response_text(prompt, response), special=False)
        assert ids[-1] == self.stop_id, "the response text ends with the stop token"
        if not stopped:
            ids = ids[:-1]
        if not ids:
            raise UnusableRow("the response is empty and was cut off: there is no token of it")
        return Response(ids[:limit], stopped and len(ids) <= limit)

    def decode_response(self, prompt: Prompt, ids: Iterable[int]) -> str:
        """The text of a response, without its stop token and other control tokens.

        A chat's is trimmed, as templates trim it. What continues plain text keeps the space that parts it
        from the prompt: without it, the text would be encoded to other ids.
        """
        text = self._text(ids)
        return text if isinstance(prompt, str) else text.strip()

    def decode(self, ids: Iterable[int]) -> str:
        """A response for people to read: trimmed, whatever it follows."""
        return self._text(ids).strip()

    def _text(self, ids: Iterable[int]) -> str:
        written = [token for token in ids if token != self.stop_id]  # which need not count as special
        return str(self.tokenizer.decode(written, skip_special_tokens=True))

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        if not self.tokenizer.chat_template:
            raise ModelError(
                "the data are chats, and this model's tokenizer has no chat template",
                where=str(self.tokenizer.name_or_path),
                fix="use an instruction-tuned model, or give plain text (for HH-RLHF: dialogues=raw)",
            )
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except Exception as error:  # templates are programs and raise what they like
            raise UnusableRow(f"the chat template refuses it: {error}") from error

    def _ids(self, text: str, *, special: bool) -> tuple[int, ...]:
        """`special` adds what the tokenizer puts before plain text; a template writes its own."""
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _refuse_control_tokens(self, texts: Iterable[str]) -> None:
        # A person's text that spells a control token would become one: it could close the turn
        # and speak in another role.
        for text in texts:
            for token in self.control_tokens:
                if token in text:
                    raise UnusableRow(f"the text holds the model's control token {token!r}")


def _without_oldest_turns(prompt: tuple[Message, ...]) -> Iterable[tuple[Message, ...]]:
    """The chat with ever fewer turns: the oldest leave first, then the system message."""
    system = prompt[:1] if prompt[0].role == "system" else ()
    turns = prompt[len(system) :]
    for first in range(1, len(turns)):
        if turns[first].role == "user":  # templates expect the user to begin
            yield (*system, *turns[first:])
    if system and turns and turns[-1].role == "user":
        yield turns[-1:]


def encode_comparisons(codec: Codec, rows: Iterable[Row[Comparison]], limits: Limits) -> Encoded:
    """Each decided comparison as an example whose first response is the chosen one.

    Ties, undecided pairs, and pairs that the limits made equal are left out with the reason. The pairs
    of one ranking share the weight of one judgment: docs/math.md#ranking.
    """
    rows = list(rows)
    sizes = Counter(row.record.group for row in rows if row.record.decided)

    def encode(comparison: Comparison) -> tuple[Prompt, Texts]:
        if not comparison.decided:
            raise UnusableRow("no winner: a tie, or not yet judged")
        return comparison.prompt, comparison.pair

    def judged(comparison: Comparison) -> dict[str, Any]:
        assert comparison.verdict is not None, "encode has refused it"
        return {
            "weight": 1 / sizes[comparison.group] if comparison.group else 1.0,
            "pairs": (Pair(0, 1, comparison.verdict.strength),),
            "group": comparison.group,
        }

    return _encode(codec, rows, limits, encode, judged)


def encode_ratings(
    codec: Codec, rows: Iterable[Row[Rating]], limits: Limits, *, good_from: int | None
) -> Encoded:
    """Each rated response as an example with one response and the label.

    Args:
        good_from: grades from this on are good, lower ones bad; None: graded responses are left out.
    """

    def encode(rating: Rating) -> tuple[Prompt, Texts]:
        if rating.grade is not None and good_from is None:
            raise UnusableRow("a grade, and good_from does not say from which grade on a response is good")
        return rating.prompt, ((rating.response, True),)

    def label(rating: Rating) -> bool:
        return bool(rating.label) if rating.grade is None else rating.grade >= (good_from or 0)

    encoded = _encode(codec, rows, limits, encode, lambda rating: {"good": label(rating)})
    for example in encoded.examples:
        encoded.counts["good" if example.good else "bad"] += 1
    return encoded


def encode_demonstrations(codec: Codec, rows: Iterable[Row[Demonstration]], limits: Limits) -> Encoded:
    """Each demonstration as an example with one response."""
    return _encode(codec, rows, limits, lambda shown: (shown.prompt, ((shown.response, True),)))


def encode_prompts(codec: Codec, rows: Iterable[Row[Prompt]], limits: Limits) -> Encoded:
    """Each prompt as an example without a response."""
    return _encode(codec, rows, limits, lambda prompt: (prompt, ()))


def _encode(
    codec: Codec,
    rows: Iterable[Row[Any]],
    limits: Limits,
    parts: Callable[[Any], tuple[Prompt, Texts]],
    judged: Callable[[Any], dict[str, Any]] = lambda record: {},
) -> Encoded:
    encoded = Encoded()
    for row in rows:
        try:
            prompt, responses = parts(row.record)
            prompt_ids, shortened = codec.encode_prompt(prompt, limits.prompt)
            encodings = tuple(
                codec.encode_response(prompt, text, limits.response, stopped=stopped)
                for text, stopped in responses
            )
            if len(encodings) == 2 and encodings[0].ids == encodings[1].ids:
                raise UnusableRow(f"the responses are the same in their first {limits.response} tokens")
        except UnusableRow as error:
            encoded.left_out.append((row.where, str(error)))
            continue
        encoded.examples.append(Example(prompt_ids, encodings, **judged(row.record)))
        encoded.wheres.append(row.where)
        encoded.counts["chats"] += not isinstance(prompt, str)
        encoded.counts["prompts shortened"] += shortened
        encoded.counts["responses cut"] += sum(not response.stopped for response in encodings)
    if not encoded.examples:
        reasons = Counter(reason for _, reason in encoded.left_out).most_common(1)
        raise DataError(
            "no row can be used",
            where=encoded.left_out[0][0] if encoded.left_out else "",
            found=f"{len(encoded.left_out)} rows; most often: {reasons[0][0]}"
            if reasons
            else "no rows at all",
            fix="look at the data with `trimtab data check`, or raise max_prompt",
        )
    return encoded
