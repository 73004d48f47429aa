"""The comparison: policies answer, a judge that none of them learned from decides, a report says so.

Play every policy, test the judge on people's own verdicts, score the answers, count wins, add up
costs, write report.html and report.json.
"""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab import formats
from trimtab.arena.fairness import require_independence
from trimtab.arena.findings import Answer, Curve, Fact, Findings, PolicyResult, Sample, curve
from trimtab.arena.ledger import stage_costs
from trimtab.arena.play import Played, divergence, seeds
from trimtab.arena.report import write_report
from trimtab.arena.settings import CompareSettings
from trimtab.arena.winrate import JudgeQuality, ScoredAnswers, judge_accuracy, match_up, shorter_wins
from trimtab.data.tokens import Codec, Encoded, Example, Limits, encode_comparisons, encode_prompts
from trimtab.errors import DataError, ModelError
from trimtab.judges import reward_model
from trimtab.model.device import Numerics, choose
from trimtab.model.policy import Policy, load_policy
from trimtab.model.scalar import Scorer, load_scorer
from trimtab.records import Comparison as Pair
from trimtab.records import Prompt
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling
from trimtab.runs import progress
from trimtab.runs.run import Run, finished, is_done, read_facts, read_metrics
from trimtab.statistics.bootstrap import bootstrap_mean
from trimtab.statistics.intervals import Interval, wilson

FROZEN_BYTES = 4


@dataclass(frozen=True)
class HeldOut:
    """Pairs that nobody was trained on, and the prompts that the policies answer."""

    pairs: Sequence[formats.Row[Pair]]
    prompts: list[Prompt]
    examples: list[Example]
    codec: Codec
    """The reference's: all policies that share it are given the same ids."""


@dataclass(frozen=True)
class Scores:
    """What the judge and PPO's own reward model gave each answer of each policy."""

    judge: dict[str, list[float]]
    proxy: dict[str, list[float]] | None


def compare(settings: CompareSettings, run: Run) -> Findings:
    """Run the comparison in an open run folder.

    Raises:
        DataError: the held-out pairs cannot be read, or none can be used.
        ModelError: a policy has another tokenizer than the reference.
        RunError: a run of `costs` is missing or not finished.
    """
    numerics = choose(settings.device, settings.precision)
    progress.say(f"  computing on {numerics.name}")
    run.describe(device=numerics.name, seed=settings.seed, parents=_parents(settings))
    costs = tuple(stage_costs(settings.costs))  # first: a run that is missing must not be noticed last
    unchecked = require_independence(settings)
    limits = Limits(prompt=settings.max_prompt, response=settings.max_response)
    reference = load_policy(settings.reference, numerics, bytes_per_parameter=FROZEN_BYTES)
    held_out = read_held_out(settings, reference.codec, limits)
    played = [play(name, source, reference, held_out, settings) for name, source in settings.policies.items()]
    del reference
    gc.collect()

    judge_scores, quality = score_by_judge(played, held_out, numerics, settings, limits, run)
    proxy_scores = score_by_proxy(played, held_out, numerics, settings, limits)
    scores = Scores(judge_scores, proxy_scores)
    run.sample(0, _answer_rows(played, scores))
    result = Findings(
        title=settings.title,
        policies=tuple(policy_result(one, scores, settings) for one in played),
        matches=tuple(
            match_up(_scored(left, scores), _scored(right, scores), seed=settings.seed)
            for left, right in itertools.combinations(played, 2)
        ),
        judge=quality,
        samples=tuple(_samples(played, scores, held_out.prompts[: settings.shown])),
        costs=costs,
        curves=tuple(_curves(settings.costs)),
        facts=tuple(_facts(settings, run)),
        caveats=unchecked,
    )
    write_report(run.folder / "report.html", result)
    run.finish()
    return result


def read_held_out(settings: CompareSettings, codec: Codec, limits: Limits) -> HeldOut:
    """All held-out pairs, and the first `prompts` different prompts among them."""
    reading = formats.read_comparisons(settings.held_out, dialogues=settings.dialogues)
    pairs = formats.usable(reading)
    different = {formats.prompt_key(row.record.prompt): row for row in reversed(pairs)}
    rows = [
        formats.Row(row.record.prompt, row.file, row.line) for row in pairs if different[_key(row)] is row
    ]
    encoded = encode_prompts(codec, rows[: settings.prompts], limits)
    if len(encoded.examples) < 2:
        raise DataError(
            "a comparison needs at least two held-out prompts",
            where=settings.held_out,
            found=f"{len(encoded.examples)} can be used",
            fix="give more held-out comparisons",
        )
    kept = set(encoded.wheres)
    prompts = [row.record for row in rows[: settings.prompts] if row.where in kept]
    return HeldOut(pairs, prompts, encoded.examples, codec)


def play(name: str, source: str, reference: Policy, held_out: HeldOut, settings: CompareSettings) -> Played:
    """Let one policy answer, and measure its KL from the reference on fresh samples."""
    same = source == settings.reference
    policy = reference if same else load_policy(source, reference.numerics, bytes_per_parameter=FROZEN_BYTES)
    _require_same_tokens(policy, held_out, source)
    # At temperature 1: the KL is estimated on the very answers that are judged.
    sampling = Sampling(max_new=settings.max_response, stop_ids=(policy.codec.stop_id,))
    drawn_from = seeds(settings.seed, len(held_out.examples))
    rollouts = answer(policy, held_out.examples, sampling, drawn_from, name=f"{name} answers")
    kl = [0.0] * len(rollouts)
    if not same:
        kl = divergence(policy, reference, rollouts, row_tokens=settings.row_tokens, name=name)
    texts = [policy.codec.decode(rollout.response.ids) for rollout in rollouts]
    return Played(name, rollouts, texts, kl)


def score_by_judge(
    played: Sequence[Played],
    held_out: HeldOut,
    numerics: Numerics,
    settings: CompareSettings,
    limits: Limits,
    run: Run,
) -> tuple[dict[str, list[float]], JudgeQuality]:
    """Scores of every answer, and how well the judge ranks the held-out pairs as people did."""
    judge = load_scorer(settings.judge, numerics, bytes_per_parameter=FROZEN_BYTES)
    encoded = encode_comparisons(judge.codec, held_out.pairs, limits)
    run.leave_out(encoded.left_out)
    pairs = reward_model.score(
        judge, encoded.examples, row_tokens=settings.row_tokens, name="judge: held-out pairs"
    )
    lengths = _reply_lengths(held_out, encoded)
    quality = JudgeQuality(
        name=Path(settings.judge).name,
        accuracy=judge_accuracy([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
        shorter_wins=shorter_wins([pair[0] for pair in lengths], [pair[1] for pair in lengths]),
    )
    progress.say(f"  {quality.sentence}")
    scores = {one.policy: _score(judge, one, held_out, settings, limits, "judge") for one in played}
    return scores, quality


def score_by_proxy(
    played: Sequence[Played],
    held_out: HeldOut,
    numerics: Numerics,
    settings: CompareSettings,
    limits: Limits,
) -> dict[str, list[float]] | None:
    """Scores by PPO's own reward model, where there is one."""
    if settings.proxy is None:
        return None
    proxy = load_scorer(settings.proxy, numerics, bytes_per_parameter=FROZEN_BYTES)
    return {one.policy: _score(proxy, one, held_out, settings, limits, "proxy") for one in played}


def policy_result(one: Played, scores: Scores, settings: CompareSettings) -> PolicyResult:
    """Means over prompts, with intervals."""

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap_mean(list(values), seed=settings.seed)

    stopped = [rollout.response.stopped for rollout in one.rollouts]
    return PolicyResult(
        name=one.policy,
        method=_method(settings.policies[one.policy]),
        prompts=len(one.rollouts),
        judge_reward=mean(scores.judge[one.policy]),
        proxy_reward=mean(scores.proxy[one.policy]) if scores.proxy else None,
        kl=mean(one.kl),
        response_tokens=mean([float(len(rollout.response.ids)) for rollout in one.rollouts]),
        stopped=wilson(sum(stopped), len(stopped)),
    )


def _score(
    scorer: Scorer,
    one: Played,
    held_out: HeldOut,
    settings: CompareSettings,
    limits: Limits,
    role: str,
) -> list[float]:
    examples = reward_model.as_read_by(scorer, held_out.codec, one.rollouts, held_out.prompts, limits)
    rows = reward_model.score(scorer, examples, row_tokens=settings.row_tokens, name=f"{role}: {one.policy}")
    return [row[0] for row in rows]


def _parents(settings: CompareSettings) -> dict[str, dict[str, str]]:
    sources = {**settings.policies, "judge": settings.judge}
    if settings.proxy is not None:
        sources["proxy"] = settings.proxy
    return {name: {"source": source, "finished": finished(source)} for name, source in sources.items()}


def _require_same_tokens(policy: Policy, held_out: HeldOut, source: str) -> None:
    if policy.codec.fingerprint != held_out.codec.fingerprint:
        raise ModelError(
            "the policy has another tokenizer or chat template than the reference",
            where=source,
            fix="compare policies that were trained from the same model",
        )


def _reply_lengths(held_out: HeldOut, encoded: Encoded) -> list[tuple[int, int]]:
    """Characters of chosen and rejected reply of the pairs that the judge was tested on."""
    kept = set(encoded.wheres)
    return [(len(row.record.chosen), len(row.record.rejected)) for row in held_out.pairs if row.where in kept]


def _key(row: formats.Row[Pair]) -> str:
    return formats.prompt_key(row.record.prompt)


def _method(source: str) -> str:
    """The stage that made a policy; `model` for one that no run made."""
    folder = Path(source)
    return str(read_facts(folder)["stage"]) if is_done(folder) else "model"


def _scored(one: Played, scores: Scores) -> ScoredAnswers:
    return ScoredAnswers(policy=one.policy, texts=one.texts, scores=scores.judge[one.policy])


def _samples(played: Sequence[Played], scores: Scores, prompts: Sequence[Prompt]) -> list[Sample]:
    return [
        Sample(
            prompt=prompt,
            answers=tuple(
                Answer(
                    policy=one.policy,
                    text=one.texts[index],
                    judge_score=scores.judge[one.policy][index],
                    proxy_score=scores.proxy[one.policy][index] if scores.proxy else None,
                    kl=one.kl[index],
                    tokens=len(one.rollouts[index].response.ids),
                    ended="stop" if one.rollouts[index].response.stopped else "length",
                )
                for one in played
            ),
        )
        for index, prompt in enumerate(prompts)
    ]


def _answer_rows(played: Sequence[Played], scores: Scores) -> list[dict[str, object]]:
    return [
        {
            "policy": one.policy,
            "prompt": index,
            "response": one.texts[index],
            "tokens": len(rollout.response.ids),
            "stopped": rollout.response.stopped,
            "kl": one.kl[index],
            "judge_score": scores.judge[one.policy][index],
            "proxy_score": scores.proxy[one.policy][index] if scores.proxy else None,
        }
        for one in played
        for index, rollout in enumerate(one.rollouts)
    ]


_CURVES = {
    "sft": ("loss",),
    "reward": ("loss", "accuracy"),
    "dpo": ("loss", "margin"),
    "ppo": ("score", "kl", "length", "stopped"),
}


def _curves(runs: dict[str, str]) -> list[Curve]:
    return [
        curve(stage, metric, read_metrics(Path(runs[stage])))
        for stage, metrics in _CURVES.items()
        if stage in runs
        for metric in metrics
    ]


def _facts(settings: CompareSettings, run: Run) -> list[Fact]:
    facts = [
        Fact(group="settings", name=name, value=json.dumps(value, ensure_ascii=False))
        for name, value in settings.model_dump(mode="json").items()
        if name not in ("policies", "costs")
    ]
    for stage, folder in settings.costs.items():
        made = read_facts(Path(folder))
        facts += [
            Fact(group=f"run {stage}", name=name, value=str(made.get(name, "")))
            for name in ("device", "seed", "started", "finished")
        ]
    facts += [
        Fact(group="versions", name=name, value=version) for name, version in run.facts["packages"].items()
    ]
    hardware = run.facts["hardware"]
    facts.append(
        Fact(group="versions", name="hardware", value=f"{hardware['processor']}, {hardware['cores']} cores")
    )
    return facts
