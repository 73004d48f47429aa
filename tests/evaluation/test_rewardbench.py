"""RewardBench's aggregation against its published example and figures computed by hand."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.evaluation import rewardbench
from trimtab.evaluation.rewardbench import row_results, scorecard
from trimtab.evaluation.rewardbench_subsets import PUBLISHED, SECOND, SECTIONS
from trimtab.formats.rewardbench import BenchmarkRow
from trimtab.statistics.intervals import wilson

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "rewardbench.json").read_text(encoding="utf-8"))
RIGHT, WRONG, TIE = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)


@pytest.fixture(autouse=True)
def fewer_rounds(monkeypatch):
    monkeypatch.setattr(rewardbench, "ROUNDS", 1000)


def pair(subset="all", chosen="a", rejected="b", stood=None):
    return BenchmarkRow(
        prompt="p", chosen=(chosen,), rejected=(rejected,), form="pair", subset=subset, chosen_stood=stood
    )


def best(subset, chosen, rejected, name=""):
    texts = ("x",) * len(chosen), ("y",) * len(rejected)
    return BenchmarkRow(
        prompt="p", chosen=texts[0], rejected=texts[1], form="best of n", subset=subset, id=name
    )


def card_of(rows, scores, **rest):
    return scorecard(row_results(rows, scores), **{"seed": 0} | rest)


def with_counts(counts):
    """A card of pairs: subset -> (rows, right)."""
    rows = [pair(name) for name, (size, _) in counts.items() for _ in range(size)]
    scores = [RIGHT if i < right else WRONG for size, right in counts.values() for i in range(size)]
    return card_of(rows, scores)


def sections(card):
    return {section.name: section.score.estimate for section in card.sections}


@pytest.fixture(scope="module")
def published():
    patch = pytest.MonkeyPatch()
    patch.setattr(rewardbench, "ROUNDS", 1000)
    yield with_counts({name: (s["rows"], s["right"]) for name, s in GOLDEN["subsets"].items()})
    patch.undo()


def test_the_published_example(published):
    assert published.benchmark == "RewardBench"
    figures = {**sections(published), "overall": published.overall.estimate}
    assert {name: round(100 * figure, 1) for name, figure in figures.items()} == GOLDEN["published"]
    for name, exact in GOLDEN["exact"].items():
        assert figures[name] == pytest.approx(float(Fraction(exact["score"])), abs=1e-12)
    assert figures["overall"] == pytest.approx(np.mean([figures[name] for name in SECTIONS]), abs=1e-12)
    for subset in published.subsets:
        golden = GOLDEN["subsets"][subset.name]
        assert subset.score == wilson(golden["right"], golden["rows"])
        assert subset.score.estimate == pytest.approx(golden["share"], abs=1e-12)
    assert published.incomplete == ()
    assert published.accuracy.n == 2985
    assert published.overall_with_prior is None


def test_the_sections_hold_as_many_rows_as_published():
    assert {name: sum(section.values()) for name, section in SECTIONS.items()} == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 1968,
    }
    assert sum(PUBLISHED["RewardBench"].values()) == 2985
    assert sum(SECOND.values()) == 1865


def test_prior_sets_are_a_plain_mean_and_count_half(published):
    prior = {name: tuple(counts) for name, counts in GOLDEN["prior"]["subsets"].items()}
    card = with_counts({name: (s["rows"], s["right"]) for name, s in GOLDEN["subsets"].items()} | prior)
    expected = float(Fraction(GOLDEN["prior"]["score"]))
    assert sections(card)["Prior Sets"] == pytest.approx(expected, abs=1e-12)
    assert card.overall.estimate == pytest.approx(published.overall.estimate, abs=1e-12)
    with_prior = (2 * sum(sections(published).values()) + expected) / 9
    assert card.overall_with_prior.estimate == pytest.approx(with_prior, abs=1e-12)


def test_a_partial_file_keeps_the_published_weights_and_says_so():
    card = with_counts({"math-prm": (2, 1), "hep-go": (4, 4)})
    assert sections(card) == {"Reasoning": pytest.approx((984 * 0.5 + 164) / (984 + 164), abs=1e-12)}
    assert card.overall is None
    assert card.incomplete == tuple(PUBLISHED["RewardBench"])
    assert card.accuracy.estimate == 5 / 6


def test_a_tie_is_wrong_and_counted():
    card = card_of([pair(), pair(), pair()], [RIGHT, TIE, WRONG])
    assert (card.benchmark, card.tied, card.overall) == ("own", 1, wilson(1, 3))
    assert [(s.name, s.rows, s.tied, s.score) for s in card.subsets] == [("all", 3, 1, wilson(1, 3))]


def test_a_model_that_says_one_number_scores_nothing():
    counts = PUBLISHED["RewardBench"]
    rows = [pair(name) for name in counts for _ in range(3)]
    card = card_of(rows, [TIE] * len(rows))
    expected = wilson(0, len(rows))
    assert (card.overall.low, card.overall.high) == (expected.low, pytest.approx(expected.high))
    assert set(sections(card).values()) == {0.0}
    assert card.tied == len(rows)


def test_random_scores_are_a_coin():
    generator = np.random.default_rng(3)
    rows = [pair(name) for name, size in PUBLISHED["RewardBench"].items() for _ in range(size)]
    card = card_of(rows, generator.normal(size=(len(rows), 2)).tolist())
    assert card.overall.contains(0.5) and card.overall.high - card.overall.low < 0.06
    assert card.accuracy.estimate == pytest.approx(0.5, abs=0.03)  # standard error 0.009
    four = [best(name, [0], [0, 0, 0], f"ref:{i}") for name in SECOND if name != "Ties" for i in range(300)]
    second = card_of(four, generator.normal(size=(len(four), 4)).tolist())
    assert second.accuracy.estimate == pytest.approx(0.25, abs=0.035)


def test_own_subsets_have_plain_accuracy_each():
    card = with_counts({"ours": (4, 3), "yours": (2, 0)})
    assert [(s.name, s.score) for s in card.subsets] == [("ours", wilson(3, 4)), ("yours", wilson(0, 2))]
    assert (card.benchmark, card.overall, card.sections) == ("own", wilson(3, 6), ())


def second_rows():
    golden = GOLDEN["best_of_n"]["rows"] + [{"subset": "Ties", **row} for row in GOLDEN["ties"]["rows"]]
    rows = [best(row["subset"], row["chosen"], row["rejected"], row.get("id", "")) for row in golden]
    return rows, [row["chosen"] + row["rejected"] for row in golden]


def test_the_second_rewardbench_by_hand():
    rows, scores = second_rows()
    card = card_of(rows, scores)
    credits = [result.credit for result in row_results(rows, scores)]
    golden = GOLDEN["best_of_n"]
    assert credits[: len(golden["rows"])] == [float(Fraction(row["credit"])) for row in golden["rows"]]
    figures = {subset.name: subset.score.estimate for subset in card.subsets}
    expected = {name: float(Fraction(figure)) for name, figure in golden["subsets"].items()}
    expected["Ties"] = 0.525 + 0.01 * GOLDEN["ties"]["margin"]
    assert figures == pytest.approx(expected, abs=1e-10)
    assert card.overall.estimate == pytest.approx(sum(expected.values()) / 6, abs=1e-10)
    assert card.benchmark == "RewardBench 2"
    ties = card.subsets[-1].ties
    for part in ("reference_accuracy", "tied_accuracy", "preferred", "preferred_hard"):
        assert getattr(ties, part) == pytest.approx(float(Fraction(GOLDEN["ties"][part])), abs=1e-12)
    assert ties.margin == pytest.approx(GOLDEN["ties"]["margin"], abs=1e-10)
    assert card.accuracy.n == len(golden["rows"])


def test_without_one_subset_there_is_no_overall():
    rows, scores = second_rows()
    kept = [index for index, row in enumerate(rows) if row.subset != "Focus"]
    card = card_of([rows[i] for i in kept], [scores[i] for i in kept])
    assert card.overall is None
    assert "Focus" in card.incomplete


@pytest.mark.parametrize(("k", "credit"), [(1, 1), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)])
def test_a_tie_of_k_shares_the_credit(k, credit):
    (result,) = row_results([best("Math", [0], [0] * 3)], [[5.0] * k + [1.0] * (4 - k)])
    assert result.credit == credit
    assert result.tied == (k > 1)


def test_several_correct_responses_share_the_top():
    (result,) = row_results([best("ours", [0, 0], [0])], [[2.0, 2.0, 2.0]])
    assert result.credit == 2 / 3


def ties_only(ids, scores=None):
    rows = [best("Ties", [0, 0], [0], name) for name in ids]
    return card_of(rows, scores or [[3.0, 2.5, 1.0]] * len(rows))


def test_ties_alone_keep_an_accuracy():
    card = ties_only(["ref:1", "tied:1"])
    assert card.accuracy == wilson(2, 2)
    assert card.lengths == ()


def test_rows_without_their_counterpart_count_in_the_accuracies_only():
    card = ties_only(["ref:1", "tied:1", "ref:2"], [[3, 2.5, 1], [3, 2.5, 1], [1, 1, 2]])
    parts = card.subsets[0].ties
    assert (parts.reference_accuracy, parts.tied_accuracy, parts.preferred) == (0.5, 1.0, 1.0)
    assert parts.questions == 2


@pytest.mark.parametrize(
    ("ids", "what"), [(["ref:1", "tied:2"], "both of its rows"), (["ref:1", "tied:1", "tied:1"], "twice")]
)
def test_ties_that_do_not_belong_together_are_refused(ids, what):
    with pytest.raises(DataError, match=what):
        ties_only(ids)


def test_lower_case_ties_are_the_subset():
    rows = [best("ties", [0, 0], [0], name) for name in ("ref:1", "tied:1")]
    assert card_of(rows, [[3.0, 2.5, 1.0]] * 2).subsets[0].name == "Ties"


def test_a_perfect_ties_subset_is_not_certain():
    """Its score is 1.01, and of no question of two would most others be otherwise."""
    (subset,) = ties_only([f"{kind}:{i}" for i in range(2) for kind in ("ref", "tied")]).subsets
    assert subset.score.estimate == pytest.approx(0.3 + 0.3 + 0.2 + 0.2 + 0.01 * np.tanh(2))
    spreadless = (
        ties_only([f"{kind}:{i}" for i in range(2) for kind in ("ref", "tied")], [[3.0, 3.0, 1.0]] * 4)
        .subsets[0]
        .score
    )
    assert (spreadless.estimate, spreadless.high, spreadless.n) == (
        pytest.approx(1.01),
        spreadless.estimate,
        2,
    )
    assert spreadless.low == pytest.approx(1.01 - wilson(0, 2).high * 1.02)
    worst = ties_only([f"{kind}:{i}" for i in range(2) for kind in ("ref", "tied")], [[1.0, 1.0, 3.0]] * 4)
    assert (worst.subsets[0].score.low, worst.subsets[0].score.estimate) == pytest.approx((-0.01, -0.01))
    assert worst.subsets[0].score.high > 0.5


def test_half_right_throughout_is_not_certain_either():
    """One subset all right and one all wrong: their mean stays 0.5 in every round of the bootstrap."""
    counts = {name: (20, 20 * (index % 2)) for index, name in enumerate(SECTIONS["Chat Hard"])}
    (section,) = with_counts(counts).sections
    assert section.score.estimate == pytest.approx((100 + 92 + 46) / 456)
    otherwise = wilson(0, 120).high
    assert section.score.low == pytest.approx(section.score.estimate * (1 - otherwise))
    assert section.score.high == pytest.approx(
        section.score.estimate + otherwise * (1 - section.score.estimate)
    )


@pytest.mark.parametrize("rows", [1, 30, 200])
def test_a_share_of_the_credit_on_every_row_is_not_certain(rows):
    """A model that says one number earns a quarter of each row of best of four."""
    card = card_of([best("ours", [0], [0, 0, 0])] * rows, [[1.0] * 4] * rows)
    assert card.accuracy.estimate == 0.25 and card.subsets[0].score == card.accuracy
    assert card.accuracy.low < 0.25 - 0.01 and card.accuracy.high > 0.25 + 0.01


def test_slices_by_length():
    rows = [pair(chosen=c, rejected=r) for c, r in (("long", "a"), ("long", "b"), ("a", "long"), ("a", "b"))]
    card = card_of(rows, [RIGHT, TIE, RIGHT, WRONG])
    assert [(s.name, s.rows, s.tied, s.accuracy) for s in card.lengths] == [
        ("chosen is longer", 2, 1, wilson(1, 2)),
        ("rejected is longer", 1, 0, wilson(1, 1)),
        ("same length", 1, 0, wilson(0, 1)),
    ]


def test_slices_by_position_only_where_the_file_tells():
    rows = [pair(stood="first"), pair(stood="second"), pair(stood="second"), pair()]
    card = card_of(rows, [RIGHT, WRONG, RIGHT, RIGHT])
    assert [(s.name, s.accuracy) for s in card.positions] == [
        ("chosen stood first", wilson(1, 1)),
        ("chosen stood second", wilson(1, 2)),
    ]
    assert card_of([pair()], [RIGHT]).positions == ()


@pytest.mark.parametrize(
    ("rows", "scores", "what"),
    [
        ([], [], "no rows"),
        ([pair()], [], "one list of scores a row"),
        ([pair()], [[1.0]], "1 scores for 2 responses"),
        ([pair()], [[1.0, float("nan")]], "not finite"),
        ([pair()], [[1.0, float("inf")]], "not finite"),
        ([pair(), best("Math", [0], [0])], [RIGHT, RIGHT], "together"),
    ],
)
def test_what_cannot_be_scored_is_refused(rows, scores, what):
    with pytest.raises(ValueError, match=what):
        card_of(rows, scores)


def test_the_seed_and_the_level_decide():
    counts = {name: (size, size // 2) for name, size in PUBLISHED["RewardBench"].items()}
    rows = [pair(name) for name, (size, _) in counts.items() for _ in range(size)]
    scores = [RIGHT if i < right else WRONG for size, right in counts.values() for i in range(size)]
    assert card_of(rows, scores) == card_of(rows, scores)
    wide, narrow = card_of(rows, scores), card_of(rows, scores, level=0.5)
    assert wide.overall.low < narrow.overall.low < narrow.overall.high < wide.overall.high
    assert card_of(rows, scores, seed=1).overall != wide.overall


def test_the_interval_is_as_wide_as_the_variances_of_the_subsets_say(published, monkeypatch):
    """Var(overall) = sum of (weight in its section / 4)^2 p(1-p)/n, the bootstrap's own p and n."""
    variance = 0.0
    for section in SECTIONS.values():
        for name, weight in section.items():
            golden = GOLDEN["subsets"][name]
            share = golden["right"] / golden["rows"]
            variance += (weight / sum(section.values()) / 4) ** 2 * share * (1 - share) / golden["rows"]
    interval = published.overall
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.08)
    assert (interval.low + interval.high) / 2 == pytest.approx(interval.estimate, abs=0.002)


def test_the_bootstrap_of_ties_is_that_of_drawing_questions():
    """Against a plain loop that draws questions with both of their rows."""
    generator = np.random.default_rng(2)
    ids = [f"{kind}:{i}" for i in range(30) for kind in ("ref", "tied")]
    scores = generator.normal([1.5, 1.5, 0.0], size=(60, 3)).tolist()
    by_question = [(scores[2 * i], scores[2 * i + 1]) for i in range(30)]

    def plain(drawn):
        ref = [min(r[:2]) - r[2] for r, _ in drawn]
        tied = [min(t[:2]) - t[2] for _, t in drawn]
        spread = [abs(t[0] - t[1]) for _, t in drawn]
        least = np.minimum(ref, tied)
        return (
            0.3 * np.mean(np.array(tied) > 0)
            + 0.3 * np.mean(np.array(ref) > 0)
            + 0.2 * np.mean(np.array(tied) > spread)
            + 0.2 * np.mean(least > spread)
            + 0.01 * np.mean(np.tanh(least / spread - 1))
        )

    loop = [plain([by_question[i] for i in generator.integers(0, 30, 30)]) for _ in range(2000)]
    interval = ties_only(ids, scores).subsets[0].score
    assert interval.estimate == pytest.approx(plain(by_question), abs=1e-12)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.03)
