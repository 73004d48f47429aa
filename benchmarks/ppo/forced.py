"""Makes trimtab's sampler end each response where a list says, so that others can be given the same lengths.

The token that ends a response is written in place of the one drawn, with its own log-probability; a stop
token that is drawn earlier becomes the token after it. All else, refilling among it, is the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trimtab.rollout import engine
from trimtab.rollout.slots import Slots


@contextmanager
def lengths_of(wanted: Mapping[int, int] | Callable[[int], int], stop_id: int) -> Iterator[None]:
    """Within the block a request with seed s ends after `wanted` of s tokens; none by itself.

    Args:
        wanted: at least `max_new` for a response that the limit ends.
    """
    length_of = wanted if callable(wanted) else wanted.__getitem__
    due: list[bool] = []
    drawing, uniforms = engine.draw, Slots.uniforms

    def watched(slots: Slots, rows: slice) -> torch.Tensor:
        due[:] = [len(one.ids) + 1 == length_of(one.seed) for one in slots.requests[rows]]
        return uniforms(slots, rows)

    def forced(logits: torch.Tensor, numbers: torch.Tensor, *rest: Any) -> Any:
        drawn = drawing(logits, numbers, *rest)
        tokens, logprobs = drawn.tokens.clone(), drawn.logprobs.clone()
        ends = torch.tensor(due, device=tokens.device)
        tokens[(tokens == stop_id) & ~ends] = stop_id + 1
        changed = ends | (tokens != drawn.tokens)
        if not changed.any():
            return drawn
        tokens[ends] = stop_id
        rows = changed.nonzero()[:, 0]
        exact = logits[rows].double().log_softmax(-1)
        logprobs[rows] = exact.gather(1, tokens[rows, None])[:, 0].to(logprobs.dtype)
        return drawn._replace(tokens=tokens, logprobs=logprobs)

    engine.draw, Slots.uniforms = forced, watched  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        engine.draw, Slots.uniforms = drawing, uniforms  # type: ignore[method-assign]
