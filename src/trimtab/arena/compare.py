"""The comparison: policies answer, a judge that none of them learned from decides, a report says so.

Play every policy, test the judge on people's own verdicts, let it judge every pair of answers, count wins,
add up costs, write the report.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.arena.ancestry import identity
from trimtab.arena.best_of import choose_best, draw_candidates
from trimtab.arena.fairness import require_independence
from trimtab.arena.findings import Answer, Findings, PolicyResult, RewardCard, Sample
from trimtab.arena.held_out import HeldOut, read_held_out
from trimtab.arena.human import human_work
from trimtab.arena.judging import examine, gaps, judge_matches, scores_of
from trimtab.arena.jury import load_jury
from trimtab.arena.ledger import require_costs_of_the_compared, stage_costs
from trimtab.arena.play import Played, divergence, seeds
from trimtab.arena.provenance import common_origin, curves_of, facts_of, method_of, runs_of_a_method, seed_of
from trimtab.arena.report import write_report
from trimtab.arena.settings import CompareSettings
from trimtab.arena.texts import distinct, repetition
from trimtab.arena.winrate import Judgments, match_up, ranking
from trimtab.data.tokens import Limits
from trimtab.errors import ModelError
from trimtab.model.device import Numerics, choose
from trimtab.model.policy import Policy, load_policy
from trimtab.records import Prompt
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling
from trimtab.runs import progress
from trimtab.runs.run import Run, finished
from trimtab.statistics.bootstrap import bootstrap_mean
from trimtab.statistics.intervals import Interval, wilson

FROZEN_BYTES = 4


Scores = dict[str, list[float | None]]
"""Each policy's scores by one judge, one a prompt; None where it gives none."""


@dataclass(frozen=True)
class Marks:
    """All scores of a comparison."""

    judge: Scores
    proxy: Scores | None
    witness: Scores | None


def compare(settings: CompareSettings, run: Run) -> Findings:
    """Run the comparison in an open run folder.

    Raises:
        ConfigError: `costs` or `policies` name runs that do not belong together.
        DataError: the held-out pairs cannot be read, or none can be used.
        ModelError: a policy has another tokenizer than the reference.
        RunError: a run of `costs` is missing or not finished.
    """
    numerics = choose(settings.device, settings.precision)
    progress.say(f"  computing on {numerics.name}")
    run.describe(device=numerics.name, seed=settings.seed, parents=_parents(settings))
    costs = tuple(stage_costs(settings.costs))  # first: a run that is missing must not be noticed last
    require_costs_of_the_compared(settings)
    unchecked = require_independence(settings)
    limits = Limits(prompt=settings.max_prompt, response=settings.max_response)
    reference = load_policy(settings.reference, numerics, bytes_per_parameter=FROZEN_BYTES)
    held_out = read_held_out(settings, reference.codec, limits)
    run.leave_out(held_out.left_out)
    played = [play(name, source, reference, held_out, settings) for name, source in settings.policies.items()]
    candidates = draw_candidates(reference, held_out, settings) if settings.best_of else []
    del reference
    gc.collect()

    proxy, proxy_card = _score_by_proxy(settings, played, candidates, held_out, numerics, run)
    jury = load_jury(settings.judges, numerics)
    quality, card = examine(
        jury, held_out.pairs, run, seed=settings.seed, by=settings.judged_by, role="judge"
    )
    progress.say(f"  {quality.sentence}")
    scores = scores_of(jury, played, held_out.prompts)
    judged = judge_matches(jury, played, held_out.prompts, scores, run)
    notes = jury.notes()
    del jury
    gc.collect()

    witness = None
    if settings.witness is not None:
        witness = scores_of(load_jury((settings.witness,), numerics), played, held_out.prompts)
    marks = Marks(scores, proxy, witness)
    result = Findings(
        title=settings.title,
        policies=tuple(policy_result(one, marks, settings.seed) for one in played),
        matches=match_up(judged, seed=settings.seed),
        judge=quality,
        samples=tuple(samples(played, marks, judged[0], held_out.prompts))[: settings.shown],
        ranking=ranking([one.policy for one in played], judged, seed=settings.seed),
        cards=tuple(one for one in (card, proxy_card) if one is not None),
        costs=costs,
        human=human_work(settings.costs, quality.accuracy.n),
        curves=curves_of(settings.costs),
        facts=facts_of(settings, run),
        seeds=runs_of_a_method(settings),
        caveats=(*unchecked, *held_out.caveats, *common_origin(settings), *notes, *settings.notes),
    )
    run.sample(0, _answer_rows(played, marks))
    write_report(run.folder / "report.html", result, judged)
    run.finish()
    return result


def _score_by_proxy(
    settings: CompareSettings,
    played: list[Played],
    candidates: list[Played],
    held_out: HeldOut,
    numerics: Numerics,
    run: Run,
) -> tuple[Scores | None, RewardCard | None]:
    """The proxy's scores and its card; the best of the candidates by it join those who have `played`."""
    if settings.proxy is None:
        return None, None
    jury = load_jury((settings.proxy,), numerics)
    _, card = examine(jury, held_out.pairs, run, seed=settings.seed, by=settings.judged_by, role="proxy")
    scores = scores_of(jury, [*played, *candidates], held_out.prompts)
    for count in settings.best_of:
        best, best_scores = choose_best(count, candidates, scores, source=settings.reference)
        played.append(best)
        scores[best.policy] = best_scores
    return scores, card


def play(name: str, source: str, reference: Policy, held_out: HeldOut, settings: CompareSettings) -> Played:
    """Let one policy answer, and measure its KL from the reference on fresh samples."""
    same = identity(source) == identity(settings.reference)
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
    return Played(name, rollouts, texts, kl, source, method_of(source))


def policy_result(one: Played, marks: Marks, seed: int) -> PolicyResult:
    """Means over prompts, with intervals."""

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap_mean(list(values), seed=seed)

    def mean_score(scores: Scores | None) -> Interval | None:
        known = [value for value in (scores or {}).get(one.policy, []) if value is not None]
        return mean(known) if len(known) > 1 else None

    stopped = [rollout.response.stopped for rollout in one.rollouts]
    return PolicyResult(
        name=one.policy,
        method=one.method,
        run=one.source,
        seed=seed_of(one.source) if one.method == method_of(one.source) else None,
        prompts=len(one.rollouts),
        judge_reward=mean_score(marks.judge),
        proxy_reward=mean_score(marks.proxy),
        witness_reward=mean_score(marks.witness),
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


def samples(
    played: Sequence[Played],
    marks: Marks,
    headline: Judgments,
    prompts: Sequence[Prompt],
) -> list[Sample]:
    """Every prompt with all answers, the biggest disagreements of the headline's two policies first."""
    names = {"a": headline.left, "b": headline.right}
    apart = gaps(marks.judge, headline.left, headline.right)
    found = [
        Sample(
            prompt=prompt,
            answers=tuple(_answer(one, index, marks) for one in played),
            preferred="" if verdict is None else names.get(verdict.preferred, "tie"),
            gap=apart[index],
        )
        for index, (prompt, verdict) in enumerate(zip(prompts, headline.verdicts, strict=True))
    ]
    return sorted(found, key=lambda sample: -(sample.gap or 0.0))


def _answer(one: Played, index: int, marks: Marks) -> Answer:
    response = one.rollouts[index].response
    return Answer(
        policy=one.policy,
        text=one.texts[index],
        judge_score=marks.judge[one.policy][index],
        proxy_score=marks.proxy[one.policy][index] if marks.proxy else None,
        kl=one.kl[index],
        tokens=len(response.ids),
        ended="stop" if response.stopped else "length",
    )


def _answer_rows(played: Sequence[Played], marks: Marks) -> list[dict[str, object]]:
    return [
        {
            "policy": one.policy,
            "prompt": index,
            "response": one.texts[index],
            "tokens": len(rollout.response.ids),
            "stopped": rollout.response.stopped,
            "kl": one.kl[index],
            "judge_score": marks.judge[one.policy][index],
            "proxy_score": marks.proxy[one.policy][index] if marks.proxy else None,
        }
        for one in played
        for index, rollout in enumerate(one.rollouts)
    ]
