"""The reference's best of several answers, chosen by the proxy: what sampling alone buys, without training.

Dimensions: P = prompts, n = answers to choose from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trimtab.arena.held_out import HeldOut
from trimtab.arena.play import Played, seeds
from trimtab.arena.settings import CompareSettings
from trimtab.model.policy import Policy
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling


def draw_candidates(reference: Policy, held_out: HeldOut, settings: CompareSettings) -> list[Played]:
    """As many answers to each prompt as the largest n asks for; the first n of them serve each smaller n."""
    count = max(settings.best_of, default=0)
    sampling = Sampling(max_new=settings.max_response, stop_ids=(reference.codec.stop_id,))
    prompts = len(held_out.examples)
    drawn_from = seeds(settings.seed, prompts * count, purpose="best of")
    rollouts = answer(
        reference, held_out.examples * count, sampling, drawn_from, name="answers to choose from"
    )
    texts = [
        reference.codec.decode_response(prompt, rollout.response.ids)
        for prompt, rollout in zip(held_out.prompts * count, rollouts, strict=True)
    ]
    return [
        Played(
            f"candidate {place + 1}",
            rollouts[place * prompts : (place + 1) * prompts],
            texts[place * prompts : (place + 1) * prompts],
            [0.0] * prompts,
        )
        for place in range(count)
    ]


def choose_best(
    count: int,
    candidates: Sequence[Played],
    scores: Mapping[str, Sequence[float | None]],
    *,
    source: str,
) -> tuple[Played, list[float | None]]:
    """For each prompt the best of the first `count` candidates, and its score.

    One without a score is chosen only where no other has one.
    """
    open_to = candidates[:count]
    picks = [
        max(range(count), key=lambda place: _rank(scores[open_to[place].policy][index]))
        for index in range(len(candidates[0].texts))
    ]
    chosen = Played(
        policy=f"best of {count}",
        rollouts=[open_to[pick].rollouts[index] for index, pick in enumerate(picks)],
        texts=[open_to[pick].texts[index] for index, pick in enumerate(picks)],
        kl=[best_of_kl(count)] * len(picks),
        source=source,
        method="best of n",
    )
    return chosen, [scores[open_to[pick].policy][index] for index, pick in enumerate(picks)]


def best_of_kl(count: int) -> float:
    """KL(best of n || reference), nats a response, where no two answers are equal; else it is less.

    Source: Stiennon et al. 2020, arXiv:2009.01325, appendix G.3; Beirami et al. 2024, arXiv:2401.01879.
    """
    return math.log(count) - (count - 1) / count


def _rank(score: float | None) -> float:
    return -math.inf if score is None else score
