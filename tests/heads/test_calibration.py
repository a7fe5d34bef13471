"""NLL, Brier score and ECE out of stored predictions: against scikit-learn and by hand, with intervals over speakers."""

from __future__ import annotations

import numpy as np
import pytest
import stored_runs as stored
from sklearn.metrics import brier_score_loss, log_loss

from tfser.heads.results.calibration import BINS, MEASURES, calibration
from tfser.heads.results.intervals import degrees_of_freedom, quantile
from tfser.heads.results.score_tables import Wanted, table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows

UTTERANCES = stored.make_utterances()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = Cache(tmp_path_factory.mktemp("calibrated") / "cache")
    stored.put_utterances(cache, UTTERANCES)
    stored.put_experiment(cache, "mean_pool-good-1a", UTTERANCES, right=0.8, seeds=(0, 1))
    stored.put_experiment(cache, "svm-leaky-4d", UTTERANCES, right=0.6, audit="overridden")
    return cache


def by_hand(truth: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Return the measures of one seed by other means."""
    sure, taken = probabilities.max(axis=1), np.array(classes)[probabilities.argmax(axis=1)]
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(np.sum(taken[bins == b] == truth[bins == b]) - sure[bins == b].sum()) for b in range(BINS)]
    onehot = (truth[:, None] == np.array(classes)[None]).astype(float)
    assert brier_score_loss(onehot[:, 0], probabilities[:, 0]) >= 0
    return {
        "NLL": log_loss(truth, probabilities, labels=classes),
        "Brier": float(((probabilities - onehot) ** 2).sum(axis=1).mean()),
        "ECE": float(sum(gaps) / len(truth)),
    }


@pytest.mark.slow
def test_the_measures_are_those_of_others(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        (found,) = calibration(connection, ["mean_pool-good-1a"], "last")
        told = rows(
            connection,
            "SELECT r.seed, p.label, p.probabilities, u.speaker FROM predictions p JOIN runs r USING (run_id) "
            "JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id "
            "WHERE r.experiment = 'mean_pool-good-1a' AND p.selection = 'last' AND p.level = 'utterance' ORDER BY ALL",
        )
    classes = sorted(stored.CLASSES)

    def measured(leave_out: str | None = None) -> dict[str, float]:
        seeds = []
        for seed in (0, 1):
            of = [row for row in told if row["seed"] == seed and row["speaker"] != leave_out]
            probabilities = np.array([[row["probabilities"][name] for name in classes] for row in of])
            seeds.append(by_hand(np.array([row["label"] for row in of]), probabilities, classes))
        return {name: float(np.mean([of[name] for of in seeds])) for name in MEASURES}

    whole = measured()
    speakers = sorted({row["speaker"] for row in told})
    without = [measured(speaker) for speaker in speakers]
    assert (found["clusters"], found["n"]) == (len(speakers), len(UTTERANCES))
    sizes = np.array([[sum(row["speaker"] == speaker for row in told) / 2] for speaker in speakers])
    reach = quantile(degrees_of_freedom(sizes, "WA"), 0.95)
    assert reach > 2.3646, "speakers of unequal size: a little less than 7 degrees of freedom"
    for name in MEASURES:
        assert found[name] == pytest.approx(whole[name], abs=1e-6)
        error = np.sqrt((len(speakers) - 1) / len(speakers) * sum((of[name] - whole[name]) ** 2 for of in without))
        assert found[f"{name}_high"] - found[name] == pytest.approx(reach * error, rel=1e-3)


def test_no_interval_where_speakers_are_not_new(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        found = {row["experiment"]: row for row in table(connection, Wanted(), by="calibration")}
    assert found["svm-leaky-4d"]["NLL_low"] is None and found["svm-leaky-4d"]["clustered_by"] is None
    assert found["mean_pool-good-1a"]["NLL_low"] < found["mean_pool-good-1a"]["NLL"]
