"""The report's pictures, as plotly figures in plain data.

Colours of text and lines come from the page's style sheet, so that light, dark and print need no
second drawing; only the marks are coloured here, in tones that are readable on both grounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from trimtab.arena.findings import Curve, Findings, PolicyResult, RewardCard
from trimtab.arena.winrate import CHANCE, JudgeQuality, Match
from trimtab.health import Healthy, healthy
from trimtab.hidden import visible
from trimtab.pages.page import Figure, Picture, plotly_text
from trimtab.pages.pictures import QUIET_LINE, SCORER_COLOUR, error_bars, reliability_picture
from trimtab.statistics.calibration import Calibration
from trimtab.statistics.intervals import Interval, number

METHOD_COLOURS = {
    "sft": "#7d8791",
    "ppo": "#cf7a1f",
    "dpo": "#3f83cc",
    "reward": SCORER_COLOUR,
    "judge": SCORER_COLOUR,
}
METHOD_SYMBOLS = {"sft": "circle", "ppo": "square", "dpo": "diamond"}
OTHER_COLOUR = "#3c9a78"
NAME_ROOM = 18
"""Characters of a name that fit beside a plot on a phone; a longer one is whole in what the mouse shows."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One rate of a forest plot; its two texts are plotly's."""

    rate: Interval
    name: str
    """Beside the plot."""
    told: str
    """When the mouse is on it, before the numbers."""


def match_picture(matches: tuple[Match, ...]) -> Picture:
    """The win rates on one scale from 0 to 100 %."""
    rows = [(f"{match.left} against {match.right}", match.win_rate) for match in matches]
    short = _short(name for match in matches for name in (match.left, match.right))
    return Picture(
        key="matches",
        title="Preferred on, % of prompts",
        label=_rates_label("Share of prompts on which the first policy was preferred", rows),
        figure=_forest([_match_line(match, short) for match in matches], "#3f83cc", "% of prompts"),
    )


def _match_line(match: Match, short: Mapping[str, str]) -> _Line:
    left, right = short[match.left], short[match.right]
    between = " " if len(left) + len(right) <= NAME_ROOM else "<br>"
    return _Line(
        rate=match.win_rate,
        name=f"{plotly_text(left)}{between}against {plotly_text(right)}",
        told=f"{plotly_text(match.left)}<br>against {plotly_text(match.right)}<br>",
    )


def judge_picture(judge: JudgeQuality) -> Picture:
    """The judge's accuracy above that of the rule it has to beat."""
    rows = [("this judge", judge.accuracy), (judge.rule_name, judge.rule)]
    lines = [_Line(rate, name, "") for name, rate in rows]
    return Picture(
        key="judge",
        title=f"Agrees with {judge.by} on, % of held-out pairs",
        label=_rates_label(f"Share of held-out pairs on which {judge.by} are agreed with", rows),
        figure=_forest(lines, SCORER_COLOUR, "% of held-out pairs"),
    )


def frontier_picture(findings: Findings, reward: Literal["judge", "proxy"]) -> Picture:
    """Mean reward against KL from the reference, one mark a policy, error bars both ways."""
    title = "Judge reward" if reward == "judge" else "Proxy reward (PPO was trained on this)"
    points = []
    for policy in findings.policies:
        value = policy.judge_reward if reward == "judge" else policy.proxy_reward
        if value is not None:
            points.append((policy, value))
    short = _short(policy.name for policy, _ in points)
    said = "; ".join(
        f"{policy.name}: reward {y.text()} at KL {policy.kl.text()} nats" for policy, y in points
    )
    return Picture(
        key=f"frontier-{reward}",
        title=title,
        label=f"{title} against KL from the reference, with intervals. {said}.",
        figure={
            "data": [_frontier_mark(policy, value, short[policy.name]) for policy, value in points],
            "layout": {
                "height": 340,
                "xaxis": {"title": {"text": "KL, nats per response"}, "zeroline": True},
                "yaxis": {"title": {"text": "mean reward"}, "zeroline": False},
                "margin": {"l": 58, "r": 14, "t": 12, "b": 52},
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "showlegend": True,
            },
        },
    )


def curve_pictures(curves: Iterable[Curve]) -> list[tuple[str, list[Picture]]]:
    """The training curves, stage by stage in the order given; a curve without points is left out."""
    known = [curve for curve in curves if any(value is not None for _, value in curve.points)]
    drawn = [(curve.stage, _curve_picture(curve, f"curve-{index}")) for index, curve in enumerate(known)]
    return [
        (stage, [picture for _, picture in group])
        for stage, group in groupby(drawn, key=lambda pair: pair[0])
    ]


def _curve_picture(curve: Curve, key: str) -> Picture:
    known = [(step, value) for step, value in curve.points if value is not None]
    ends = " to ".join(f"{number(value, 3)} at step {step}" for step, value in (known[0], known[-1]))
    gaps = len(curve.points) - len(known)
    usual = _usual(curve)
    return Picture(
        key=key,
        title=curve.metric,
        label=f"{curve.metric} of {curve.stage} by step, from {ends}; {gaps} steps without a finite value."
        + (f" {usual.text}" if usual else ""),
        note=usual.text if usual else "",
        remark=f"Outside it: {usual.meaning}. Source: {usual.source}." if usual else "",
        figure={
            "data": [
                {
                    "type": "scatter",
                    "mode": "lines" if len(curve.points) > 1 else "markers",
                    "x": [step for step, _ in curve.points],
                    "y": [value for _, value in curve.points],
                    "line": {"color": METHOD_COLOURS.get(curve.stage, OTHER_COLOUR), "width": 1.8},
                    "hovertemplate": "step %{x}: %{y:.4g}<extra></extra>",
                }
            ],
            "layout": {
                "height": 190,
                "xaxis": {"title": {"text": "step"}, "zeroline": False, "nticks": 5},
                "yaxis": {"zeroline": False, "nticks": 5},
                "margin": {"l": 46, "r": 8, "t": 6, "b": 40},
                "shapes": _band(usual, [value for _, value in known]) if usual else [],
                "showlegend": False,
            },
        },
    )


def _usual(curve: Curve) -> Healthy | None:
    """The range that is known for it. That of DPO's loss is not that of the other preference losses."""
    if (curve.stage, curve.metric) == ("dpo", "loss") and curve.loss not in ("", "dpo"):
        return None
    return healthy(curve.stage, curve.metric)


def _band(usual: Healthy, values: list[float | None]) -> list[Figure]:
    """The usual range behind the curve, as far as the curve's own axis reaches."""
    seen = [value for value in values if value is not None]
    room = (max(seen) - min(seen) or 1.0) / 20
    low, high = max(usual.low, min(seen) - room), min(usual.high, max(seen) + room)
    if low >= high:
        return []
    area = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high, "layer": "below"}
    return [{**area, "line": {"width": 0}, "fillcolor": "rgba(60, 154, 120, 0.13)"}]


def calibration_picture(calibration: Calibration, card: RewardCard, key: str) -> Picture:
    """How often the response that a model prefers is the one people chose, against how sure it is."""
    title = f"{card.role}: how sure it is, and how often it is right"
    return reliability_picture(calibration, key=key, title=title, name=f"the {card.role} {card.name}")


def _frontier_mark(policy: PolicyResult, value: Interval, name: str) -> Figure:
    colour = METHOD_COLOURS.get(policy.method, OTHER_COLOUR)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(name),
        "x": [policy.kl.estimate],
        "y": [value.estimate],
        "error_x": error_bars([policy.kl], 1),
        "error_y": error_bars([value], 1),
        "marker": {"color": colour, "size": 12, "symbol": METHOD_SYMBOLS.get(policy.method, "x")},
        "text": ["<br>".join(plotly_text(line) for line in _hover(policy, value))],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(policy: PolicyResult, value: Interval) -> list[str]:
    """What a mark says of itself: the policy, its numbers, and where they come from."""
    seed = "" if policy.seed is None else f", seed {policy.seed}"
    return [
        policy.name,
        f"reward {value.text()}",
        f"KL {policy.kl.text()} nats",
        f"run {policy.run}",
        f"last checkpoint{seed}",
    ]


def _forest(lines: Sequence[_Line], colour: str, unit: str) -> Figure:
    """A mark with its interval for each rate, 50 % drawn through."""
    data = {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * line.rate.estimate for line in lines],
        "y": list(range(len(lines))),
        "error_x": error_bars([line.rate for line in lines], 100),
        "marker": {"color": colour, "size": 11, "symbol": "square"},
        "text": [f"{line.told}{line.rate.percent()}" for line in lines],
        "hovertemplate": "%{text}<extra></extra>",
    }
    middle = 100 * CHANCE
    half = {"type": "line", "x0": middle, "x1": middle, "yref": "paper", "y0": 0, "y1": 1}
    return {
        "data": [data],
        "layout": {
            "height": 74 + 46 * len(lines),
            "xaxis": {"range": [0, 100], "title": {"text": unit}, "zeroline": False, "dtick": 25},
            "yaxis": {
                "range": [len(lines) - 0.4, -0.6],
                "tickvals": list(range(len(lines))),
                "ticktext": [line.name for line in lines],
                "automargin": True,
                "showgrid": False,
                "zeroline": False,
            },
            "shapes": [{**half, "line": QUIET_LINE}],
            "margin": {"l": 10, "r": 14, "t": 6, "b": 46},
            "showlegend": False,
        },
    }


def _rates_label(what: str, rows: list[tuple[str, Interval]]) -> str:
    return f"{what}. " + "; ".join(f"{name}: {rate.percent()}" for name, rate in rows) + "."


def _short(names: Iterable[str]) -> dict[str, str]:
    """Each name, its middle left out where it is long, with as much room as keeps all of them apart."""
    shown = {name: visible(name) for name in names}
    for room in (NAME_ROOM, 2 * NAME_ROOM):
        cut = {name: _cut(text, room) for name, text in shown.items()}
        if len(set(cut.values())) == len(cut):
            return cut
    return shown


def _cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    end = room // 2
    return f"{text[: room - end - 1]}…{text[-end:]}"
