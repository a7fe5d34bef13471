"""Comparisons and tables of scores out of stored predictions: against scikit-learn, plain SQL, and by hand."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import stored_runs as stored
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, recall_score

from tfser.heads.commands.compare_table import in_words, print_comparison
from tfser.heads.commands.score_report import below, grouped
from tfser.heads.results.compare import compare, notes, wins
from tfser.heads.results.many import compare_many
from tfser.heads.results.outcomes import Outcome, Subject, choose_clusters, find, pooled, read_outcome, whole_seeds
from tfser.heads.results.score_tables import BY, Wanted, table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError

UTTERANCES = stored.make_utterances()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = Cache(tmp_path_factory.mktemp("stored") / "cache")
    stored.put_utterances(cache, UTTERANCES, rated=True)
    both = ("last", "test-oracle")
    stored.put_experiment(cache, "mean_pool-good-1a", UTTERANCES, right=0.85, seeds=(0, 1, 2), selections=both)
    stored.put_experiment(cache, "mean_pool-bad-2b", UTTERANCES, right=0.6, seeds=(0, 1), selections=both)
    stored.put_experiment(cache, "svm-leaky-4d", UTTERANCES, right=0.6, seeds=(0, 1), selections=both, audit="overridden")
    stored.put_experiment(cache, "tf_mamba-part-3c", UTTERANCES, right=0.7, only_folds=(1, 2, 3))
    stored.put_experiment(cache, "tf_mamba-part-3c", UTTERANCES, right=0.7, seeds=(1,), only_folds=(2, 3))
    return cache


def read(cache: Cache, name: str, **named: Any) -> Outcome:
    with open_catalogue(cache) as connection:
        return read_outcome(connection, find(connection, name), **named)


def predictions(cache: Cache, experiment: str, selection: str = "last", level: str = "utterance") -> list[dict[str, Any]]:
    """The stored rows as they are, without the views of the statistics."""
    with open_catalogue(cache) as connection:
        return rows(
            connection,
            "SELECT r.seed, p.fold, p.label, p.predicted, u.speaker, u.session FROM predictions p JOIN runs r USING (run_id) "
            "JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id "
            "WHERE r.experiment = ? AND p.selection = ? AND p.level = ?",
            [experiment, selection, level],
        )


def UA(found: list[dict[str, Any]]) -> float:  # noqa: N802
    labels, predicted = ([row[name] for row in found] for name in ("label", "predicted"))
    return float(recall_score(labels, predicted, labels=sorted(set(labels)), average="macro", zero_division=0))


# -- tables of scores --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_row_an_experiment_is_scikit_learn_s_over_folds_and_seeds(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        found = table(connection, Wanted(segments=True))
    assert [(row["experiment"], row["level"], row["selection"]) for row in found[:5]] == [
        ("mean_pool-bad-2b", "utterance", "last"),
        ("mean_pool-bad-2b", "utterance", "test-oracle"),
        ("mean_pool-bad-2b", "segment", "last"),
        ("mean_pool-bad-2b", "segment", "test-oracle"),
        ("mean_pool-good-1a", "utterance", "last"),
    ]
    for row in found[:-2]:
        all_of = predictions(filled, row["experiment"], row["selection"], row["level"])
        runs = sorted({(p["seed"], p["fold"]) for p in all_of})
        of_fold = [[p for p in all_of if (p["seed"], p["fold"]) == key] for key in runs]
        of_seed = [[p for p in all_of if p["seed"] == seed] for seed in row["seeds"]]
        assert row["runs"] == len(of_fold) == 8 * len(row["seeds"])
        assert row["UA"] == pytest.approx(np.mean([UA(of) for of in of_fold]))
        assert row["UA_std"] == pytest.approx(np.std([UA(of) for of in of_fold], ddof=1))
        assert row["pooled_UA"] == pytest.approx(np.mean([UA(of) for of in of_seed]))
        assert row["pooled_UA_by_seed"] == pytest.approx([UA(of) for of in of_seed])
        pairs = [([p["label"] for p in of], [p["predicted"] for p in of]) for of in of_seed]
        assert row["pooled_WA"] == pytest.approx(np.mean([accuracy_score(*pair) for pair in pairs]))
        assert row["pooled_WF1"] == pytest.approx(np.mean([f1_score(*pair, average="weighted") for pair in pairs]))
        assert row["pooled_macro_F1"] == pytest.approx(np.mean([f1_score(*pair, average="macro") for pair in pairs]))
        assert row["utterances"] == len(of_seed[0])
        if "leaky" in row["experiment"]:
            assert (row["clustered_by"], row["clusters"], row["pooled_UA_low"]) == (None, None, None)
            continue
        assert row["pooled_UA_low"] < row["pooled_UA"] < row["pooled_UA_high"]
        assert (row["clustered_by"], row["clusters"], row["notes"]) == ("speaker", 8, [])


def test_the_interval_can_be_computed_again_by_sql(filled: Cache) -> None:
    """The query of the documents: delete-one-speaker by window sums; only the t quantile is typed in."""
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    if not page.exists():
        pytest.skip("docs/ is not part of an installed package")
    (query,) = re.findall(r"```sql\n(WITH cells AS .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    query = query.replace("EXPERIMENT", "mean_pool-good-1a")
    with open_catalogue(filled) as connection:
        (by_sql,) = rows(connection, query)
        (row,) = table(connection, Wanted(experiment="mean_pool-good", selection="last"))
    assert by_sql["UA"] == pytest.approx(row["pooled_UA"]) and by_sql["speakers"] == 8
    reach = stats.t.ppf(0.975, row["pooled_UA_df"]) * by_sql["std_error"] / (by_sql["UA"] * (1 - by_sql["UA"]))
    logit = np.log(by_sql["UA"] / (1 - by_sql["UA"]))
    ends = [1 / (1 + np.exp(-(logit + sign * reach))) for sign in (-1, 1)]
    assert (row["pooled_UA_low"], row["pooled_UA_high"]) == pytest.approx(tuple(ends))


@pytest.mark.few(1)
@pytest.mark.parametrize("by", ["speaker", "session", "fold"])
def test_rows_of_parts_are_scikit_learn_s(filled: Cache, by: str) -> None:
    with open_catalogue(filled) as connection:
        found = table(connection, Wanted(experiment="mean_pool-good", selection="last"), by=by)
    all_of = predictions(filled, "mean_pool-good-1a")
    assert [row[by] for row in found] == sorted({p[by] for p in all_of})
    for row in found:
        of_seed = [[p for p in all_of if p[by] == row[by] and p["seed"] == seed] for seed in (0, 1, 2)]
        assert (row["n"], row["seeds"]) == (len(of_seed[0]), [0, 1, 2])
        assert row["UA"] == pytest.approx(np.mean([UA(of) for of in of_seed]))
        assert row["UA_std"] == pytest.approx(np.std([UA(of) for of in of_seed], ddof=1))
        assert row["WA"] == pytest.approx(np.mean([p["label"] == p["predicted"] for of in of_seed for p in of]))
    if by == "speaker":
        assert set(found[0]["n_by_class"]) == {"anger", "neutral"}  # the first has no happiness


def test_rows_of_classes_are_scikit_learn_s(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        found = table(connection, Wanted(experiment="mean_pool-good", selection="last"), by="class")
    all_of = predictions(filled, "mean_pool-good-1a")
    each = []
    for seed in (0, 1, 2):
        of = [p for p in all_of if p["seed"] == seed]
        each.append(precision_recall_fscore_support([p["label"] for p in of], [p["predicted"] for p in of]))
    for k, row in enumerate(found):
        expected = [np.mean([e[i][k] for e in each]) for i in range(3)]
        assert [row["precision"], row["recall"], row["F1"]] == pytest.approx(expected)
        assert row["recall_low"] < row["recall"] < row["recall_high"]
    assert [(row["class"], row["clusters"]) for row in found] == [("anger", 8), ("happiness", 7), ("neutral", 8)]


def test_rows_of_classes_are_of_the_seeds_that_count(filled: Cache) -> None:
    """A seed that tested fewer folds says something of other speakers: it enters neither the recall nor its interval."""
    with open_catalogue(filled) as connection:
        found = table(connection, Wanted(experiment="tf_mamba-part", selection="last"), by="class")
    of = [p for p in predictions(filled, "tf_mamba-part-3c") if p["seed"] == 0]
    recalls = recall_score([p["label"] for p in of], [p["predicted"] for p in of], average=None)
    assert [row["recall"] for row in found] == pytest.approx(list(recalls))
    for row in found:
        assert row["seeds"] == [0] and row["notes"][0].startswith("seeds 1 are not pooled")
        assert row["recall_low"] is None or row["recall_low"] <= row["recall"] <= row["recall_high"]


@pytest.mark.slow
def test_marks_stand_at_every_number(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        for by in (None, *BY):
            found = table(connection, by=by)
            lines = [line for group in grouped(found, by) for line in group.lines]
            said = below(found, by)
            assert any(line.startswith("†") for line in said) and any(line.startswith("‡") for line in said)
            for row, line in zip(found, lines, strict=True):
                scores = ("UA", "WA", "F1", "precision")
                numbers = [text for name, text in line.items() if name in scores or "[" in name or name.startswith("pooled")]
                marked = ("†" if row["selection"] == "test-oracle" else "") + ("‡" if "leaky" in row["experiment"] else "")
                assert numbers
                for text in numbers:
                    assert text == "" or "".join(c for c in text if c in "†‡") == marked, (line, text)
            assert [row["looked_at_test"] for row in found] == [row["selection"] == "test-oracle" for row in found]
            clean = table(connection, Wanted(experiment="mean_pool-good", selection="last"), by=by)
            assert clean and not below(clean, by)


def test_seeds_that_tested_less_are_left_out_and_said(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        (row,) = table(connection, Wanted(experiment="tf_mamba"))
    assert (row["seeds"], row["pooled_seeds"], row["clusters"]) == ([0, 1], [0], 3)
    assert "seeds 1 are not pooled" in row["notes"][0] and "only 3 speakers" in row["notes"][1]
    of = read(filled, "tf_mamba")
    assert (of.seeds, of.dropped, len(of.keys)) == ((0,), (1,), row["utterances"])


@pytest.mark.parametrize("by", ["calibration", "raters"])
def test_seeds_that_tested_less_are_no_part_of_other_measures_either(filled: Cache, by: str) -> None:
    with open_catalogue(filled) as connection:
        (row,) = table(connection, Wanted(experiment="tf_mamba"), by=by)
        (whole,) = table(connection, Wanted(experiment="tf_mamba"))
    assert (row["seeds"], row["n"]) == ([0], whole["utterances"])
    assert row["notes"][0].startswith("seeds 1 are not pooled") and row["notes"][0] in below([row], by)[0]


def test_only_the_runs_that_were_asked_for_are_read(filled: Cache) -> None:
    """`tfser worth --seeds 0` gave another number once the cache held seed 1, too."""
    runs = [f"mean_pool-good-1a-f{fold}-s0" for fold in range(1, 9)]
    every, some = read(filled, "mean_pool-good"), read(filled, "mean_pool-good", only=runs)
    assert (some.seeds, some.dropped, some.keys) == ((0,), (), every.keys) and some.predicted == every.predicted[:1]


def test_which_of_two_sets_of_one_size_counts_does_not_depend_on_the_order_of_rows() -> None:
    tested: list[tuple[int, dict[Any, Any]]] = [(1, {("toy", "b", None): ()}), (0, {("toy", "a", None): ()})]
    for order in (tested, tested[::-1]):
        assert whole_seeds(dict(order)) == ((0,), (("toy", "a", None),))


def test_one_of_two_that_tested_an_utterance_in_several_folds_is_compared_fold_by_fold(filled: Cache) -> None:
    """The other one has finished a single fold, so that nothing of it says that utterances are tested in several."""
    a, b = read(filled, "mean_pool-good"), read(filled, "mean_pool-bad")
    several = replace(a, keys=tuple((*key, fold) for key, fold in zip(a.keys, a.folds, strict=True)))
    assert compare(several, b).scores == compare(a, b).scores
    assert compare_many([b, several]).pairs == compare_many([b, a]).pairs


def test_sql_and_utterances_give_the_same_counts(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        every = pooled(connection, segments=True)
        assert {key[0] for key in every} == {"mean_pool-good-1a", "mean_pool-bad-2b", "svm-leaky-4d", "tf_mamba-part-3c"}
        # No interval over speakers of whom it cannot be said that they are new.
        assert {key[0] for key, of in every.items() if of.by is None} == {"svm-leaky-4d"}
        for key, of in every.items():
            one = read_outcome(connection, Subject(experiment=key[0]), selection=key[1], level=key[2])
            other = one.counts(one.clusters("speaker") if of.by else ["all"] * len(one.keys), of.counts.classes)
            assert of.by == choose_clusters([one])
            assert (of.seeds, of.dropped) == (one.seeds, one.dropped)
            for name in ("hits", "true", "predicted"):
                assert (getattr(of.counts, name) == getattr(other, name)).all()


# -- clusters ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("known", "expected"), [({}, "session"), ({"session": False}, "dialogue")])
def test_without_speakers_there_are_clusters_only_where_they_are_asked_for(
    cache: Cache, known: dict[str, bool], expected: str
) -> None:
    utterances = stored.make_utterances(speaker=False, **known)
    stored.put_utterances(cache, utterances)
    for name in ("a", "b"):
        stored.put_experiment(cache, name, utterances, speakers_kept="unknown")
    with open_catalogue(cache) as connection:
        (plain, _), (row, _) = table(connection), table(connection, clusters=expected)
    assert (plain["clustered_by"], plain["clusters"], plain["pooled_UA_low"]) == (None, None, None)
    found = compare(read(cache, "a"), read(cache, "b"), clusters=expected)
    n = {"session": 4, "dialogue": 8}[expected]
    assert (row["clustered_by"], row["clusters"]) == (found.clustered_by, found.clusters) == (expected, n)
    assert any(f"{expected}s are taken as independent" in line for line in notes(found))
    with pytest.raises(UsageError, match="the speaker of 110 of the 110 tested is unknown; clusters can be: "):
        choose_clusters([read(cache, "a")], "speaker")


@pytest.mark.slow
def test_with_nothing_to_make_clusters_of_there_is_no_interval(cache: Cache) -> None:
    utterances = stored.make_utterances(speaker=False, session=False, dialogue=False)
    stored.put_utterances(cache, utterances)
    for name in ("a", "b"):
        stored.put_experiment(cache, name, utterances, speakers_kept="unknown")
    with open_catalogue(cache) as connection:
        (row, _) = table(connection)
    assert row["UA"] > 0 and row["pooled_UA_low"] is None and "no interval" in row["notes"][0]
    right = [of["label"] == of["predicted"] for of in predictions(cache, "a")]
    assert row["pooled_WA"] == pytest.approx(mean(right)) and row["pooled_UA"] is not None  # the score needs no clusters
    found = compare(read(cache, "a"), read(cache, "b"))
    assert (found.permutation, found.clustered_by, found.score.difference.low, found.speakers) == (None, None, None, ())
    with pytest.raises(UsageError, match="the session of 110 of the 110 tested is unknown; clusters can be: none"):
        compare(read(cache, "a"), read(cache, "b"), clusters="session")


def test_speakers_of_two_corpora_that_are_called_the_same_are_two(cache: Cache) -> None:
    for corpus in ("one", "two"):
        stored.put_utterances(cache, UTTERANCES, corpus)
    folds = {u.utterance_id: 1 + (u.utterance_id[1] >= "4") for u in UTTERANCES}
    for corpus, fold in (("one", 1), ("two", 2)):
        of = [u for u in UTTERANCES if folds[u.utterance_id] == fold or corpus == "two"]
        stored.put_experiment(cache, "e", of, folds=dict.fromkeys(folds, fold), corpus=corpus)
    of = read(cache, "e")
    assert len(set(of.clusters("speaker"))) == 12 and "one/03" in of.clusters("speaker") and "two/03" in of.clusters("speaker")
    with open_catalogue(cache) as connection:
        assert table(connection)[0]["clusters"] == 12


# -- compare -----------------------------------------------------------------------------------------------------------------


def test_a_comparison_s_numbers(filled: Cache) -> None:
    a, b = read(filled, "good"), read(filled, "bad")
    found = compare(a, b)
    rows_a, rows_b = (predictions(filled, of.subject.experiment) for of in (a, b))

    def mean(all_of: list[dict[str, Any]], **key: Any) -> float:
        kept = [p for p in all_of if all(p[name] == value for name, value in key.items())]
        return float(np.mean([UA([p for p in kept if p["seed"] == seed]) for seed in sorted({p["seed"] for p in kept})]))

    assert found.score.name == "UA"
    assert (found.score.a.value, found.score.b.value) == pytest.approx((mean(rows_a), mean(rows_b)))
    gain = found.score.difference
    assert gain.value == pytest.approx(mean(rows_a) - mean(rows_b))
    assert gain.low is not None and gain.high is not None and gain.low < gain.value < gain.high
    for row in found.folds:
        assert row.difference.value == pytest.approx(mean(rows_a, fold=int(row.name)) - mean(rows_b, fold=int(row.name)))
    assert [row.name for row in found.speakers] == [f"{s:02d}" for s in range(3, 11)]
    for row in found.speakers:
        assert row.difference.value == pytest.approx(mean(rows_a, speaker=row.name) - mean(rows_b, speaker=row.name))
    assert sum(wins(found.speakers).values()) == 8
    assert found.permutation.exact and found.permutation.draws == 256
    assert len(found.mcnemar) == 2  # as many pairs of seeds as both have
    right = [[p == label for p, label in zip(of.predicted[1], of.labels, strict=True)] for of in (a, b)]
    only_a = sum(x and not y for x, y in zip(*right, strict=True))
    only_b = sum(y and not x for x, y in zip(*right, strict=True))
    assert found.mcnemar[1] == (only_a, only_b, pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue))
    back = compare(b, a)
    assert back.score.difference.value == pytest.approx(-gain.value) and back.permutation.p == found.permutation.p
    assert notes(found) == []


@pytest.mark.slow
def test_only_what_both_tested_alike_is_compared(filled: Cache, cache: Cache) -> None:
    a, part = read(filled, "good"), read(filled, "part")
    said = r"not tested alike: 68 utterances by mean_pool-good-1a alone, 0 by .* --common compares the 42 "
    with pytest.raises(UsageError, match=said):
        compare(a, part)
    found = compare(a, part, common=True)
    assert (len(found.a.keys), found.left_out, found.a.keys) == (42, 68, found.b.keys)
    assert found.score.difference.clusters == 3
    assert "exchanging them cannot give p below 0.25" in "".join(notes(found))
    b = read(filled, "bad")
    one = replace(a, seeds=(7,), predicted=a.predicted[:1])
    assert any("; of the first 1 seed of each only" in line for line in in_words(compare(b, one)))
    assert not any("of the first" in line for line in in_words(compare(b, a)) if len(a.seeds) == len(b.seeds))

    stored.put_utterances(cache, UTTERANCES)
    renamed = [u if i else type(u)(utterance_id=u.utterance_id, path=u.path, label="happiness") for i, u in enumerate(UTTERANCES)]
    assert renamed[0].label != UTTERANCES[0].label
    stored.put_experiment(cache, "a", UTTERANCES)
    stored.put_experiment(cache, "b", renamed)
    with pytest.raises(UsageError, match=r"0 utterances by a alone, 0 by b alone, 1 under other labels"):
        compare(read(cache, "a"), read(cache, "b"))
    assert compare(read(cache, "a"), read(cache, "b"), common=True).left_out == 1
    with pytest.raises(TfserError, match="no utterance in common"):
        compare(read(filled, "mean_pool-good-1a-f1-s0"), read(filled, "mean_pool-bad-2b-f2-s0"), common=True)


@pytest.mark.slow
def test_folds_that_differ_give_no_wins_by_fold(cache: Cache) -> None:
    stored.put_utterances(cache, UTTERANCES)
    stored.put_experiment(cache, "a", UTTERANCES)
    stored.put_experiment(cache, "b", UTTERANCES, folds={u.utterance_id: 1 + i % 4 for i, u in enumerate(UTTERANCES)})
    found = compare(read(cache, "a"), read(cache, "b"))
    assert found.folds == () and len(found.speakers) == 8
    assert any("not folded alike" in line for line in notes(found))


@pytest.mark.slow
def test_many_folds_are_sorted_as_numbers(cache: Cache) -> None:
    utterances = stored.make_utterances(speakers=12, each=6)
    stored.put_utterances(cache, utterances)
    for name in ("a", "b"):
        stored.put_experiment(cache, name, utterances)
    found = compare(read(cache, "a"), read(cache, "b"))
    assert [row.name for row in found.folds] == [str(fold) for fold in range(1, 13)]


def test_names_that_are_found_and_names_that_are_not(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        assert find(connection, "mean_pool-good") == find(connection, "good") == Subject(experiment="mean_pool-good-1a")
        run = find(connection, "mean_pool-good-1a-f3-s1")
        assert run == Subject(experiment="mean_pool-good-1a", run_id="mean_pool-good-1a-f3-s1")
        one = read_outcome(connection, run)
        assert (one.seeds, set(one.folds), len(one.keys)) == ((1,), {3}, 16)
        with pytest.raises(UsageError, match=r"may mean 2 experiments; .*: mean_pool-bad-2b, mean_pool-good-1a"):
            find(connection, "mean_pool")
        with pytest.raises(UsageError, match="unknown experiment 'wavlm'"):
            find(connection, "wavlm")
        with pytest.raises(UsageError, match=r"no predictions of val \(utterance\); it has: last \(utterance\), last \(segm"):
            read_outcome(connection, find(connection, "good"), selection="val")
        with pytest.raises(UsageError, match="unknown experiment that begins with 'mean_pol'"):
            table(connection, Wanted(experiment="mean_pol"))
        with pytest.raises(UsageError, match="unknown selection of these runs 'test-oracel'; did you mean 'test-oracle'"):
            table(connection, Wanted(selection="test-oracel"), by="fold")
        with pytest.raises(UsageError, match="unknown table of scores by 'speker'; did you mean 'speaker'"):
            table(connection, by="speker")
    with pytest.raises(UsageError, match="name two experiments"):
        compare(read(filled, "good"), read(filled, "good"))
    with pytest.raises(UsageError, match="did you mean 'WF1'"):
        compare(read(filled, "good"), read(filled, "bad"), metric="WF")
    with pytest.raises(UsageError, match="did you mean 'session'"):
        compare(read(filled, "good"), read(filled, "bad"), clusters="sesion")


@pytest.mark.slow
def test_an_empty_table_says_why_and_what_holds_of_all_is_said_once(cache: Cache) -> None:
    few = [of for of in UTTERANCES if of.speaker == UTTERANCES[0].speaker]
    stored.put_utterances(cache, few)
    with open_catalogue(cache) as connection:
        assert grouped(table(connection)) == [] and below([]) == ["no scores: no finished run in this cache"]
        assert below(table(connection, by="session"), "session")[0].endswith("nothing that was tested has a known session")
    for name in ("mean_pool-a", "mean_pool-b"):
        stored.put_experiment(cache, name, few, right=0.7)
    with open_catalogue(cache) as connection:
        said = below(table(connection))
    assert said == ["all of them: no intervals: one speaker alone says nothing about others"]


def test_a_printed_comparison_says_what_to_beware_of(filled: Cache) -> None:
    a, b = (read(filled, name, selection="test-oracle") for name in ("good", "leaky"))
    assert compare(a, b).to_dict()["looked_at_test"] and all(row["looked_at_test"] for row in compare(a, b).rows())
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_comparison(compare(a, b, clusters="session"))
    said = text.getvalue()
    for words in (
        "110 utterances of 4 sessions, selection test-oracle",
        "takes utterances as independent",
        "cannot give p below 0.125",
        "looking at the test side",
        "although its audit failed",
        "‡ LEAKS ALLOWED",
        "seed by seed: median p = ",
    ):
        assert words in said, words
    assert "84" not in said.split("\n")[0]
