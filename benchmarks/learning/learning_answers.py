"""What SFT, PPO and best-of-n answer to the test prompts, and what the gold scorer makes of it.

Nobody has learned from these prompts, nor from answers to them. Every policy is asked several times a
prompt; a prompt's mean is the unit of every interval.

Dimensions: P = prompts, K = answers a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from learning_parts import Place, asked, gold_scores
from learning_plan import Plan
from numpy.typing import NDArray

from trimtab.arena.best_of import best_of_kl
from trimtab.arena.play import divergence, seeds
from trimtab.arena.texts import distinct
from trimtab.data.tokens import Example
from trimtab.demo.assets import GOLD
from trimtab.judges import reward_model
from trimtab.judges.judge import Answer
from trimtab.judges.words import load_word_judge
from trimtab.model import scalar
from trimtab.model.device import Numerics, choose
from trimtab.model.policy import Policy, load_policy
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Rollout, Sampling
from trimtab.statistics.bootstrap import bootstrap_mean

FROZEN_BYTES = 4
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Answered:
    """One policy's answers: prompt after prompt, K of each."""

    rollouts: list[Rollout]
    texts: list[str]
    gold: FloatArray  # [P, K]


def numerics_of(place: Place) -> Numerics:
    """The arithmetic that PPO runs in."""
    return choose("cpu", place.setup.ppo["precision"])


def ask(policy: Policy, prompts: Sequence[str], place: Place, *, count: int, seed: int) -> Answered:
    """`count` answers to each prompt at temperature 1."""
    texts = [text for text in prompts for _ in range(count)]
    limit = int(place.setup.ppo["max_prompt"])
    examples = [Example(policy.codec.encode_prompt(text, limit)[0], ()) for text in texts]
    sampling = Sampling(max_new=int(place.setup.ppo["max_response"]), stop_ids=(policy.codec.stop_id,))
    drawn_from = seeds(seed, len(texts), purpose="learning")
    rollouts = answer(policy, examples, sampling, drawn_from, name="test prompts")
    written = [
        policy.codec.decode_response(text, one.response.ids)
        for text, one in zip(texts, rollouts, strict=True)
    ]
    scores = gold_scores(load_word_judge(GOLD), [Answer(*pair) for pair in zip(texts, written, strict=True)])
    return Answered(rollouts, written, np.reshape(scores, (len(prompts), count)))


def evaluate_sft(plan: Plan, place: Place) -> dict[str, Any]:
    """SFT by itself, and the best of n of its answers by the proxy."""
    policy = load_policy(place.policy, numerics_of(place), bytes_per_parameter=FROZEN_BYTES)
    prompts = asked(plan, policy.codec, "test")
    count = max(plan.best_of)
    found = ask(policy, prompts, place, count=count, seed=plan.made_with)
    proxy = proxy_scores(place, found.rollouts).reshape(-1, count)
    chosen = {n: best_of(found.gold, proxy, n) for n in plan.best_of}
    means = found.gold.mean(axis=1)
    texts = np.reshape(np.array(found.texts, dtype=object), (-1, count))
    return {
        "prompts": len(prompts),
        "answers": count,
        "gold_by_prompt": _rounded(means),
        **_figures(found, texts[:, : plan.answers]),
        "proxy": float(proxy.mean()),
        "best_of": {
            str(n): {
                "gold": float(gold.mean()),
                "gain": _gain(gold.mean(axis=1), means),
                "kl_at_most": best_of_kl(n),
                "distinct": variety(np.take_along_axis(texts, picks, axis=1)),
                "picks": picks.shape[1],
            }
            for n, (gold, picks) in chosen.items()
        },
    }


def evaluate_ppo(plan: Plan, place: Place, folder: Path, sft: Mapping[str, Any]) -> dict[str, Any]:
    """What PPO made, beside SFT's answers to the same prompts."""
    numerics = numerics_of(place)
    policy = load_policy(str(folder), numerics, bytes_per_parameter=FROZEN_BYTES)
    prompts = asked(plan, policy.codec, "test")
    found = ask(policy, prompts, place, count=plan.answers, seed=plan.made_with)
    proxy = proxy_scores(place, found.rollouts)
    reference = load_policy(place.policy, numerics, bytes_per_parameter=FROZEN_BYTES)
    row_tokens = int(place.setup.ppo["row_tokens"])
    nats = divergence(policy, reference, found.rollouts, row_tokens=row_tokens, name="PPO")
    by_prompt = np.reshape(nats, (len(prompts), plan.answers)).mean(axis=1)
    interval = bootstrap_mean(by_prompt, seed=0)
    texts = np.reshape(np.array(found.texts, dtype=object), (-1, plan.answers))
    return {
        "prompts": len(prompts),
        "answers": plan.answers,
        **_figures(found, texts),
        "proxy": float(proxy.mean()),
        "gain": _gain(found.gold.mean(axis=1), np.array(sft["gold_by_prompt"])),
        "kl": [interval.estimate, interval.low, interval.high],
        "examples": [
            prompt + text for prompt, text in zip(prompts[:6], found.texts[:: plan.answers], strict=False)
        ],
    }


def proxy_scores(place: Place, rollouts: Sequence[Rollout]) -> FloatArray:
    """The reward model's score of each answer, as PPO reads it: by the sampled tokens."""
    scorer = scalar.load_scorer(place.proxy, numerics_of(place), bytes_per_parameter=FROZEN_BYTES)
    row_tokens = int(place.setup.ppo["row_tokens"])
    examples = [one.example for one in rollouts]
    scored = reward_model.score(scorer, examples, row_tokens=row_tokens, name="proxy")
    return np.array([score for (score,) in scored])


def best_of(gold: FloatArray, proxy: FloatArray, n: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """What the proxy's pick of every n answers is worth, and which it is: [P, K // n] each."""
    rounds = gold.shape[1] // n
    picks = np.stack(
        [first * n + proxy[:, first * n : (first + 1) * n].argmax(axis=1) for first in range(rounds)], axis=1
    )
    return np.take_along_axis(gold, picks, axis=1), picks


def variety(texts: NDArray[Any]) -> float:
    """Distinct-2 of one answer a prompt, the mean over the K rounds of them: it falls as texts grow more."""
    return fmean(distinct(list(column)) for column in texts.T)


def _figures(found: Answered, texts: NDArray[Any]) -> dict[str, float]:
    return {
        "gold": float(found.gold.mean()),
        "distinct": variety(texts),
        "length": fmean(len(one.response.ids) for one in found.rollouts),
        "stopped": fmean(one.response.stopped for one in found.rollouts),
    }


def _gain(gold: FloatArray, sft: FloatArray) -> list[float]:
    """[P] each: the mean difference with its 95 % interval, bootstrap over prompts."""
    interval = bootstrap_mean(np.subtract(gold, sft), seed=0)
    return [interval.estimate, interval.low, interval.high]


def _rounded(values: FloatArray) -> list[float]:
    return [round(float(value), 6) for value in values]
