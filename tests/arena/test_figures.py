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
from trimtab.health import RANGES


def all_pictures(findings):
    curves = [picture for _, group in curve_pictures(findings.curves) for picture in group]
    frontiers = [frontier_picture(findings, reward) for reward in ("judge", "proxy")]
    cards = [
        calibration_picture(card.quality.calibration, card, f"calibration-{index}")
        for index, card in enumerate(findings.cards)
    ]
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
        "run runs/test-ppo",
        "last checkpoint, seed 3",
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
    (data,) = calibration_picture(findings.cards[0].quality.calibration, findings.cards[0], "c").figure[
        "data"
    ]
    bins = findings.cards[0].quality.calibration.bins
    assert data["x"] == [100 * one.mean_probability for one in bins]
    assert data["y"] == [100 * one.happened.estimate for one in bins]


def test_a_curve_without_a_point_is_not_drawn():
    empty, broken = (
        Curve(stage="sft", metric="a", points=()),
        Curve(stage="sft", metric="b", points=((1, None),)),
    )
    assert curve_pictures([empty, broken]) == []


def test_what_a_value_outside_says_and_who_says_so_stands_under_the_curve():
    for usual in RANGES:
        curve = Curve(stage=usual.stage, metric=usual.metric, points=((0, 0.1), (1, 0.2)))
        ((_, (picture,)),) = curve_pictures([curve])
        assert picture.remark == f"Outside it: {usual.meaning}. Source: {usual.source}."
    ((_, (picture,)),) = curve_pictures([Curve(stage="sft", metric="loss", points=((0, 1.0),))])
    assert picture.remark == picture.note == ""


@pytest.mark.parametrize("loss", ["", "dpo", "ipo", "kto"])
def test_the_range_of_the_dpo_loss_is_that_of_no_other_loss(loss):
    points = ((0, 25.0), (50, 20.0))
    curves = [Curve(stage="dpo", metric=metric, points=points, loss=loss) for metric in ("loss", "margin")]
    ((_, (drawn, margin)),) = curve_pictures(curves)
    assert (drawn.note, "ln 2" in drawn.remark) == (
        ("usually below 0.69", True) if loss in ("", "dpo") else ("", False)
    )
    assert margin.note == "usually above 0"


def ticks_and_hovers(match):
    figure = match_picture((match,)).figure
    return figure["layout"]["yaxis"]["ticktext"][0], figure["data"][0]["text"][0]


def test_names_are_no_markup_and_hide_nothing(findings):
    name = '<a href="x">D\u202eO</a>'
    tick, hover = ticks_and_hovers(dataclasses.replace(findings.matches[0], left=name))
    assert tick == "&lt;a href=…02E⟧O&lt;/a&gt;<br>against PPO"
    assert hover.startswith('&lt;a href="x"&gt;D⟦U+202E⟧O&lt;/a&gt;<br>against PPO<br>59.5')


def test_short_names_stand_on_one_line_and_long_ones_on_two_without_their_middle(findings):
    assert ticks_and_hovers(findings.matches[0])[0] == "DPO against PPO"
    left, right = "dpo-beta-0.05-lr-5e-7-seed-17-epoch-2", "ppo-kl-0.05-adaptive-seed-17-512-episodes"
    tick, hover = ticks_and_hovers(dataclasses.replace(findings.matches[0], left=left, right=right))
    assert tick == "dpo-beta…7-epoch-2<br>against ppo-kl-0…-episodes"
    assert hover.startswith(f"{left}<br>against {right}<br>59.5")


@pytest.mark.parametrize(
    ("left", "right", "shown"),
    [
        ("policy-with-seed-1-of-a-long-run", "policy-with-seed-2-of-a-long-run", None),
        ("x" * 50 + "1" + "y" * 50, "x" * 50 + "2" + "y" * 50, None),
        ("x" * 60, "y" * 60, ("x" * 8 + "…" + "x" * 9, "y" * 8 + "…" + "y" * 9)),
    ],
)
def test_names_that_would_look_the_same_keep_what_tells_them_apart(findings, left, right, shown):
    tick, _ = ticks_and_hovers(dataclasses.replace(findings.matches[0], left=left, right=right))
    assert tick == "<br>against ".join(shown or (left, right))


def test_the_legend_is_short_and_the_mouse_shows_the_whole_name(findings):
    name = "ppo-kl-0.05-adaptive-seed-17-512-episodes\u202e"
    ppo = dataclasses.replace(findings.policies[1], name=name)
    match = dataclasses.replace(findings.matches[1], left=name)
    some = dataclasses.replace(
        findings, policies=(findings.policies[0], ppo), matches=(match,), samples=(), ranking=None
    )
    mark = frontier_picture(some, "judge").figure["data"][1]
    assert mark["name"] == "ppo-kl-0…s⟦U+202E⟧"
    assert mark["text"][0].split("<br>")[0] == name.replace("\u202e", "⟦U+202E⟧")
