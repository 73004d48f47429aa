"""Which requests are decoded together: those that have ended leave, others take their rows.

Dimensions: B = rows that are decoded, always the first of the store, N of them running; V = vocabulary.

The running requests are the first N rows. One that ends gives its row to the last running one, so nothing
is decoded that nobody waits for, but for what rounds N up to a size that has been decoded before
(`bucket`): a kernel is compiled for each number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.data.tokens import Response
from trimtab.rollout.cache import KeyValueStore
from trimtab.rollout.sample import Drawn
from trimtab.rollout.text import Stops
from trimtab.rollout.types import Rollout, Sampling


@dataclass
class Request:
    """One prompt and what has been drawn for it."""

    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int
    stops: Stops | None = None
    """Watches for the sampling's stop strings; None where there are none."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False
    """Whether a stop token or a stop string ended it."""

    def take(self, token: int, logprob: float) -> None:
        """The next token, with its nats."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        spelled = self.stops is not None and self.stops.complete(token)
        self.stopped = spelled or token in self.sampling.stop_ids

    @property
    def running(self) -> bool:
        """Whether another token is to be drawn."""
        return not self.stopped and len(self.ids) < self.sampling.max_new

    def rollout(self, drawn_from: str) -> Rollout:
        """What has been drawn, as callers get it, from the weights of this digest."""
        response = Response(tuple(self.ids), self.stopped)
        return Rollout(self.prompt, response, tuple(self.logprobs), drawn_from=drawn_from)

    def uniforms(self) -> Tensor:
        """[max_new] float64: all that this request will ever draw, whatever happens beside it."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.sampling.max_new, generator=generator, dtype=torch.float64)


def bucket(rows: int) -> int:
    """The number of rows that so many are decoded as: 1, 2, 3, 4, 6, 8, 12, 16, ..., at most half more."""
    size = 1 << (rows - 1).bit_length()
    smaller = 3 * size // 4
    return smaller if size >= 4 and smaller >= rows else size


class Slots:
    """Requests in the rows of a store: request i is in row i.

    Args:
        store: of as many rows as are decoded together at most.
        sampling: of every request.
        vocabulary: V.
    """

    def __init__(
        self, store: KeyValueStore, sampling: Sampling, vocabulary: int, device: torch.device
    ) -> None:
        self.store = store
        self.requests: list[Request] = []
        self._lengths = torch.zeros(store.rows, dtype=torch.long, device=device)
        self._tokens = torch.zeros(store.rows, dtype=torch.long, device=device)
        self._steps = torch.zeros(store.rows, dtype=torch.long, device=device)
        self._uniforms = torch.zeros(store.rows, sampling.max_new, dtype=torch.float64, device=device)
        penalised = sampling.repetition_penalty > 1
        self._seen = (
            torch.zeros(store.rows, vocabulary, dtype=torch.bool, device=device) if penalised else None
        )

    @property
    def free(self) -> int:
        """Rows that no request is in."""
        return self.store.rows - len(self.requests)

    @property
    def rows(self) -> int:
        """B: how many rows the next step decodes."""
        return min(bucket(len(self.requests)), self.store.rows)

    @property
    def tokens(self) -> Tensor:
        """[B] drawn last, and read next."""
        return self._tokens[: self.rows]

    @property
    def lengths(self) -> Tensor:
        """[B] positions that are filled."""
        return self._lengths[: self.rows]

    def uniforms(self, rows: slice) -> Tensor:
        """[n] the next number of each of these requests."""
        return self._uniforms[rows].gather(1, self._steps[rows, None])[:, 0]

    def seen(self, rows: slice) -> Tensor | None:
        """[n, V]: tokens that these requests have read or drawn; None where nothing depends on it."""
        return None if self._seen is None else self._seen[rows]

    def add(self, requests: Sequence[Request]) -> slice:
        """Take requests into the next rows; prefilling those is the caller's."""
        first = len(self.requests)
        rows = slice(first, first + len(requests))
        self.requests += requests
        device = self._lengths.device
        self._lengths[rows] = torch.tensor([len(request.prompt) for request in requests], device=device)
        self._steps[rows] = 0
        self._uniforms[rows] = torch.stack([request.uniforms() for request in requests]).to(device)
        if self._seen is not None:
            self._seen[rows] = False
            for row, request in enumerate(requests, start=first):
                self._seen[row, list(request.prompt)] = True
        return rows

    def read(self) -> None:
        """Each running request's last token has been read."""
        self._lengths[: len(self.requests)] += 1

    def record(self, rows: slice, drawn: Drawn) -> int:
        """Give each of these requests its token; gives how many have ended, which leave."""
        self._tokens[rows] = drawn.tokens
        self._steps[rows] += 1
        if self._seen is not None:
            self._seen[rows].scatter_(1, drawn.tokens[:, None], True)
        values = zip(self.requests[rows], drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True)
        for request, token, logprob in values:
            request.take(token, logprob)
        before = len(self.requests)
        self._let_go()
        return before - len(self.requests)

    def _let_go(self) -> None:
        """Move the last running requests into the rows of those that have ended."""
        running = [row for row, request in enumerate(self.requests) if request.running]
        count = len(running)
        holes = [row for row in range(count) if not self.requests[row].running]
        movers = running[count - len(holes) :]
        if holes:
            to, of = (torch.tensor(rows, device=self._lengths.device) for rows in (holes, movers))
            self.store.copy(of, to)
            for kept in (self._lengths, self._tokens, self._steps, self._uniforms, self._seen):
                if kept is not None:
                    kept[to] = kept[of]
            for hole, mover in zip(holes, movers, strict=True):
                self.requests[hole] = self.requests[mover]
        del self.requests[count:]
        # Rows that only fill up a bucket read one position, whatever was in them.
        self._lengths[count:], self._tokens[count:] = 0, 0
