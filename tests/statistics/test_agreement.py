"""Agreement against the krippendorff package, published examples and plain loops."""

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.statistics.agreement import cohens_kappa, nominal_alpha, ordinal_alpha, raw_agreement
from trimtab.statistics.intervals import wilson

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: four observers, twelve units.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
RATINGS = st.integers(2, 4).flatmap(
    lambda raters: st.lists(
        st.lists(st.sampled_from([None, 1, 2, 3, 7]), min_size=raters, max_size=raters),
        min_size=2,
        max_size=12,
    )
)


def test_the_published_example():
    assert nominal_alpha(PUBLISHED, seed=0).estimate == pytest.approx(0.743, abs=5e-4)
    assert ordinal_alpha(PUBLISHED, seed=0).estimate == pytest.approx(0.815, abs=5e-4)
    assert nominal_alpha(PUBLISHED, seed=0).n == 11  # one unit has a single rating


@given(RATINGS)
@settings(deadline=None, max_examples=60)
def test_alpha_is_the_packages(items):
    matrix = np.array([[np.nan if label is None else label for label in item] for item in items]).T
    paired = (~np.isnan(matrix)).sum(axis=0) > 1
    assume(len({label for label in matrix[:, paired].ravel() if label == label}) > 1)
    rows = matrix.tolist()
    for scale, ours in (("nominal", nominal_alpha), ("ordinal", ordinal_alpha)):
        # Only labels that take part count, so only those are handed over.
        theirs = krippendorff.alpha(reliability_data=matrix[:, paired], level_of_measurement=scale)
        assert ours(rows, seed=0, rounds=100).estimate == pytest.approx(theirs, abs=1e-9)


def ratings_of(alpha_like, items, seed):
    """Two raters: with this probability the second copies the first, else both draw by themselves."""
    generator = np.random.default_rng(seed)
    first = generator.choice(3, items, p=[0.5, 0.3, 0.2])
    second = np.where(
        generator.random(items) < alpha_like, first, generator.choice(3, items, p=[0.5, 0.3, 0.2])
    )
    return first.tolist(), second.tolist()


def test_kappa_is_the_formula_in_plain_floats():
    first, second = (
        ["a"] * 20 + ["a"] * 5 + ["b"] * 10 + ["b"] * 15,
        ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15,
    )
    # Observed 35 / 50; expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    found = cohens_kappa(first, second, seed=0)
    assert found.estimate == pytest.approx(0.4)
    assert (found.n, found.method) == (50, "BCa bootstrap over items")


def test_what_one_of_them_did_not_judge_is_left_out():
    first, second = ratings_of(0.5, 40, 1)
    holes = [*first, None, 2, float("nan")], [*second, 1, None, 1]
    assert cohens_kappa(*holes, seed=3) == cohens_kappa(first, second, seed=3)
    assert nominal_alpha(holes, seed=3) == nominal_alpha([first, second], seed=3)
    assert raw_agreement(holes, seed=3) == raw_agreement([first, second], seed=3)


def test_the_interval_is_that_of_items_drawn_one_by_one():
    first, second = ratings_of(0.5, 60, 2)
    found = cohens_kappa(first, second, seed=0, rounds=4000)
    generator = np.random.default_rng(1)

    def kappa(rows):
        a, b = np.array(first)[rows], np.array(second)[rows]
        expected = sum((a == label).mean() * (b == label).mean() for label in range(3))
        return ((a == b).mean() - expected) / (1 - expected)

    rounds = [kappa(generator.integers(0, 60, 60)) for _ in range(4000)]
    # BCa shifts percentiles a little; the spread is what the law of the draws decides.
    assert found.high - found.low == pytest.approx(
        np.subtract(*np.quantile(rounds, [0.975, 0.025])), rel=0.08
    )
    assert found.low == pytest.approx(np.quantile(rounds, 0.025), abs=0.04)


@pytest.mark.parametrize(
    "measure", [nominal_alpha, ordinal_alpha, lambda rows, **kw: cohens_kappa(*rows, **kw)]
)
def test_it_holds_the_truth_as_often_as_it_says(measure):
    """Copying with probability c makes kappa and both alphas c."""
    held = [measure(ratings_of(0.6, 150, seed), seed=seed, rounds=300).contains(0.6) for seed in range(200)]
    assert 0.9 < np.mean(held) < 0.985


def test_raw_agreement_of_two_is_a_count():
    first, second = ["a"] * 130 + ["b"] * 70, ["a"] * 200
    found = raw_agreement([first, second], seed=0)
    assert found.score == wilson(130, 200) and found.quoted == found.bootstrap


def test_raw_agreement_of_three_is_a_mean_of_pairs():
    found = raw_agreement([["x", "x", "y"], ["x", "y", "y"], ["x", "z", None]], seed=0)
    assert found.score.estimate == pytest.approx((1 + 0 + 1) / 3)
    assert found.score.n == 3


@given(st.permutations(range(3)), st.permutations(range(30)))
@settings(deadline=None, max_examples=20)
def test_labels_raters_and_items_may_be_permuted(labels, items):
    first, second = ratings_of(0.5, 30, 6)
    renamed = [[f"label {labels[row[item]]}" for item in items] for row in (second, first)]
    here, there = nominal_alpha([first, second], seed=0), nominal_alpha(renamed, seed=0)
    assert here.estimate == pytest.approx(there.estimate, abs=1e-12)
    assert cohens_kappa(first, second, seed=0).estimate == pytest.approx(
        cohens_kappa(*renamed, seed=0).estimate, abs=1e-12
    )


def test_only_the_order_of_ordered_labels_counts():
    first, second = ratings_of(0.5, 30, 6)
    stretched = [[label**3 * 10 - 4 for label in row] for row in (first, second)]
    assert ordinal_alpha(stretched, seed=0) == ordinal_alpha([first, second], seed=0)
    assert ordinal_alpha([first, second], seed=0) != nominal_alpha([first, second], seed=0)


def test_full_agreement_is_one_without_doubt():
    row = ["a", "b"] * 20
    for found in (nominal_alpha([row, row], seed=0), cohens_kappa(row, row, seed=0)):
        assert (found.low, found.estimate, found.high) == pytest.approx((1, 1, 1))


def test_copies_of_the_items_narrow_the_interval():
    first, second = ratings_of(0.5, 40, 3)
    once, often = cohens_kappa(first, second, seed=0), cohens_kappa(first * 9, second * 9, seed=0)
    assert often.estimate == pytest.approx(once.estimate)
    assert often.high - often.low == pytest.approx((once.high - once.low) / 3, rel=0.15)


def test_what_has_no_agreement_is_refused():
    same = ["a"] * 5
    for measure in (nominal_alpha, raw_agreement):
        with pytest.raises(ValueError, match="two or more raters"):
            measure([same], seed=0)
        with pytest.raises(ValueError, match="two or more raters"):
            measure([same, same[:3]], seed=0)
        with pytest.raises(ValueError, match="no item"):
            measure([["a", None], [None, "b"]], seed=0)
    with pytest.raises(ValueError, match="more than one label"):
        nominal_alpha([same, same], seed=0)
    with pytest.raises(ValueError, match="more than one label"):
        cohens_kappa(same, same, seed=0)
    with pytest.raises(ValueError, match="one label for each item"):
        cohens_kappa(same, same[:3], seed=0)
    with pytest.raises(ValueError, match="numbers"):
        ordinal_alpha([["a", "b"], ["a", "b"]], seed=0)
    with pytest.raises(ValueError, match="rounds"):
        cohens_kappa(["a", "b"], ["a", "b"], seed=0, rounds=99)


def test_clusters_are_drawn_whole():
    """Every item five times over says nothing more about how far alpha is known."""
    first, second = ratings_of(0.5, 80, 4)
    repeated = [[label for label in row for _ in range(5)] for row in (first, second)]
    clusters = [index for index in range(80) for _ in range(5)]
    for alpha in (nominal_alpha, ordinal_alpha):
        single = alpha([first, second], seed=0)
        together = alpha(repeated, seed=0, clusters=clusters)
        apart = alpha(repeated, seed=0)
        assert together.estimate == apart.estimate
        assert (together.n, apart.n) == (80, 400)
        assert together.high - together.low == pytest.approx(single.high - single.low, rel=0.05)
        assert apart.high - apart.low == pytest.approx((single.high - single.low) / 5**0.5, rel=0.15)


def test_clusters_name_the_items_that_count():
    holes = [[None, 1, 2, 2, 1], [1, 1, 2, 1, 2]]
    assert nominal_alpha(holes, seed=0, clusters=["x", "y", "y", "z", "z"]).n == 2
