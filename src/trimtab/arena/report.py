"""The report: one HTML page that opens offline, and the same facts beside it for other readers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from trimtab.arena import exports, tables
from trimtab.arena.cost import human_rows, method_costs, method_rows, stage_rows
from trimtab.arena.figures import (
    calibration_picture,
    curve_pictures,
    frontier_picture,
    judge_picture,
    match_picture,
)
from trimtab.arena.findings import Findings, Sample, to_json
from trimtab.arena.sentences import limits, meaning
from trimtab.arena.winrate import Judgments, verdict
from trimtab.pages import page
from trimtab.pages.page import Picture
from trimtab.runs.files import write_text


def write_report(path: Path, findings: Findings, judged: Sequence[Judgments] = ()) -> Path:
    """Write the page to `path` and its data beside it; return `path`.

    Beside it: the findings (.json), a summary (.md), and, where there are verdicts, one row a verdict
    (.csv) and the headline's match for LLM Comparator (.llm-comparator.json). Each appears whole or not at
    all; a report of the same name is replaced.
    """
    data = as_json(findings)
    write_text(path.with_suffix(".json"), data)
    write_text(path.with_suffix(".md"), exports.to_markdown(findings))
    if judged:
        write_text(path.with_suffix(".csv"), exports.to_csv(judged))
        comparator = exports.to_llm_comparator(judged[0])
        write_text(path.with_suffix(".llm-comparator.json"), comparator)
    write_text(path, render(findings, nonce=hashlib.sha256(data.encode()).hexdigest()))
    return path


def as_json(findings: Findings) -> str:
    """The findings, and in `said` all that the page makes of them: sentences, verdicts, sums."""
    return to_json(
        findings,
        said={
            "judge": findings.judge.sentence,
            "meaning": meaning(findings),
            "limits": limits(findings),
            "matches": [
                {
                    "left": match.left,
                    "right": match.right,
                    "rate": asdict(match.win_rate),
                    "winner": match.winner if findings.judge.can_tell else None,
                    "verdict": verdict(match, findings.judge),
                }
                for match in findings.matches
            ],
            "methods": _as_objects(method_rows(findings.costs)) if findings.costs else [],
        },
    )


def _as_objects(rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    head, *body = rows
    return [dict(zip(head, row, strict=True)) for row in body]


def render(findings: Findings, *, nonce: str) -> str:
    """The page as text. `nonce` marks the scripts that may run; the texts shown must not know it."""
    pictures = _pictures(findings)
    training = curve_pictures(findings.curves)
    drawn = [*pictures.values(), *(picture for _, group in training for picture in group)]
    methods = [cost.method for cost in method_costs(findings.costs)]
    return page.render(
        "arena/report.html",
        nonce=nonce,
        pictures=drawn,
        findings=findings,
        meaning=meaning(findings),
        placed=pictures,
        calibrations=[picture for key, picture in pictures.items() if key.startswith("calibration")],
        training=training,
        matches=tables.match_rows(findings),
        intervals=tables.interval_rows(findings),
        differences=tables.difference_rows(findings),
        matrix=tables.matrix_rows(findings) if len(findings.policies) > 2 else [],
        ranking=tables.ranking_rows(findings.ranking) if findings.ranking else [],
        policies=tables.summary_rows(findings),
        cards=tables.card_rows(findings.cards) if findings.cards else [],
        methods=method_rows(findings.costs),
        human=human_rows(findings.human, methods) if findings.human and methods else [],
        stages=stage_rows(findings.costs),
        samples=[_sample_view(sample) for sample in findings.samples],
        verdicts=list(dict.fromkeys(sample.preferred for sample in findings.samples if sample.preferred)),
        facts=[(group, list(rows)) for group, rows in groupby(findings.facts, key=lambda fact: fact.group)],
        limits=limits(findings),
    )


def _pictures(findings: Findings) -> dict[str, Picture]:
    """The pictures beside the tables by key."""
    drawn = [match_picture(findings.matches), judge_picture(findings.judge)]
    if any(policy.judge_reward for policy in findings.policies):
        drawn.append(frontier_picture(findings, "judge"))
    if any(policy.proxy_reward for policy in findings.policies):
        drawn.append(frontier_picture(findings, "proxy"))
    drawn += [
        calibration_picture(card.quality.calibration, card, f"calibration-{index}")
        for index, card in enumerate(findings.cards)
        if card.quality.calibration is not None
    ]
    return {picture.key: picture for picture in drawn}


def _sample_view(sample: Sample) -> Mapping[str, object]:
    """A sample as the template shows it: the prompt as turns, the rest as it is."""
    turns = (
        [("text to continue", sample.prompt)]
        if isinstance(sample.prompt, str)
        else [(turn.role, turn.content) for turn in sample.prompt]
    )
    return {
        "turns": turns,
        "answers": sample.answers,
        "preferred": sample.preferred,
        "gap": sample.gap,
    }
