"""The pictures: valid for plotly, and at the numbers given."""

import dataclasses

import plotly.graph_objects as go
import pytest

from trimtab.arena.figures import (
    calibration_picture,
    curve_pictures,
    frontier_picture,
    judge_picture,
    match_picture,
)
from trimtab.arena.findings import Curve


def all_pictures(findings):
    curves = [picture for _, group in curve_pictures(findings.curves) for picture in group]
    frontiers = [frontier_picture(findings, reward) for reward in ("judge", "proxy")]
    cards = [calibration_picture(card, f"calibration-{index}") for index, card in enumerate(findings.cards)]
    return [match_picture(findings.matches), judge_picture(findings.judge), *frontiers, *cards, *curves]


def test_plotly_accepts_every_figure(findings):
    pictures = all_pictures(findings)
    for picture in pictures:
        go.Figure(picture.figure)  # raises ValueError for a name or value that plotly does not know
        assert picture.label and picture.title
    assert len({picture.key for picture in pictures}) == len(pictures) == 14


@pytest.mark.parametrize(
    ("reward", "values"), [("judge", (0.123, 0.287, 0.412)), ("proxy", (-0.051, 0.846, 0.214))]
)
def test_the_frontier_stands_where_the_numbers_say(findings, reward, values):
    marks = frontier_picture(findings, reward).figure["data"]
    assert [mark["x"] for mark in marks] == [[0.0], [6.417], [3.951]]
    assert [mark["y"] for mark in marks] == [[value] for value in values]
    dpo = marks[2]
    for bar, value, interval in (
        ("error_x", dpo["x"][0], findings.policies[2].kl),
        ("error_y", dpo["y"][0], getattr(findings.policies[2], f"{reward}_reward")),
    ):
        assert value + dpo[bar]["array"][0] == pytest.approx(interval.high)
        assert value - dpo[bar]["arrayminus"][0] == pytest.approx(interval.low)


def test_the_forest_stands_where_the_numbers_say(findings):
    (data,) = match_picture(findings.matches).figure["data"]
    rates = [match.win_rate for match in findings.matches]
    assert data["x"] == pytest.approx([59.5, 53.0, 63.0])
    highs = [x + more for x, more in zip(data["x"], data["error_x"]["array"], strict=True)]
    assert highs == pytest.approx([100 * rate.high for rate in rates])
    lows = [x - less for x, less in zip(data["x"], data["error_x"]["arrayminus"], strict=True)]
    assert lows == pytest.approx([100 * rate.low for rate in rates])


def test_a_policy_without_proxy_has_no_mark(findings):
    sft, *others = findings.policies
    changed = dataclasses.replace(findings, policies=(dataclasses.replace(sft, proxy_reward=None), *others))
    assert len(frontier_picture(changed, "proxy").figure["data"]) == 2


def test_curves_are_grouped_and_keep_their_gaps(findings):
    groups = dict(curve_pictures(findings.curves))
    assert list(groups) == ["sft", "reward", "ppo", "dpo"]
    entropy = groups["ppo"][2].figure["data"][0]
    assert entropy["y"][3] is None and entropy["y"][4] == 2.0
    assert "1 steps without a finite value" in groups["ppo"][2].label


def test_a_mark_says_where_it_comes_from(findings):
    text = frontier_picture(findings, "judge").figure["data"][1]["text"][0]
    assert text.split("<br>") == [
        "PPO",
        "reward 0.29 [0.20, 0.37]",
        "KL 6.42 [6.20, 6.63] nats",
        "run runs/test-ppo, last checkpoint, seed 3",
    ]


def test_the_usual_range_lies_behind_the_curve_as_far_as_it_reaches():
    def band(stage, metric, *values):
        points = tuple(enumerate(values))
        ((_, (picture,)),) = curve_pictures([Curve(stage=stage, metric=metric, points=points)])
        shapes = picture.figure["layout"]["shapes"]
        return [(shape["y0"], shape["y1"]) for shape in shapes], picture.note

    ((low, high),), note = band("ppo", "kl", 0.0, 10.0, 20.0)
    assert (low, high) == (-0.5, 15.0) and note == "usually -0.5 to 15"
    ((low, high),), note = band("dpo", "margin", 1.0, 3.0)
    assert (low, high) == pytest.approx((0.9, 3.1)) and note == "usually above 0"
    assert band("dpo", "margin", -3.0, -1.0) == ([], "usually above 0")
    assert band("sft", "loss", 1.0, 2.0) == ([], "")


def test_calibration_stands_where_the_numbers_say(findings):
    (data,) = calibration_picture(findings.cards[0], "c").figure["data"]
    bins = findings.cards[0].quality.calibration.bins
    assert data["x"] == [100 * one.mean_probability for one in bins]
    assert data["y"] == [100 * one.happened.estimate for one in bins]


def test_a_curve_without_a_point_is_not_drawn():
    empty, broken = (
        Curve(stage="sft", metric="a", points=()),
        Curve(stage="sft", metric="b", points=((1, None),)),
    )
    assert curve_pictures([empty, broken]) == []


def test_names_are_no_markup(findings):
    name = '<a href="javascript:alert(1)">DPO</a>'
    match = dataclasses.replace(findings.matches[0], left=name)
    (label,) = match_picture((match,)).figure["layout"]["yaxis"]["ticktext"]
    assert label == '&lt;a href="javascript:alert(1)"&gt;DPO&lt;/a&gt; against PPO'
