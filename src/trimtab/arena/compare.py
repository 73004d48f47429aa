"""The comparison: policies answer, a judge that none of them learned from decides, a report says so.

Play every policy, test the judge on people's own verdicts, let it judge every pair of answers, count wins,
add up costs, write the report.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab import formats
from trimtab.arena.cost import HumanWork
from trimtab.arena.fairness import require_independence
from trimtab.arena.findings import Answer, Curve, Fact, Findings, PolicyResult, Sample, curve
from trimtab.arena.judging import examine, gaps, judge_matches, scores_of
from trimtab.arena.jury import load_jury
from trimtab.arena.ledger import stage_costs
from trimtab.arena.play import Played, divergence, seeds
from trimtab.arena.report import write_report
from trimtab.arena.settings import CompareSettings
from trimtab.arena.texts import distinct, repetition
from trimtab.arena.winrate import Judgments, match_up, ranking
from trimtab.data.tokens import Codec, Example, Limits, encode_prompts
from trimtab.errors import DataError, ModelError
from trimtab.model.device import choose
from trimtab.model.policy import Policy, load_policy
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


Scores = dict[str, list[float | None]]
"""Each policy's scores by one judge, one a prompt; None where it gives none."""


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

    jury = load_jury(settings.judges, numerics)
    quality, card = examine(jury, held_out.pairs, run, seed=settings.seed, role="judge")
    progress.say(f"  {quality.sentence}")
    scores = scores_of(jury, played, held_out.prompts)
    judged = judge_matches(jury, played, held_out.prompts, scores, run)
    notes = jury.notes()
    del jury
    gc.collect()

    proxy_scores, proxy_card = None, None
    if settings.proxy is not None:
        proxy = load_jury((settings.proxy,), numerics)
        _, proxy_card = examine(proxy, held_out.pairs, run, seed=settings.seed, role="proxy")
        proxy_scores = scores_of(proxy, played, held_out.prompts)
    result = Findings(
        title=settings.title,
        policies=tuple(policy_result(one, scores, proxy_scores, settings) for one in played),
        matches=match_up(judged, seed=settings.seed),
        judge=quality,
        samples=tuple(samples(played, scores, proxy_scores, judged[0], held_out.prompts))[: settings.shown],
        ranking=ranking([one.policy for one in played], judged, seed=settings.seed),
        cards=tuple(one for one in (card, proxy_card) if one is not None),
        costs=costs,
        human=_human_work(settings, len(held_out.pairs)),
        curves=tuple(_curves(settings.costs)),
        facts=tuple(_facts(settings, run)),
        caveats=(*unchecked, *notes),
    )
    run.sample(0, _answer_rows(played, scores, proxy_scores))
    write_report(run.folder / "report.html", result, judged)
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
    texts = [
        policy.codec.decode_response(prompt, rollout.response.ids)
        for prompt, rollout in zip(held_out.prompts, rollouts, strict=True)
    ]
    return Played(name, rollouts, texts, kl)


def policy_result(
    one: Played, scores: Scores, proxy: Scores | None, settings: CompareSettings
) -> PolicyResult:
    """Means over prompts, with intervals."""

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap_mean(list(values), seed=settings.seed)

    def mean_score(values: Sequence[float | None]) -> Interval | None:
        known = [value for value in values if value is not None]
        return mean(known) if len(known) > 1 else None

    stopped = [rollout.response.stopped for rollout in one.rollouts]
    return PolicyResult(
        name=one.policy,
        method=_method(settings.policies[one.policy]),
        run=settings.policies[one.policy],
        seed=_seed(settings.policies[one.policy]),
        prompts=len(one.rollouts),
        judge_reward=mean_score(scores[one.policy]),
        proxy_reward=mean_score(proxy[one.policy]) if proxy else None,
        kl=mean(one.kl),
        response_tokens=mean([float(len(rollout.response.ids)) for rollout in one.rollouts]),
        stopped=wilson(sum(stopped), len(stopped)),
        repetition=mean([repetition(text) for text in one.texts]),
        distinct=distinct(one.texts),
    )


def _parents(settings: CompareSettings) -> dict[str, dict[str, str]]:
    judges = {
        "judge" if index == 0 else f"judge {index + 1}": name for index, name in enumerate(settings.judges)
    }
    sources = {**settings.policies, **judges}
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


def _key(row: formats.Row[Pair]) -> str:
    return formats.prompt_key(row.record.prompt)


def _method(source: str) -> str:
    """The stage that made a policy; `model` for one that no run made."""
    folder = Path(source)
    return str(read_facts(folder)["stage"]) if is_done(folder) else "model"


def _seed(source: str) -> int | None:
    folder = Path(source)
    return read_facts(folder).get("seed") if is_done(folder) else None


def samples(
    played: Sequence[Played],
    scores: Scores,
    proxy: Scores | None,
    headline: Judgments,
    prompts: Sequence[Prompt],
) -> list[Sample]:
    """Every prompt with all answers, the biggest disagreements of the headline's two policies first."""
    names = {"a": headline.left, "b": headline.right}
    apart = gaps(scores, headline.left, headline.right)
    found = [
        Sample(
            prompt=prompt,
            answers=tuple(_answer(one, index, scores, proxy) for one in played),
            preferred="" if verdict is None else names.get(verdict.preferred, "tie"),
            gap=apart[index],
        )
        for index, (prompt, verdict) in enumerate(zip(prompts, headline.verdicts, strict=True))
    ]
    return sorted(found, key=lambda sample: -(sample.gap or 0.0))


def _answer(one: Played, index: int, scores: Scores, proxy: Scores | None) -> Answer:
    response = one.rollouts[index].response
    return Answer(
        policy=one.policy,
        text=one.texts[index],
        judge_score=scores[one.policy][index],
        proxy_score=proxy[one.policy][index] if proxy else None,
        kl=one.kl[index],
        tokens=len(response.ids),
        ended="stop" if response.stopped else "length",
    )


def _answer_rows(played: Sequence[Played], scores: Scores, proxy: Scores | None) -> list[dict[str, object]]:
    return [
        {
            "policy": one.policy,
            "prompt": index,
            "response": one.texts[index],
            "tokens": len(rollout.response.ids),
            "stopped": rollout.response.stopped,
            "kl": one.kl[index],
            "judge_score": scores[one.policy][index],
            "proxy_score": proxy[one.policy][index] if proxy else None,
        }
        for one in played
        for index, rollout in enumerate(one.rollouts)
    ]


def _human_work(settings: CompareSettings, held_out: int) -> HumanWork | None:
    """How many judged pairs the runs of `costs` read; None where no such run is named."""

    def pairs(*stages: str) -> int:
        folders = [Path(settings.costs[stage]) for stage in stages if stage in settings.costs]
        read = [read_facts(folder).get("data", {}).get("train", {}).get("examples", 0) for folder in folders]
        return max(read, default=0)

    if not settings.costs:
        return None
    return HumanWork(
        training_pairs=pairs("reward", "dpo"), judge_pairs=pairs("judge"), held_out_pairs=held_out
    )


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
