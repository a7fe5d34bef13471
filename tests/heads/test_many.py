"""Many systems at once: letters, adjusted p values and simultaneous intervals, against two systems and closed forms."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tfser.heads.results.comparison_texts import pair_lines, system_lines
from tfser.heads.results.dimension_compare import compare_ratings
from tfser.heads.results.dimension_many import compare_many_ratings
from tfser.heads.results.exchanges import permutation_test
from tfser.heads.results.intervals import difference
from tfser.heads.results.many import _simulated, compare_many, in_words, letters_of
from tfser.heads.results.outcomes import Outcome, Subject
from tfser.heads.results.rating_outcomes import RatedOutcome
from tfser.manifests.errors import TfserError, UsageError

CLASSES = ("anger", "neutral", "sadness")


def outcome(name: str, right: float, *, speakers: int = 9, each: int = 18, seed: int = 0, kept: str = "kept") -> Outcome:
    """Return predictions that are right so often, in two seeds, more or less so by speaker."""
    rng = np.random.default_rng([seed, len(name)])
    n = speakers * each
    labels = [CLASSES[i % 3] for i in range(n)]
    skill = np.clip(right + rng.normal(0, 0.06, speakers), 0.02, 0.98)
    predicted = [
        tuple(
            label if rng.random() < skill[i // each] else str(rng.choice([c for c in CLASSES if c != label]))
            for i, label in enumerate(labels)
        )
        for _ in range(2)
    ]
    return Outcome(
        subject=Subject(experiment=name),
        selection="last",
        level="utterance",
        audit="passed",
        speakers_kept=kept,
        seeds=(0, 1),
        dropped=(),
        keys=tuple(("toy", f"u{i:04d}", None) for i in range(n)),
        folds=(1,) * n,
        labels=tuple(labels),
        predicted=tuple(predicted),
        who={"speaker": tuple(f"s{i // each}" for i in range(n)), "session": (None,) * n, "dialogue": (None,) * n},
    )


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.sampled_from([*combinations(range(n), 2)] or [()])))))
def test_two_share_a_letter_unless_they_are_told_apart(case: tuple[int, set[tuple[int, int]]]) -> None:
    n, apart = case
    apart = {pair for pair in apart if pair}
    letters = letters_of(n, apart)
    assert all(letters)
    for a, b in combinations(range(n), 2):
        assert bool(set(letters[a]) & set(letters[b])) == ((a, b) not in apart)


def test_two_systems_are_compared_as_two() -> None:
    a, b = outcome("one", 0.75), outcome("other", 0.6)
    found = compare_many([a, b])
    (pair,) = found.pairs
    who = a.clusters("speaker")
    counts = [of.counts(who, CLASSES) for of in found.outcomes]
    assert pair.p == pytest.approx(permutation_test(*counts, "UA").p)
    alone = difference(*counts, "UA")
    assert pair.difference.value == alone.value and found.per_pair == pytest.approx(0.95, abs=0.004)
    assert pair.difference.high == pytest.approx(alone.high, abs=0.01)


def test_the_smallest_difference_that_is_seen_is_that_of_student_s_t() -> None:
    found = compare_many([outcome("one", 0.75), outcome("other", 0.6)])
    (pair,) = found.pairs
    n, error = pair.difference.clusters, pair.difference.std_error
    bound = stats.t.ppf((1 + found.per_pair) / 2, n - 1)
    power = stats.nct.sf(bound, n - 1, pair.seen_from / error)
    assert power == pytest.approx(0.8, abs=0.02)


def test_many_systems_pay_for_all_pairs() -> None:
    outcomes = [outcome(name, right) for name, right in (("a", 0.82), ("bb", 0.8), ("ccc", 0.5), ("dddd", 0.79))]
    found = compare_many(outcomes)
    assert [of.subject.name for of in found.outcomes][-1] == "ccc" and found.exact
    assert [score.value for score in found.scores] == sorted((score.value for score in found.scores), reverse=True)
    assert 0.95 < found.per_pair < 1 - 0.05 / 6 + 0.003, "wider than one pair, and no wider than Bonferroni's but for the draws"
    who = outcomes[0].clusters("speaker")
    counts = [of.counts(who, CLASSES) for of in found.outcomes]
    for pair in found.pairs:
        alone = difference(counts[pair.a], counts[pair.b], "UA")
        assert pair.difference.low < alone.low and pair.difference.high > alone.high
        assert pair.p >= permutation_test(counts[pair.a], counts[pair.b], "UA").p - 1e-12
        assert bool(set(found.letters[pair.a]) & set(found.letters[pair.b])) == (pair.p >= 0.05)
    assert not set(found.letters[-1]) & set(found.letters[0]), "the worst is told apart"
    assert "differences under" in " ".join(in_words(found)) and compare_many(outcomes) == found, "the same again"
    assert len(found.rows()) == len(found.to_dict()["pairs"]) == 6


def test_of_many_clusters_the_pairs_are_simulated_with_the_covariance_that_they_have() -> None:
    rng = np.random.default_rng(0)
    systems = rng.normal(0, 1, (3_000, 3)) * (1, 2, 0.5)
    deviations = np.stack([systems[:, a] - systems[:, b] for a, b in combinations(range(3), 2)], axis=1)
    with patch("tfser.heads.results.many._SIMULATED", 1_500):  # G x G normal numbers of each would take 144 GB
        means, spreads = _simulated(deviations, 3_000)
    assert means.shape == spreads.shape == (1_500, 3)
    assert np.corrcoef(means.T) == pytest.approx(np.corrcoef(deviations.T), abs=0.1)
    assert spreads.mean(axis=0) == pytest.approx([1 / np.sqrt(3_000)] * 3, rel=0.02)


def test_what_cannot_be_compared_is_refused_or_said() -> None:
    a, b, c = outcome("a", 0.7), outcome("bb", 0.6), outcome("ccc", 0.5)
    with pytest.raises(UsageError, match="stands there twice"):
        compare_many([a, b, a])
    some = b.take(range(1, len(b.keys)))
    with pytest.raises(UsageError, match="1 utterances were not tested by all"):
        compare_many([a, some, c])
    assert compare_many([a, some, c], common=True).left_out == 1
    heard = compare_many([a, b, outcome("ccc", 0.5, kept="broken")])
    assert heard.clustered_by is None and heard.pairs == () and "no intervals" in in_words(heard)[0]
    heard = compare_many([a, replace(some, dropped=(2,), speakers_kept="broken"), c], common=True)
    assert [line.split()[0] for line in in_words(heard)] == ["bb:", "1", "no"], "what is left out is said without intervals, too"
    few = compare_many([outcome(name, right, speakers=4) for name, right in (("a", 0.9), ("bb", 0.5), ("ccc", 0.4))])
    assert set(few.letters) == {"a"} and "only 4 speakers" in in_words(few)[-1]


def rated(name: str, noise: float, *, dimensions: tuple[str, ...] = ("valence", "arousal"), speakers: int = 9) -> RatedOutcome:
    """Return predicted ratings of the utterances of `outcome`, so far off, more or less so by speaker."""
    of, T = outcome(name, 0.5, speakers=speakers), len(dimensions)
    n = len(of.keys)
    true = np.random.default_rng(0).uniform(0.1, 0.9, (n, 2))[:, :T]
    rng = np.random.default_rng([7, len(name)])
    bias = np.repeat(rng.normal(0, noise / 2, (speakers, T)), n // speakers, axis=0)
    predicted = np.clip(true + bias + rng.normal(0, noise, (2, n, T)), 0, 1)
    return RatedOutcome(of=of, dimensions=dimensions, true=true, predicted=predicted, error=4 * abs(predicted - true))


def test_two_systems_of_ratings_are_compared_as_two() -> None:
    a, b = rated("one", 0.05), rated("other", 0.2)
    found, two = compare_many_ratings([b, a]), compare_ratings(a, b)
    (pair,) = found.pairs
    assert found.outcomes[0].subject.name == "one" and two.permutation is not None
    assert pair.difference.value == pytest.approx(two.scores[0].difference.value) and pair.p == pytest.approx(two.permutation.p)
    low, high = two.scores[0].difference.low, two.scores[0].difference.high
    assert pair.difference.low == pytest.approx(low, rel=0.15) and pair.difference.high == pytest.approx(high, rel=0.15)


def test_several_systems_of_ratings_have_letters_and_no_percent() -> None:
    outcomes = [rated("aa", 0.05), rated("bbb", 0.05), rated("c", 0.3)]
    found = compare_many_ratings(outcomes)
    assert found.letters[:2] == ("a", "a") and found.letters[2] == "b" and found.to_dict()["targets"] == ["valence", "arousal"]
    text = " ".join(in_words(found))
    assert "points" not in text and "of CCC cannot be seen" in text
    assert system_lines(found)[0]["CCC [95 %]"].startswith("0.")
    assert pair_lines(found, 9)[1]["difference [95 % together]"][0] == "+"
    least = compare_many_ratings(outcomes, metric="MAE")
    assert [of.subject.name for of in least.outcomes][-1] == "c", "of MAE the smallest is best"
    assert least.scores[0].value < least.scores[-1].value
    with pytest.raises(UsageError, match="learned valence, arousal, and valence; --common compares valence"):
        compare_many_ratings([*outcomes, rated("dddd", 0.1, dimensions=("valence",))])
    shared = compare_many_ratings([*outcomes, rated("dddd", 0.1, dimensions=("valence",))], common=True)
    assert shared.dimensions == ("valence",) and len(shared.pairs) == 6
    constant = rated("eeeee", 0.1)
    same = np.full_like(constant.predicted, 0.5)
    assert compare_many_ratings([*outcomes, RatedOutcome(**{**vars(constant), "predicted": same})]).scores[-1].value == 0.0
    alike = np.full_like(constant.true, 0.5)
    with pytest.raises((TfserError, UsageError)):
        compare_many_ratings([*outcomes, RatedOutcome(**{**vars(constant), "true": alike, "predicted": same})])
