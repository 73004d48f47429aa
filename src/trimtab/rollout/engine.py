"""A plain sampler: prompts in groups, one prefill, then one token a row at each step.

Dimensions: B = rows that are decoded together, V = vocabulary, D = model size. Unit: nats.

Left out on purpose: refilling a group with new prompts, sharing a prompt among its samples, CUDA
graphs. A faster engine replaces this one behind `types.Engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.data.batches import micro_batches, pack
from trimtab.data.tokens import Example, Response
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.model.policy import backbone, head
from trimtab.rollout.cache import DecodeLayout, KeyValueStore, PrefillLayout
from trimtab.rollout.sample import Drawn, draw
from trimtab.rollout.types import Rollout, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFILL_TOKENS = 2048
"""Prompt tokens that go through the model at once; a longer prompt goes alone."""
FEWEST_ROWS, MOST_ROWS = 32, 256
DECODE_POSITIONS = 8192
"""Positions that rows decoded together have in all, unless that would be fewer than the fewest rows."""


class Sampler:
    """Samples from a transformers model that has trimtab's attention (an `Engine`).

    The model is read anew at every call, so that it may be trained in between. Calls leave it as
    it was: same weights, same modes, and nothing computed here is seen by autograd.

    Args:
        model: built with `attn_implementation="trimtab"`.
        autocast: the type that matrix products are computed in; None for the model's own.
        batch: rows that are decoded together, at most; None chooses by their length.
        progress: called with the number of responses that have just ended.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        autocast: torch.dtype | None = None,
        batch: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise ConfigError("a batch has at least one row", where="batch", found=str(batch))
        self._model = model
        self._autocast = autocast
        self._batch = batch
        self._progress = progress

    def sample(
        self, prompts: Sequence[tuple[int, ...]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Rollout]:
        """One rollout a prompt, in order; what a request draws depends on its own seed alone.

        Raises:
            ValueError: not one seed a prompt.
            DataError: a prompt without tokens.
            ModelError: more positions than the model has, or logits that are not numbers.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"one seed a prompt: {len(seeds)} seeds for {len(prompts)} prompts")
        batch = self._batch or _batch(self._longest(prompts, sampling))
        # Prompts of about the same length decode together: a group's attention spans its longest row.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        rollouts: dict[int, Rollout] = {}
        # Not inference_mode: there autocast would cast every weight anew at every step.
        with torch.no_grad(), _evaluating(self._model), self._numerics():
            decoder = _Decoder(self._model, self._autocast or self._model.dtype)
            for first in range(0, len(order), batch):
                group = order[first : first + batch]
                requests = [_Request(prompts[index], sampling, seeds[index]) for index in group]
                self._run(decoder, requests, sampling)
                rollouts |= {i: request.rollout for i, request in zip(group, requests, strict=True)}
        return [rollouts[index] for index in range(len(prompts))]

    def _run(self, decoder: _Decoder, requests: Sequence[_Request], sampling: Sampling) -> None:
        """Sample all of the requests, side by side, to their ends."""
        group = _Group(requests, sampling, decoder)
        states = decoder.prefill([request.prompt for request in requests], group.store)
        while True:
            drawn = draw(
                decoder.logits(states),
                group.uniforms[:, group.step],
                temperature=sampling.temperature,
                top_p=sampling.top_p,
            )
            ended = group.record(drawn)
            if ended and self._progress:
                self._progress(ended)
            if not group.running:
                return
            tokens = group.compact(drawn.tokens)
            states = decoder.decode(tokens, group.lengths, group.store)
            group.lengths += 1

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
    def _numerics(self) -> Iterator[None]:
        """The engine's own autocast, whatever the caller's is.

        One context holds all steps, because autocast keeps the weights that it has cast until its
        outermost context ends. Inside a caller's autocast they would outlive this one, and be stale
        after the next optimizer step: hence the clearing.
        """
        device = self._model.device.type
        try:
            with torch.autocast(device, dtype=self._autocast, enabled=self._autocast is not None):
                yield
        finally:
            torch.clear_autocast_cache()


def _batch(positions: int) -> int:
    """How many rows of so many positions decode together: short ones waste a matrix product when few do."""
    return max(FEWEST_ROWS, min(MOST_ROWS, DECODE_POSITIONS // positions))


@dataclass
class _Request:
    """One prompt and what has been drawn for it."""

    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        return bool(self.ids) and self.ids[-1] in self.sampling.stop_ids

    @property
    def running(self) -> bool:
        return not self.stopped and len(self.ids) < self.sampling.max_new

    @property
    def rollout(self) -> Rollout:
        return Rollout(self.prompt, Response(tuple(self.ids), self.stopped), tuple(self.logprobs))

    def uniforms(self) -> Tensor:
        """[max_new] float64: all that this request will ever draw, whatever happens beside it."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.sampling.max_new, generator=generator, dtype=torch.float64)


class _Group:
    """Requests that are decoded together: request i is row i of the store, the lengths and the uniforms."""

    def __init__(self, requests: Sequence[_Request], sampling: Sampling, decoder: _Decoder) -> None:
        lengths = [len(request.prompt) for request in requests]
        # The last token drawn is never read, so it needs no room.
        self.store = KeyValueStore(len(requests), max(lengths) + sampling.max_new - 1, decoder.dtype)
        self.requests = list(requests)
        self.lengths = torch.tensor(lengths, device=decoder.device)  # [B]
        self.uniforms = torch.stack([request.uniforms() for request in requests]).to(decoder.device)
        self.step = 0

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return sum(request.running for request in self.requests)

    def record(self, drawn: Drawn) -> int:
        """Give each running request its token, and return how many have ended by it."""
        before = self.running
        rows = zip(self.requests, drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True)
        for request, token, logprob in rows:
            if request.running:
                request.ids.append(token)
                request.logprobs.append(logprob)
        self.step += 1
        return before - self.running

    def compact(self, tokens: Tensor) -> Tensor:
        """Let ended rows leave once they are half of the batch or more; the tokens [B] of those that stay.

        Until then they cost less than copying the store: they are computed, and not recorded.
        """
        if 2 * self.running > len(self.requests):
            return tokens
        stay = [row for row, request in enumerate(self.requests) if request.running]
        rows = torch.tensor(stay, device=tokens.device)
        self.requests = [self.requests[row] for row in stay]
        self.store.keep(rows)
        self.lengths, self.uniforms = self.lengths[rows], self.uniforms[rows]
        return tokens[rows]


class _Decoder:
    """The model as two functions: prompts to states, and one more token a row to states."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        weight, bias = head(model)
        self._backbone: nn.Module = backbone(model)
        exact = torch.promote_types(weight.dtype, torch.float32)
        self._weight = weight.to(exact)
        self._bias = None if bias is None else bias.to(exact)
        self.dtype = dtype
        self.device: torch.device = model.device

    def prefill(self, prompts: Sequence[tuple[int, ...]], store: KeyValueStore) -> Tensor:
        """The state of each prompt's last token: [B, D]; prompt i fills row i of the store."""
        examples = [Example(prompt, ()) for prompt in prompts]
        places: list[int] = []
        states: list[Tensor] = []
        for chunk in micro_batches(examples, PREFILL_TOKENS):
            row = pack([examples[index] for index in chunk]).to(self.device)
            layout = PrefillLayout(store, row.spans, tuple(chunk))
            output = self._forward(row.input_ids, row.position_ids, layout)  # [1, T, D]
            states.append(output[0, [span.start + span.prompt - 1 for span in row.spans]])
            places += chunk
        return torch.cat(states)[torch.tensor(places, device=self.device).argsort()]

    def decode(self, tokens: Tensor, lengths: Tensor, store: KeyValueStore) -> Tensor:
        """The states [B, D] of tokens [B] that follow `lengths` [B] earlier ones."""
        layout = DecodeLayout(store, lengths)
        return self._forward(tokens[:, None], lengths[:, None], layout)[:, 0]

    def logits(self, states: Tensor) -> Tensor:
        """[B, V] float32 (float64 for a float64 model), as the log-probability path computes them."""
        with torch.autocast(self.device.type, enabled=False):
            return F.linear(states.to(self._weight.dtype), self._weight, self._bias)

    def _forward(self, ids: Tensor, positions: Tensor, layout: PrefillLayout | DecodeLayout) -> Tensor:
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
