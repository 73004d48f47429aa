"""The report: one HTML page that opens offline, and the same facts as JSON beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from trimtab.arena.cost import method_rows, stage_rows
from trimtab.arena.figures import curve_pictures, frontier_picture, judge_picture, match_picture
from trimtab.arena.findings import Findings, Sample, limits, match_rows, summary_rows, to_json
from trimtab.pages import page
from trimtab.pages.page import Picture
from trimtab.runs.files import write_text


def write_report(path: Path, findings: Findings) -> Path:
    """Write the page to `path` and its data beside it, with the suffix .json; return `path`.

    Each appears whole or not at all; a report of the same name is replaced.
    """
    data = to_json(findings)
    write_text(path.with_suffix(".json"), data)
    write_text(path, render(findings, nonce=hashlib.sha256(data.encode()).hexdigest()))
    return path


def render(findings: Findings, *, nonce: str) -> str:
    """The page as text. `nonce` marks the scripts that may run; the texts shown must not know it."""
    pictures = _pictures(findings)
    training = curve_pictures(findings.curves)
    drawn = [*pictures.values(), *(picture for _, group in training for picture in group)]
    return page.render(
        "arena/report.html",
        nonce=nonce,
        pictures=drawn,
        findings=findings,
        placed=pictures,
        training=training,
        matches=match_rows(findings),
        policies=summary_rows(findings),
        methods=method_rows(findings.costs),
        stages=stage_rows(findings.costs),
        samples=[_sample_view(sample) for sample in findings.samples],
        facts=[(group, list(rows)) for group, rows in groupby(findings.facts, key=lambda fact: fact.group)],
        limits=limits(findings),
    )


def _pictures(findings: Findings) -> dict[str, Picture]:
    """The pictures beside the tables by key."""
    drawn = [match_picture(findings.matches), judge_picture(findings.judge)]
    drawn.append(frontier_picture(findings, "judge"))
    if any(policy.proxy_reward for policy in findings.policies):
        drawn.append(frontier_picture(findings, "proxy"))
    return {picture.key: picture for picture in drawn}


def _sample_view(sample: Sample) -> Mapping[str, object]:
    """A sample as the template shows it: the prompt as turns, the answers as they are."""
    if isinstance(sample.prompt, str):
        return {"turns": [("text to continue", sample.prompt)], "answers": sample.answers}
    return {"turns": [(turn.role, turn.content) for turn in sample.prompt], "answers": sample.answers}
