"""The findings as JSON and as rows."""

import dataclasses
import json
import math

import pytest

from trimtab.arena.findings import (
    Answer,
    Sample,
    curve,
    from_json,
    read_findings,
    to_json,
)
from trimtab.arena.sentences import limits, meaning
from trimtab.arena.tables import (
    difference_rows,
    interval_rows,
    match_rows,
    matrix_rows,
    p_value,
    ranking_rows,
    summary_rows,
)
from trimtab.arena.winrate import JudgeQuality, ScoreDifference
from trimtab.errors import DataError
from trimtab.statistics.intervals import Interval, wilson
from trimtab.statistics.paired import SignFlipTest, sign_test
from trimtab.statistics.rates import RateInterval

HOSTILE = "<script>alert(1)</script>\x00\u202e\u2066 \u2028 \U0001f600 \\ \" '"


def with_text(findings, text):
    answer = dataclasses.replace(findings.samples[0].answers[0], text=text)
    return dataclasses.replace(findings, samples=(Sample(prompt=text, answers=(answer,)),))


def test_json_comes_back_as_it_was(findings):
    assert from_json(to_json(findings)) == findings


@pytest.mark.parametrize("text", ["", HOSTILE, "x" * 100_000])
def test_any_text_comes_back_as_it_was(findings, text):
    changed = with_text(findings, text)
    assert from_json(to_json(changed)) == changed


def test_half_a_surrogate_pair_does_not_stop_the_report(findings):
    back = from_json(to_json(with_text(findings, "before \ud83d after")))
    assert back.samples[0].answers[0].text == "before ? after"


def test_json_holds_the_headline_and_the_numbers(findings):
    data = json.loads(to_json(findings))
    assert data["headline"] == findings.headline
    assert data["policies"][1]["kl"]["estimate"] == 6.417
    assert data["costs"][3]["tokens_generated"] == 32_768


def test_a_missing_proxy_comes_back(findings):
    policies = tuple(dataclasses.replace(policy, proxy_reward=None) for policy in findings.policies)
    changed = dataclasses.replace(findings, policies=policies)
    assert from_json(to_json(changed)) == changed
    assert [row[3] for row in summary_rows(changed)[1:]] == ["none"] * 3
    assert not any("proxy" in limit for limit in limits(changed))


def test_numbers_that_json_cannot_hold_are_refused(findings):
    answer = dataclasses.replace(findings.samples[0].answers[0], kl=math.nan)
    with pytest.raises(ValueError):
        to_json(dataclasses.replace(findings, samples=(Sample(prompt="p", answers=(answer,)),)))


def test_summary_rows(findings):
    head, _, ppo, _ = summary_rows(findings)
    assert dict(zip(head, ppo, strict=True)) == {
        "policy": "PPO",
        "prompts": "200",
        "judge reward": "0.29 [0.20, 0.37]",
        "proxy reward": "0.85 [0.78, 0.92]",
        "KL, nats": "6.42 [6.20, 6.63]",
        "tokens": "58.3 [55.4, 61.2]",
        "stopped": "46.0\u00a0% [39.2, 52.9]",
        "repetition": "4.1\u00a0% [2.9, 5.3]",
        "distinct-2": "0.62",
        "run": "runs/test-ppo",
        "seed": "3",
    }


def test_match_rows(findings):
    _, first, second, _ = match_rows(findings)
    rates = ("59.5\u00a0% [52.7, 66.3]", "57.5\u00a0% [50.5, 64.5]")
    assert first == ("DPO", "PPO", *rates, "117", "4", "79", "0.024", "DPO preferred")
    assert second[-1] == "no clear winner"
    bare = dataclasses.replace(findings.matches[0], controlled=None)
    assert match_rows(dataclasses.replace(findings, matches=(bare,)))[1][3] == ""


def test_every_rate_has_both_intervals_and_the_lengths_behind_it(findings):
    head, first, *_ = interval_rows(findings)
    assert dict(zip(head, first, strict=True)) == {
        "policy": "DPO",
        "against": "PPO",
        "bootstrap": "59.5\u00a0% [52.7, 66.3]",
        "Wilson score": "59.5\u00a0% [52.7, 66.3]",
        "at equal length": "57.5\u00a0% [50.5, 64.5]",
        "worth of length, nats": "0.30 [0.10, 0.50]",
        "mean characters": "212",
        "and the other's": "190",
        "note": "",
    }
    bare = dataclasses.replace(findings.matches[0], controlled=None)
    assert interval_rows(dataclasses.replace(findings, matches=(bare,)))[1][4:] == ("",) * 5


def test_differences_of_scores_have_rows_where_there_are_any(findings):
    assert len(difference_rows(findings)) == 1
    test = SignFlipTest(mean=0.25, p_value=0.01, n=200, patterns=20_000, exact=False)
    apart = ScoreDifference(mean=Interval(0.25, 0.1, 0.4, 0.95, 200), test=test, p_adjusted=0.03)
    scored = dataclasses.replace(findings.matches[0], difference=apart)
    rows = difference_rows(dataclasses.replace(findings, matches=(scored, *findings.matches[1:])))
    assert rows[1:] == [("DPO", "PPO", "0.25 [0.10, 0.40]", "200", "0.030")]


def test_a_matrix_holds_every_rate_from_both_sides(findings):
    head, sft, ppo, dpo = matrix_rows(findings)
    assert head == ("preferred to", "SFT", "PPO", "DPO")
    assert ppo == ("PPO", "53.0\u00a0% [46.2, 59.8]", "", "40.5\u00a0% [33.7, 47.3]")
    assert sft[1] == "" and sft[2] == "47.0\u00a0% [40.2, 53.8]" and dpo[2] == "59.5\u00a0% [52.7, 66.3]"


def test_the_strongest_stands_first(findings):
    assert [row[:2] for row in ranking_rows(findings.ranking)[1:]] == [
        ("DPO", "1"),
        ("PPO", "1"),
        ("SFT", "3"),
    ]


@pytest.mark.parametrize(("value", "text"), [(0.0, "< 0.001"), (0.0012, "0.001"), (1.0, "1.000")])
def test_p_values_are_short(value, text):
    assert p_value(value) == text


def test_the_meaning_says_what_the_headline_is_worth(findings):
    said = meaning(findings)
    assert said[0] == "Of 100 more prompts of this kind, this judge would prefer DPO on about 60."
    assert "needs about 385 decisive judgments; here there are 196" in said[1]
    assert "at equal length DPO would be preferred on 57.5" in said[2]
    undecided = dataclasses.replace(findings, matches=findings.matches[1:])
    assert meaning(undecided)[0].startswith("The interval holds 50 %")
    coin = JudgeQuality(
        name="coin", accuracy=wilson(125, 250), rule=wilson(144, 250), rule_name="shorter wins"
    )
    assert meaning(dataclasses.replace(findings, judge=coin))[0].startswith("Until the judge agrees")


def test_a_difference_that_is_clear_alone_is_not_when_several_are_made(findings):
    """115 wins of 200: p = 0.04 alone, 0.12 as one of three."""
    test = sign_test(115, 85)
    rate = Interval(0.575, 0.505, 0.643, 0.95, 200)
    alone = dataclasses.replace(
        findings.matches[0],
        rate=RateInterval(bootstrap=rate, score=rate, caution=""),
        test=test,
        p_adjusted=test.p_value,
    )
    assert alone.winner == "DPO" and not alone.clear_alone
    among = dataclasses.replace(alone, p_adjusted=3 * test.p_value)
    assert among.winner is None and among.clear_alone
    changed = dataclasses.replace(findings, matches=(among, *findings.matches[1:]))
    assert changed.headline.startswith(
        "No clear winner between DPO and PPO, adjusted for several comparisons: DPO was preferred on 57"
    )
    assert any("with 3 comparisons one such is no surprise" in one for one in meaning(changed))
    assert match_rows(changed)[1][-1] == "no clear winner"


def test_limits_say_only_what_holds(findings):
    said = " ".join(limits(findings))
    assert "by a penalty" in said and "units of their own" in said
    quiet = dataclasses.replace(
        findings,
        policies=tuple(
            dataclasses.replace(policy, judge_reward=None, proxy_reward=None, method="dpo")
            for policy in findings.policies
        ),
    )
    said = " ".join(limits(quiet))
    assert "by a penalty" not in said and "units of their own" not in said and "proxy" not in said


def test_the_headline_says_what_it_cost(findings):
    # DPO: 1,204 + 181 + 1,322 s, PPO: 1,204 + 1,490 + 3,605 s.
    assert findings.headline.endswith(", at 43\u00a0% of PPO's training time.")
    assert findings.cost_phrase("PPO", "DPO") == "at 2.3 times DPO's training time"
    assert findings.cost_phrase("SFT", "SFT") == ""
    free = dataclasses.replace(findings, costs=())
    assert free.headline.endswith("interval 53 to 66\u00a0%).")


def test_rows_name_no_winner_when_the_judge_cannot_tell(findings):
    coin = JudgeQuality(
        name="coin", accuracy=wilson(125, 250), rule=wilson(144, 250), rule_name="shorter wins"
    )
    rows = match_rows(dataclasses.replace(findings, judge=coin))
    assert {row[-1] for row in rows[1:]} == {"this judge cannot tell"}


def test_limits_count_what_there_is(findings):
    said = " ".join(limits(findings))
    assert "One training run of each method" in said and "3 comparisons were made" in said
    assert limits(findings)[-1] == findings.caveats[-1]
    assert "adjusted for that (Holm)" in said and "no verdict" not in said
    silent = dataclasses.replace(findings.matches[0], unjudged=7)
    assert "On 7 pairs of answers" in " ".join(limits(dataclasses.replace(findings, matches=(silent,))))
    other = dataclasses.replace(findings, seeds=3, matches=findings.matches[:1])
    assert "3 training runs" in " ".join(limits(other)) and "comparisons were made" not in " ".join(
        limits(other)
    )


def test_a_curve_keeps_gaps_and_skips_other_rows():
    rows = [
        {"step": 0, "loss": 1.0},
        {"step": 1, "accuracy": 0.5},
        {"step": 2, "loss": math.nan},
        {"step": 3, "loss": 2},
        {"loss": 9.0},
        {"step": 4, "loss": None},
        {"step": 5, "loss": -math.inf},
    ]
    assert curve("sft", "loss", rows).points == ((0, 1.0), (2, None), (3, 2.0), (5, None))


def test_a_comparison_knows_its_policies(findings):
    with pytest.raises(ValueError, match="same name"):
        dataclasses.replace(findings, policies=findings.policies + findings.policies[:1])
    with pytest.raises(ValueError, match="not among the policies: DPO"):
        dataclasses.replace(findings, policies=findings.policies[:2])
    with pytest.raises(ValueError, match="at least one match"):
        dataclasses.replace(findings, matches=())
    stranger = Answer(policy="?", text="", judge_score=0, proxy_score=None, kl=0, tokens=1, ended="stop")
    with pytest.raises(ValueError, match="policies"):
        dataclasses.replace(findings, samples=(Sample(prompt="p", answers=(stranger,)),))


def test_reading_a_report(findings, tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(DataError, match="no report"):
        read_findings(path)
    path.write_text('{"title": "x"}')
    with pytest.raises(DataError, match="not a report"):
        read_findings(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a report"):
        read_findings(path)
    path.write_text(to_json(findings))
    assert read_findings(path) == findings
