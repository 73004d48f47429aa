"""The report: one HTML page that opens offline, and the same facts as JSON beside it.

Prompts and answers are hostile text. Three things keep it text: Jinja2 escapes all that is
printed, characters that could reorder or hide text are shown as signs, and the page's content
security policy runs no script but its own and loads nothing from anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from trimtab.arena.cost import method_rows, stage_rows
from trimtab.arena.figures import Picture, curve_pictures, frontier_picture, judge_picture, match_picture
from trimtab.arena.findings import Findings, Sample, limits, match_rows, summary_rows, to_json
from trimtab.runs.files import write_text
from trimtab.statistics.intervals import number


def _visible_signs() -> dict[int, str]:
    """Characters that a page would drop, or that reorder the text around them, with their stand-ins."""
    signs = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
    signs[0x7F] = "\u2421"
    hidden = (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    signs |= {code: f"⟦U+{code:04X}⟧" for code in hidden}
    return signs | {code: "\ufffd" for code in range(0xD800, 0xE000)}


VISIBLE_SIGNS = _visible_signs()


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
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["signed"] = lambda value: number(value, 2)
    template = environment.from_string(files("trimtab.arena").joinpath("report.html").read_text("utf-8"))
    return template.render(
        findings=findings,
        nonce=nonce,
        plotly=Markup(get_plotlyjs()),
        figures={picture.key: picture.figure for picture in drawn},
        pictures=pictures,
        training=training,
        matches=match_rows(findings),
        policies=summary_rows(findings),
        methods=method_rows(findings.costs),
        stages=stage_rows(findings.costs),
        samples=[_sample_view(sample) for sample in findings.samples],
        facts=[(group, list(rows)) for group, rows in groupby(findings.facts, key=lambda fact: fact.group)],
        limits=limits(findings),
    )


def visible(text: str) -> str:
    """`text` with control, bidirectional and broken characters shown as signs."""
    return text.replace("\r\n", "\n").translate(VISIBLE_SIGNS)


def _shown(value: object) -> object:
    # Exactly str: Markup is our own, and plotly's source holds such characters on purpose.
    return visible(value) if type(value) is str else value


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
