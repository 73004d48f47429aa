"""Sampling from a transformers model: packed prefill, then one token a row at each step.

Dimensions: B = rows that are decoded together, V = vocabulary, D = model size. Unit: nats.

A response that has ended leaves at once and a waiting prompt takes its row; several samples of one prompt
read it once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.data.batches import micro_batches, pack
from trimtab.data.tokens import Example
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.model.policy import backbone, head
from trimtab.rollout.cache import DecodeLayout, KeyValueStore, PrefillLayout
from trimtab.rollout.lean import LeanPass, Matrix
from trimtab.rollout.sample import draw
from trimtab.rollout.slots import Request, Slots
from trimtab.rollout.text import Decode, Stops
from trimtab.rollout.types import Rollout, Sampling
from trimtab.rollout.weights import digest
from trimtab.runs.phases import timed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFILL_TOKENS = 2048
"""Prompt tokens that go through the model at once; a longer prompt goes alone."""
FEWEST_ROWS, MOST_ROWS = 32, 256
DECODE_POSITIONS = 8192
"""Positions that rows decoded together have in all, unless that would be fewer than the fewest rows."""

REFILL = 8
"""Prompts are read once this part of the rows is free: few at a time would waste a pass each."""
ROUNDING = 0.1
"""Of the states' size: far above what another order of the same bfloat16 operations changes (in the tests'
small models under 0.05), far below what another computation does."""
_GIVES_THE_SAME: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a backbone's lean pass gives what its own modules give: asked at its first prompts."""


class Sampler:
    """Samples from a transformers model that has trimtab's attention (an `Engine`).

    The model is read anew at every call, so that it may be trained in between. Calls leave it as
    it was: same weights, same modes, and nothing computed here is seen by autograd.

    Args:
        model: built with `attn_implementation="trimtab"`.
        autocast: the type that matrix products are computed in; None for the model's own.
        batch: rows that are decoded together, at most; None chooses by their length.
        progress: called with the number of responses that have just ended.
        decode: ids of a response to its text, untrimmed; needed for stop strings alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        autocast: torch.dtype | None = None,
        batch: int | None = None,
        progress: Callable[[int], None] | None = None,
        decode: Decode | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise ConfigError("a batch has at least one row", where="batch", found=str(batch))
        self._model = model
        self._autocast = autocast
        self._batch = batch
        self._progress = progress
        self._decode = decode

    def sample(
        self, prompts: Sequence[tuple[int, ...]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Rollout]:
        """One rollout a prompt, in order; what a request draws depends on its own seed alone.

        Raises:
            ValueError: not one seed a prompt.
            DataError: a prompt without tokens.
            ModelError: more positions than the model has, or logits that are not numbers.
            ConfigError: stop strings, and no `decode`.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"one seed a prompt: {len(seeds)} seeds for {len(prompts)} prompts")
        positions = self._longest(prompts, sampling)
        requests = [
            self._request(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        with self._computing():
            with timed("sync"):
                decoder = _Decoder(self._model, self._autocast, digest(self._model))
            for ended in self._steps(decoder, sorted(requests, key=_by_prompt), sampling, positions):
                if ended and self._progress:
                    self._progress(ended)
        return [request.rollout(decoder.made_from) for request in requests]

    def stream(self, prompt: tuple[int, ...], sampling: Sampling, seed: int) -> Iterator[int]:
        """The ids of one response as they are drawn: those that `sample` gives for this prompt and seed.

        Between two ids everything is as the caller left it (modes, autocast, gradients), so that a caller may
        stop early. Weights must not move before the last one: which of them are seen is not said. Under
        `autocast`, a model without a lean pass rounds its weights anew for each id.

        Raises:
            DataError, ModelError, ConfigError: as `sample`; at once, but for logits that are not numbers.
        """
        positions = self._longest([prompt], sampling)
        return self._drawn(self._request(prompt, sampling, seed), positions)

    def _drawn(self, request: Request, positions: int) -> Iterator[int]:
        with self._computing(), timed("sync"):
            decoder = _Decoder(self._model, self._autocast, "")  # nobody is told
        steps = self._steps(decoder, [request], request.sampling, positions)
        while request.running:
            with self._computing():
                next(steps)
            yield request.ids[-1]

    def _request(self, prompt: tuple[int, ...], sampling: Sampling, seed: int) -> Request:
        if not sampling.stop_strings:
            return Request(prompt, sampling, seed)
        if self._decode is None:
            raise ConfigError(
                "stop strings are text, and this sampler knows ids alone",
                where="stop_strings",
                found=", ".join(map(repr, sampling.stop_strings)),
                fix="give the Sampler a `decode`, or stop at tokens (stop_ids)",
            )
        return Request(prompt, sampling, seed, Stops(sampling.stop_strings, self._decode))

    def _steps(
        self, decoder: _Decoder, requests: Sequence[Request], sampling: Sampling, positions: int
    ) -> Iterator[int]:
        """Sample all of the requests to their ends; how many have ended, after each step."""
        if not requests:
            return
        rows = min(self._batch or _batch(positions), len(requests))
        # The last token drawn is never read, so it needs no room.
        store = KeyValueStore(rows, positions - 1, decoder.dtype)
        slots = Slots(store, sampling, decoder.vocabulary, decoder.device)
        waiting = deque(requests)
        while waiting or slots.requests:
            refill = bool(waiting) and slots.free >= max(rows // REFILL, 1)
            with timed("prefill" if refill else "decode"):
                if refill:
                    fresh = [waiting.popleft() for _ in range(min(slots.free, len(waiting)))]
                    states, drawn_for = decoder.prefill_shared(slots, fresh)
                else:
                    states, drawn_for = decoder.decode(slots), slice(0, len(slots.requests))
                logits = decoder.logits(states)
                drawn = draw(logits, slots.uniforms(drawn_for), sampling, slots.seen(drawn_for))
                ended = slots.record(drawn_for, drawn)
            yield ended

    def _longest(self, prompts: Sequence[tuple[int, ...]], sampling: Sampling) -> int:
        """Positions of the longest prompt and its response."""
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise DataError("a prompt without tokens cannot be continued", where=f"prompt {index}")
        room = getattr(self._model.config, "max_position_embeddings", None)
        needed = max(map(len, prompts), default=0) + sampling.max_new
        if room is not None and needed > room:
            raise ModelError(
                "prompt and response together are longer than the model can read",
                where=str(self._model.config.name_or_path),
                found=f"{needed} tokens, {sampling.max_new} of them new; the model has {room} positions",
                fix="lower max_prompt or max_new",
            )
        return needed

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, evaluation mode and the engine's own arithmetic."""
        # Not inference_mode: there autocast would cast every weight anew at every step.
        with torch.no_grad(), _evaluating(self._model), self._numerics():
            yield

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        """The engine's own autocast, whatever the caller's is.

        One context holds all steps of `sample`, because autocast keeps the weights that it has cast until its
        outermost context ends. Inside a caller's autocast they would outlive this one, and be stale
        after the next optimizer step: hence the clearing.
        """
        device = self._model.device.type
        try:
            with torch.autocast(device, dtype=self._autocast, enabled=self._autocast is not None):
                yield
        finally:
            torch.clear_autocast_cache()


def _by_prompt(request: Request) -> tuple[int, tuple[int, ...]]:
    """Prompts of about the same length decode together: attention spans the longest row. Equal ones share."""
    return len(request.prompt), request.prompt


def _batch(positions: int) -> int:
    """How many rows of so many positions decode together: short ones waste a matrix product when few do."""
    return max(FEWEST_ROWS, min(MOST_ROWS, DECODE_POSITIONS // positions))


class _Decoder:
    """The model as two functions: prompts to states, and one more token a row to states.

    Args:
        made_from: the digest of the model's weights as they are.
    """

    def __init__(self, model: PreTrainedModel, autocast: torch.dtype | None, made_from: str) -> None:
        weight, bias = head(model)
        self._backbone: nn.Module = backbone(model)
        self._lean: LeanPass | None = None
        if autocast is not None and _GIVES_THE_SAME.get(self._backbone, True):
            self._lean = LeanPass.of(self._backbone, autocast, made_from)
        self._made_from = made_from
        self._exact = torch.promote_types(weight.dtype, torch.float32)
        weight, bias = weight.to(self._exact), None if bias is None else bias.to(self._exact)
        # Packed only beside the lean pass: a second table is worth its memory where all else is fast.
        self._head = (
            partial(F.linear, weight=weight, bias=bias) if self._lean is None else Matrix(weight, bias)
        )
        self.vocabulary = len(weight)
        self.dtype = autocast or model.dtype
        self.device: torch.device = model.device

    @property
    def made_from(self) -> str:
        """The digest of the weights that its copies were made from."""
        return self._made_from if self._lean is None else self._lean.made_from

    def prefill(
        self, prompts: Sequence[tuple[int, ...]], rows: Sequence[int], store: KeyValueStore
    ) -> Tensor:
        """The state of each prompt's last token, [n, D]; prompt i fills row `rows[i]` of the store."""
        examples = [Example(prompt, ()) for prompt in prompts]
        places: list[int] = []
        states: list[Tensor] = []
        for chunk in micro_batches(examples, PREFILL_TOKENS):
            row = pack([examples[index] for index in chunk]).to(self.device)
            layout = PrefillLayout(store, row.spans, tuple(rows[index] for index in chunk))
            output = self._forward(row.input_ids, row.position_ids, layout)  # [1, T, D]
            states.append(output[0, [span.start + span.prompt - 1 for span in row.spans]])
            places += chunk
        return torch.cat(states)[torch.tensor(places, device=self.device).argsort()]

    def prefill_shared(self, slots: Slots, requests: Sequence[Request]) -> tuple[Tensor, slice]:
        """Take requests into rows of their own: the states [n, D] of their last tokens, and the rows.

        Each prompt is read once, whatever the number of its samples.
        """
        rows = slots.add(requests)
        first: dict[tuple[int, ...], int] = {}
        for row, request in enumerate(requests, start=rows.start):
            first.setdefault(request.prompt, row)
        states = self.prefill(list(first), list(first.values()), slots.store)
        if len(first) == len(requests):
            return states, rows
        places = {prompt: place for place, prompt in enumerate(first)}
        repeats = [
            row for row, request in enumerate(requests, start=rows.start) if first[request.prompt] != row
        ]
        of = [first[slots.requests[row].prompt] for row in repeats]
        slots.store.copy(*(torch.tensor(one, device=self.device) for one in (of, repeats)))
        return states[[places[request.prompt] for request in requests]], rows

    def decode(self, slots: Slots) -> Tensor:
        """The states [N, D] of the running requests' last tokens."""
        layout = DecodeLayout(slots.store, slots.lengths)
        states = self._forward(slots.tokens[:, None], slots.lengths[:, None], layout)[:, 0]
        slots.read()
        return states[: len(slots.requests)]

    def logits(self, states: Tensor) -> Tensor:
        """[B, V] float32 (float64 for a float64 model), as the log-probability path computes them."""
        with torch.autocast(self.device.type, enabled=False):
            return self._head(states.to(self._exact))

    def _forward(self, ids: Tensor, positions: Tensor, layout: PrefillLayout | DecodeLayout) -> Tensor:
        if self._lean is None:
            return self._by_modules(ids, positions, layout)
        if self._backbone not in _GIVES_THE_SAME:
            expected = self._by_modules(ids, positions, layout)
            torch.clear_autocast_cache()
            apart = self._lean(ids, positions, layout).sub_(expected)
            _GIVES_THE_SAME[self._backbone] = bool(apart.norm() <= ROUNDING * expected.norm())
            if not _GIVES_THE_SAME[self._backbone]:
                self._lean = None
                return self._by_modules(ids, positions, layout)
        return self._lean(ids, positions, layout)

    def _by_modules(self, ids: Tensor, positions: Tensor, layout: PrefillLayout | DecodeLayout) -> Tensor:
        output = self._backbone(input_ids=ids, position_ids=positions, layout=layout, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout and checkpointing off; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
