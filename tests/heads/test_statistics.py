"""Intervals and tests over clusters: against scikit-learn and scipy on the same data, and against the truth in simulations."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from tfser.heads.results.exchanges import mcnemar, permutation_test
from tfser.heads.results.intervals import (
    METRICS,
    Counts,
    cluster_scores,
    count,
    difference,
    ends_of_mean,
    interval,
    new_speaker,
    score,
    seed_scores,
)

CLASSES = ("anger", "fear", "neutral", "sadness")


def of_sklearn(metric: str, labels: list[str], predicted: list[str]) -> float:
    if metric == "WA":
        return float(metrics.accuracy_score(labels, predicted))
    if metric == "UA":
        return float(metrics.recall_score(labels, predicted, labels=sorted(set(labels)), average="macro", zero_division=0))
    return float(metrics.f1_score(labels, predicted, average={"WF1": "weighted", "macro_F1": "macro"}[metric], zero_division=0))


def draw(
    seed: int, n: int = 90, clusters: int = 6, seeds: int = 1, right: float = 0.6
) -> tuple[list[str], list[str], list[list[str]]]:
    """Return clusters, labels and predictions; the first cluster has no fear."""
    rng = np.random.default_rng(seed)
    who = [f"s{i}" for i in np.sort(np.arange(n) % clusters)]
    labels = [CLASSES[k] for k in rng.integers(0, 4, n)]
    labels = ["neutral" if c == "s0" and label == "fear" else label for c, label in zip(who, labels, strict=True)]
    wrong = rng.integers(0, 4, (seeds, n))
    good = rng.random((seeds, n)) < right + 0.1 * np.array([int(c[1:]) % 3 - 1 for c in who])
    return who, labels, [[label if g else CLASSES[w] for label, g, w in zip(labels, gs, ws, strict=True)]
                         for gs, ws in zip(good, wrong, strict=True)]  # fmt: skip


def test_one_speaker_with_most_of_the_utterances_leaves_few_degrees_of_freedom_to_a_mean() -> None:
    """With Student's t of G - 1 such intervals of NLL and the like held the truth in 87 % of simulated data instead of 95."""
    sizes, own = np.array([60.0, 4, 3, 2]), np.array([0.9, 1.2, 0.4, 0.7])
    value = float((sizes * own).sum() / sizes.sum())
    without = (value * sizes.sum() - sizes * own) / (sizes.sum() - sizes)
    # By hand, utterance by utterance: the variance estimate is y'Qy, whose moments under independent y are traces.
    weights = np.repeat(1 / sizes.sum(), int(sizes.sum()))
    of = np.repeat(np.arange(4), sizes.astype(int))
    Q = np.zeros((len(of), len(of)))
    for g in range(4):
        gap = np.where(of == g, 0.0, weights / weights[of != g].sum()) - weights
        Q += np.outer(gap, gap)
    df = np.trace(Q) ** 2 / np.trace(Q @ Q)
    error = np.sqrt(3 / 4 * ((without - value) ** 2).sum())
    low, high = ends_of_mean(value, without, sizes)
    assert low is not None and high == pytest.approx(value + stats.t.ppf(0.975, df) * error) and df < 1.2
    assert ends_of_mean(value, without, sizes, most=1.0)[1] == 1.0, "no share is above 1"
    assert ends_of_mean(value, np.array([0.9, np.nan, 0.8, 0.7]), sizes) == (None, None), "there is none without somebody"
    assert ends_of_mean(0.5, np.full(4, 0.5), sizes) == (None, None)


@pytest.mark.few(2)
@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 10_000), n=st.integers(12, 60))
@settings(max_examples=12)
def test_pooled_scores_are_scikit_learn_s(metric: str, seed: int, n: int) -> None:
    who, labels, predicted = draw(seed, n, seeds=2)
    counts = count(who, labels, predicted)
    expected = [of_sklearn(metric, labels, row) for row in predicted]
    assert seed_scores(counts, metric) == pytest.approx(expected)
    assert score(counts, metric) == pytest.approx(sum(expected) / 2)
    place = [i for i, c in enumerate(who) if c == "s1"]
    alone = [of_sklearn(metric, [labels[i] for i in place], [row[i] for i in place]) for row in predicted]
    assert cluster_scores(counts, metric)[counts.clusters.index("s1")] == pytest.approx(sum(alone) / 2)


@pytest.mark.parametrize("metric", METRICS)
def test_the_standard_error_is_the_jackknife_s_made_by_leaving_speakers_out(metric: str) -> None:
    who, labels, predicted = draw(3, seeds=2)
    found = interval(count(who, labels, predicted), metric)
    without = []
    for cluster in sorted(set(who)):
        kept = [i for i, c in enumerate(who) if c != cluster]
        of = [of_sklearn(metric, [labels[i] for i in kept], [row[i] for i in kept]) for row in predicted]
        without.append(np.mean(of))
    G = len(without)
    assert found.std_error == pytest.approx(np.sqrt((G - 1) / G * np.sum((np.array(without) - found.value) ** 2)))
    assert found.clusters == G and found.low is not None and found.high is not None
    assert 0 < found.low < found.value < found.high < 1
    wider = interval(count(who, labels, predicted), metric, confidence=0.99)
    assert wider.low is not None and wider.low < found.low


def test_equal_speakers_give_the_t_interval_of_their_means() -> None:
    """With equal sizes the difference's interval is scipy's of the speakers' paired differences."""
    rng = np.random.default_rng(1)
    who = [f"s{i}" for i in range(9) for _ in range(20)]
    labels = ["anger", "neutral"] * 90
    rows = [[label if ok else "fear" for label, ok in zip(labels, rng.random(180) < p, strict=True)] for p in (0.8, 0.6)]
    A, B = (count(who, labels, row, ("anger", "fear", "neutral")) for row in rows)
    found = difference(A, B, "WA")
    own = cluster_scores(A, "WA") - cluster_scores(B, "WA")
    assert found.df == pytest.approx(8)
    assert found.std_error == pytest.approx(stats.sem(own))
    assert (found.low, found.high) == pytest.approx(tuple(stats.t.interval(0.95, 8, own.mean(), stats.sem(own))))


def test_degrees_of_freedom_follow_satterthwaite_s_definition() -> None:
    """Twice the squared mean over the variance of the quadratic form, by matrices and by simulation."""
    sizes = np.array([60, 50, 8, 5, 4, 3, 2, 2], dtype=float)[:, None]
    counts = Counts(clusters=tuple("abcdefgh"), classes=("x",), hits=sizes[None] / 2, true=sizes[None], predicted=sizes[None])
    found = interval(counts, "WA").df
    w = (sizes / sizes.sum()).ravel()
    P = np.eye(8) - np.outer(np.ones(8), w)
    B = P @ np.diag(1 / sizes.ravel()) @ P.T @ np.diag((w / (1 - w)) ** 2)
    assert found == pytest.approx(np.trace(B) ** 2 / np.trace(B @ B))
    y = np.random.default_rng(0).standard_normal((200_000, 8)) / np.sqrt(sizes.ravel())
    V = (((w / (1 - w)) * (y - (y @ w)[:, None])) ** 2).sum(axis=1)
    assert found == pytest.approx(2 * V.mean() ** 2 / V.var(), rel=0.03)
    assert 1 < found < 3  # two of the eight say most of it


def test_what_cannot_be_known_is_none() -> None:
    one = interval(count(["a"] * 4, ["anger", "fear"] * 2, ["anger"] * 4), "UA")
    assert (one.value, one.low, one.high, one.std_error, one.clusters) == (0.5, None, None, None, 1)
    right = interval(count(["a", "a", "b", "b"], ["anger", "fear"] * 2, ["anger", "fear"] * 2), "UA")
    assert (right.value, right.low, right.high) == (1.0, None, None)
    alike = count(["a"] * 2 + ["b"] * 2 + ["c"] * 2, ["anger"] * 6, ["anger", "fear"] * 3)
    for found in (interval(alike, "WA"), difference(alike, alike, "WA")):  # nothing varies: no certainty comes of that
        assert (found.low, found.high, found.std_error) == (None, None, 0.0)


def test_a_class_of_one_speaker_alone_does_not_change_the_score_s_meaning() -> None:
    """Without its only speaker the class's recall stays: the leap to a score of other classes is no variance."""
    who = ["a"] * 6 + ["b"] * 4 + ["c"] * 4
    labels = ["anger", "neutral"] * 2 + ["fear"] * 2 + ["anger", "neutral"] * 4
    right = count(who, labels, ["anger" if label == "neutral" else label for label in labels])
    found = interval(right, "UA")
    assert found.value == pytest.approx(2 / 3)
    assert found.std_error == pytest.approx(0)


def test_counts_that_do_not_fit_are_refused() -> None:
    who, labels, predicted = draw(0)
    A = count(who, labels, predicted, CLASSES)
    with pytest.raises(ValueError, match="not counted over the same"):
        difference(A, count(["x", *who[1:]], labels, predicted, CLASSES), "UA")
    with pytest.raises(ValueError, match="not counted over the same"):
        permutation_test(A, count(who, ["fear", *labels[1:-1], "anger"], predicted, CLASSES), "UA")
    with pytest.raises(ValueError, match="no such score"):
        score(A, "F2")


@given(seed=st.integers(0, 10_000), metric=st.sampled_from(METRICS))
@settings(max_examples=12)
def test_order_and_names_of_clusters_do_not_matter(seed: int, metric: str) -> None:
    who, labels, predicted = draw(seed, seeds=2)
    order = np.random.default_rng(seed).permutation(len(who))
    named = {c: f"x{len(set(who)) - i}" for i, c in enumerate(sorted(set(who)))}
    other = count([named[who[i]] for i in order], [labels[i] for i in order], [[row[i] for i in order] for row in predicted])
    first, second = interval(count(who, labels, predicted), metric), interval(other, metric)
    assert (second.value, second.low, second.high, second.df) == pytest.approx((first.value, first.low, first.high, first.df))


# -- tests -------------------------------------------------------------------------------------------------------------------


def test_the_exact_permutation_test_is_scipy_s() -> None:
    """For accuracy of equal speakers the statistic is a mean of paired differences: scipy's sign-flip test counts the same."""
    who, labels, (a, b) = draw(5, n=96, clusters=8, seeds=2)
    A, B = (count(who, labels, row, CLASSES) for row in (a, b))
    own = cluster_scores(A, "WA") - cluster_scores(B, "WA")
    expected = stats.permutation_test((own,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided")
    found = permutation_test(A, B, "WA")
    differ = int((np.abs(own) > 0).sum())
    assert found.exact and found.draws == 2**found.clusters and found.clusters >= differ
    assert found.p == pytest.approx(expected.pvalue)


@pytest.mark.few(1)
@pytest.mark.parametrize("metric", METRICS)
def test_the_permutation_test_exchanges_whole_speakers(metric: str) -> None:
    """Against exchanging the predictions themselves and scoring with scikit-learn, all 2^5 times."""
    who, labels, rows = draw(9, n=40, clusters=5, seeds=4)
    A, B = count(who, labels, rows[:2], CLASSES), count(who, labels, rows[2:], CLASSES)
    speakers = sorted(set(who))

    def size(swapped: frozenset[str]) -> float:
        a, b = ([[rows[(s + 2) % 4 if c in swapped else s][i] for i, c in enumerate(who)] for s in of] for of in ((0, 1), (2, 3)))
        means = [np.mean([of_sklearn(metric, labels, row) for row in side]) for side in (a, b)]
        return float(abs(means[0] - means[1]))

    every = [size(frozenset(s for g, s in enumerate(speakers) if code >> g & 1)) for code in range(32)]
    expected = np.mean(np.array(every) >= every[0] - 1e-12)
    found = permutation_test(A, B, metric)
    assert found.p == pytest.approx(expected)
    assert (found.exact, found.draws, found.smallest_p) == (True, 32, 1 / 16)
    assert permutation_test(B, A, metric).p == pytest.approx(expected)


def test_drawn_permutations_come_near_the_exact_p_and_repeat() -> None:
    who, labels, (a, b) = draw(2, n=120, clusters=10, seeds=2)
    A, B = (count(who, labels, row, CLASSES) for row in (a, b))
    exact = permutation_test(A, B, "UA")
    drawn = permutation_test(A, B, "UA", exact_up_to=3, draws=9_999)
    assert exact.exact and not drawn.exact
    assert drawn.p == pytest.approx(exact.p, abs=0.02)
    assert drawn == permutation_test(A, B, "UA", exact_up_to=3, draws=9_999)
    far = count(who, labels, labels, CLASSES)
    near = count(who, labels, ["anger"] * len(labels), CLASSES)
    assert permutation_test(far, near, "UA", exact_up_to=3, draws=99).p >= 0.01  # never below what the draws can show


def test_alike_sides_give_p_one() -> None:
    who, labels, rows = draw(4, seeds=3)
    A = count(who, labels, rows, CLASSES)
    assert permutation_test(A, A, "UA").p == 1.0
    assert difference(A, A, "UA").value == 0


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_with_unequal_seeds_the_difference_that_is_shown_is_tested(metric: str) -> None:
    """Against exchanging the predictions of each pair of seeds, scored with scikit-learn: F1 of mean counts is no mean of F1s."""
    who, labels, rows = draw(4, n=40, clusters=5, seeds=5)
    A, B = count(who, labels, rows[:3], CLASSES), count(who, labels, rows[3:], CLASSES)
    pairs = [(a, b) for a in rows[:3] for b in rows[3:]]

    def size(code: int) -> float:
        swap = [bool(code >> int(c[1:]) & 1) for c in who]
        each = []
        for a, b in pairs:
            one, other = ([y if s else x for x, y, s in zip(p, q, swap, strict=True)] for p, q in ((a, b), (b, a)))
            each.append(of_sklearn(metric, labels, one) - of_sklearn(metric, labels, other))
        return float(abs(np.mean(each)))

    every = [size(code) for code in range(32)]
    assert every[0] == pytest.approx(abs(difference(A, B, metric).value))  # what is shown
    expected = np.mean(np.array(every) >= every[0] - 1e-12)
    assert permutation_test(A, B, metric).p == permutation_test(B, A, metric).p == pytest.approx(expected)


@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40), both=st.integers(0, 5))
@settings(max_examples=20)
def test_mcnemar_is_scipy_s_binomial_test(only_a: int, only_b: int, both: int) -> None:
    a = [True] * only_a + [False] * only_b + [True] * both
    b = [False] * only_a + [True] * only_b + [True] * both
    expected = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == (only_a, only_b, pytest.approx(expected))


# -- a new speaker -----------------------------------------------------------------------------------------------------------


def test_a_new_speaker_s_interval_is_student_s_on_the_arcsine_scale() -> None:
    """Against the t test of one further value against the others, solved for it."""
    who, labels, predicted = draw(3, seeds=2)
    counts = count(who, labels, predicted)
    found = new_speaker(counts, "UA")
    own = np.arcsin(np.sqrt(cluster_scores(counts, "UA")))
    assert found.low is not None and found.high is not None
    for end in (found.low, found.high):
        x = np.arcsin(np.sqrt(end))
        pooled = np.sqrt(own.var(ddof=1) * (1 + 1 / len(own)))
        assert stats.t.sf(abs(x - own.mean()) / pooled, len(own) - 1) == pytest.approx(0.025)
    assert (found.clusters, found.utterances) == (6, 15.0)
    narrow, wide = interval(counts, "UA"), new_speaker(counts, "UA", confidence=0.99)
    assert narrow.low is not None and found.low < narrow.low and wide.low is not None and wide.low < found.low


def test_a_new_speaker_s_score_stays_a_share_and_nothing_is_said_of_too_few() -> None:
    who = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    labels = ["anger", "fear"] * 6
    found = new_speaker(count(who, labels, [*labels[:4], *["anger"] * 4, *labels[8:]]), "WA")
    assert found.low is not None and found.high is not None and 0 <= found.low < 0.5 and found.high == pytest.approx(1)
    two = count(who[:8], labels[:8], [*labels[:4], *["anger"] * 4])
    alike = count(who, labels, ["anger"] * 12)
    for counts, n in ((two, 2), (alike, 3)):
        nothing = new_speaker(counts, "WA")
        assert (nothing.low, nothing.high, nothing.clusters, nothing.utterances) == (None, None, n, 4.0)


# -- simulation --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    """benchmarks/intervals.py, whose larger tables docs/methods.md quotes."""
    path = Path(__file__).parents[2] / "benchmarks" / "intervals.py"
    if not path.exists():
        pytest.skip("benchmarks/ is not part of an installed package")
    spec = importlib.util.spec_from_file_location("tfser_benchmarks_intervals", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3, 4, 7])
def test_ten_speakers_are_covered_where_the_others_are_not(simulation: ModuleType, number: int) -> None:
    """600 rounds, so that 95 % would be found between 92.8 and 97 % (2.5 standard errors)."""
    found = simulation.coverage(simulation.SCENARIOS[number], "UA", 600)
    assert found["speakers"] == 10
    assert 92.8 <= found["ours"] <= 97.2, found
    assert found["naive"] < 80 and found["bootstrap"] < 92.5, found


@pytest.mark.slow
def test_four_speakers_and_unequal_ones_are_covered(simulation: ModuleType) -> None:
    four = simulation.coverage(simulation.SCENARIOS[10], "UA", 600)
    assert four["speakers"] == 4 and 92.5 <= four["ours"] <= 97.5, four
    assert four["bootstrap"] < 85 and four["naive"] < 60, four
    unequal = simulation.coverage(simulation.SCENARIOS[-1], "UA", 400)
    assert unequal["speakers"] == 100 and unequal["df"] < 10
    assert 92 <= unequal["ours"] <= 98 and unequal["jackknife"] < unequal["ours"], unequal


@pytest.mark.slow
def test_differences_are_covered_and_only_the_clustered_test_keeps_its_level(simulation: ModuleType) -> None:
    found = simulation.paired(simulation.SCENARIOS[0], 400)
    assert 92 <= found["ours"] <= 98, found
    assert found["naive"] < 90, found
    assert found["mcnemar_rejects"] > 10 > 8 > found["permutation_rejects"], found
    assert 92 <= simulation.paired(simulation.SCENARIOS[0], 400, better=0.3, tests=False)["ours"] <= 98
