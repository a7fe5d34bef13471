"""What a run stores comes back under the name that it has: each column of each table against the value that it is named after.

The values are planted, all different, so that two columns that change places are found. A new column has to be added here, too.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from tfser.heads.runs.experiment import Experiment, resolve
from tfser.heads.runs.loaded import Loaded, load
from tfser.heads.runs.one_fold import audit_experiment, begin_run, store_run
from tfser.heads.runs.request import Request
from tfser.heads.runs.store import versions
from tfser.heads.spec.fold import EpochRecord, FitResult, Prediction, Selection
from tfser.heads.spec.selections import Rule
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import schema
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.utterances import Utterance
from tfser.pipeline.resources.devices import processor

CLASSES = ("anger", "neutral", "sadness")
FOLD, SEED = 2, 5

HISTORY = [
    EpochRecord(
        epoch=epoch, loss=0.1 + epoch, learning_rate=0.2 + epoch, train_s=0.3 + epoch, eval_s=0.4 + epoch,
        val_WA=0.11 * epoch, val_UA=0.12 * epoch, val_WF1=0.13 * epoch, val_loss=0.14 * epoch, val_CCC=0.15 * epoch,
        test_WA=0.21 * epoch, test_UA=0.22 * epoch, test_WF1=0.23 * epoch, test_loss=0.24 * epoch, test_CCC=0.25 * epoch,
    )
    for epoch in (1, 2)
]  # fmt: skip


def drawn(loaded: Loaded, test: np.ndarray, seed: int) -> Prediction:
    """Random probabilities, in an order of their own; two segments an utterance."""
    rng = np.random.default_rng(seed)
    utterance, segments = rng.permutation(test), rng.permutation(np.repeat(test, 2))
    numbers = np.array([int((segments[:i] == of).sum()) for i, of in enumerate(segments)])
    return Prediction(
        segment_utterance=segments,
        segment_number=numbers,
        segment_probabilities=rng.dirichlet(np.ones(3), len(segments)).astype(np.float32),
        utterance=utterance,
        utterance_probabilities=rng.dirichlet(np.ones(3), len(utterance)).astype(np.float32),
    )


def scored(record: EpochRecord, loaded: Loaded, of: Prediction) -> EpochRecord:
    """An epoch's record with the test scores of what it predicted: a run whose files contradict one another is damaged."""
    labels, predicted = loaded.labels[of.utterance], of.utterance_probabilities.argmax(axis=1)
    recall = recall_score(labels, predicted, average="macro", labels=sorted(set(labels)), zero_division=0)
    return replace(record, test_WA=accuracy_score(labels, predicted), test_UA=float(recall))


class Stored(NamedTuple):
    """A run, and what was stored of it."""

    cache: Cache
    experiment: Experiment
    loaded: Loaded
    predictions: dict[str, Prediction]
    history: tuple[EpochRecord, ...]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, put_corpus: Any, put_stack: Any) -> Stored:
    """A run of planted results, stored as a training stores its own."""
    cache = Cache(tmp_path_factory.mktemp("round") / "cache")
    utterances = [
        Utterance(utterance_id=f"u{i:02d}", path="x", speaker="abc"[i // 8], label=CLASSES[i * i % 3 if i % 8 > 2 else i % 3])
        for i in range(24)
    ]
    put_corpus(cache, utterances)
    put_stack(cache, {u.utterance_id: np.ones((4, 6), np.float32) for u in utterances}, 1, name="enc/1")
    asked = {"protocol": "loso-speaker", "validation": "next-group", "device": "cpu", "seed": SEED}
    request = Request(head="mean_pool", preset="linear", **asked)
    experiment = resolve(cache, request)
    loaded = load(cache, experiment)
    begun = begin_run(cache, experiment, FOLD, loaded, audit_experiment(cache, experiment), pytest.fail)
    test = begun.data.test
    predictions = {"last": drawn(loaded, test, 1), "val": drawn(loaded, test, 2)}
    history = (scored(HISTORY[0], loaded, predictions["val"]), scored(HISTORY[1], loaded, predictions["last"]))
    result = FitResult(
        history=history,
        selections={"last": Selection(epoch=2, test=predictions["last"]), "val": Selection(epoch=1, test=predictions["val"])},
        states={},
        parameters=4321,
    )
    store_run(cache, begun, result, pytest.fail)
    return Stored(cache, experiment, loaded, predictions, history)


def stored(cache: Cache, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in _asked(str(cache.root), table)]


@functools.cache
def _asked(root: str, table: str) -> list[dict[str, Any]]:
    """Ask a cache that stays as it is once for each table: a view over all metrics is dear, and asked by each case."""
    with open_catalogue(Cache(Path(root))) as connection:
        return rows(connection, f"SELECT * FROM {table} ORDER BY ALL")


def columns(table: str) -> set[str]:
    return {name for of in schema.TABLES if of.name == table for name, _, _ in of.columns}


def test_runs(run: Any) -> None:
    cache, experiment, *_ = run
    (row,) = stored(cache, "runs")
    assert row.pop("started_at") <= row["finished_at"] and row.pop("finished_at")[:2] == "20"
    findings = json.loads(row.pop("findings"))
    assert all(finding["level"] in ("error", "warning") for finding in findings)
    assert json.loads(row.pop("config"))["recipe_config"] == json.loads(json.dumps(experiment.recipe.to_dict()))
    kept = json.loads(row.pop("versions"))
    assert int(kept.pop("threads")) >= 1  # a test may have another number of them than the fixture that it shares
    assert kept == {name: version for name, version in versions().items() if name != "threads"}
    assert {"torch", "scikit-learn", "scipy"} <= kept.keys(), "what networks and the reference heads are fitted by"
    assert row == {
        "run_id": f"{experiment.name}-f2-s5",
        "experiment": experiment.name,
        "head": "mean_pool",
        "preset": "linear",
        "recipe": "default",
        "corpus": "toy",
        "protocol": "loso-speaker/next-group",
        "protocol_hash": experiment.protocol_hash,
        "validation": "next-group",
        "fold": FOLD,
        "seed": SEED,
        "feature_set": "enc/1",
        "fingerprint": experiment.fingerprint,
        "epochs": 2,
        "device": "cpu",
        "device_name": processor("cpu"),
        "parameters": 4321,
        "layer_weights": None,
        "targets": None,
        "temperature": None,
        "utterances_cut": 0,
        "audit": "passed",
        "speakers_kept": "kept",
        "classes": list(CLASSES),
        "seconds": pytest.approx(sum(of.train_s + of.eval_s for of in HISTORY)),
    }


def test_history(run: Any) -> None:
    cache, experiment, _, _, history = run
    found = stored(cache, "history")
    assert columns("history") == set(found[0])
    for name in ("val", "test-oracle", "val-WF1", "test-loss", "val-loss-patience1", "test-WA+WF1"):  # can be chosen again
        assert Rule.parse(name).choose([SimpleNamespace(**row) for row in found]) == Rule.parse(name).choose(history)
    for row, record in zip(found, history, strict=True):
        assert row.pop("run_id") == f"{experiment.name}-f2-s5"
        assert row.pop("lr") == record.learning_rate and row.pop("seconds") == record.train_s + record.eval_s
        assert row == {name: getattr(record, name) for name in row}
        assert len(set(row.values())) == len(row)  # all planted differ


def test_predictions(run: Any) -> None:
    cache, experiment, loaded, predictions, _ = run
    expected = []
    for selection, of in predictions.items():
        for level, places, numbers, probabilities in (
            ("utterance", of.utterance, [None] * len(of.utterance), of.utterance_probabilities),
            ("segment", of.segment_utterance, of.segment_number.tolist(), of.segment_probabilities),
        ):
            for place, number, row in zip(places, numbers, probabilities, strict=True):
                expected.append(
                    {
                        "run_id": f"{experiment.name}-f2-s5",
                        "corpus": "toy",
                        "fold": FOLD,
                        "utterance_id": loaded.features.utterance_ids[place],
                        "label": CLASSES[loaded.labels[place]],
                        "predicted": CLASSES[row.argmax()],
                        "probabilities": {name: float(value) for name, value in zip(CLASSES, row, strict=True)},
                        "selection": selection,
                        "level": level,
                        "segment": number,
                    }
                )
    found = stored(cache, "predictions")

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return (row["selection"], row["level"], row["utterance_id"], -1 if row["segment"] is None else row["segment"])

    assert columns("predictions") == set(found[0])
    assert sorted(found, key=key) == sorted(expected, key=key)


def _truth(run: Any, selection: str, level: str) -> tuple[list[str], list[str]]:
    _, _, loaded, predictions, _ = run
    of = predictions[selection]
    places, probabilities = (
        (of.utterance, of.utterance_probabilities) if level == "utterance" else (of.segment_utterance, of.segment_probabilities)
    )
    return [CLASSES[loaded.labels[i]] for i in places], [CLASSES[row.argmax()] for row in probabilities]


@pytest.mark.parametrize("selection", ["last", "val"])
@pytest.mark.parametrize("level", ["utterance", "segment"])
def test_metrics_and_confusion(run: Any, selection: str, level: str) -> None:
    cache, experiment, *_ = run
    labels, predicted = _truth(run, selection, level)
    recall = recall_score(labels, predicted, labels=CLASSES, average=None, zero_division=0)
    expected = {
        ("WA", None): accuracy_score(labels, predicted),
        ("UA", None): recall_score(labels, predicted, average="macro", labels=sorted(set(labels)), zero_division=0),
        ("WF1", None): f1_score(labels, predicted, average="weighted", zero_division=0),
        ("macro_F1", None): f1_score(labels, predicted, average="macro", zero_division=0),
        **{("recall", name): value for name, value in zip(CLASSES, recall, strict=True) if name in labels},
    }
    found = [row for row in stored(cache, "metrics") if (row["selection"], row["level"]) == (selection, level)]
    assert columns("metrics") == set(found[0])
    assert {(row["metric"], row["class"]): row["value"] for row in found} == pytest.approx(expected)
    about = {(row["run_id"], row["fold"], row["epoch"]) for row in found}
    assert about == {(f"{experiment.name}-f2-s5", FOLD, 2 if selection == "last" else 1)}

    counts = confusion_matrix(labels, predicted, labels=CLASSES)
    found = [row for row in stored(cache, "confusion") if (row["selection"], row["level"]) == (selection, level)]
    assert columns("confusion") == set(found[0])
    assert {(row["label"], row["predicted"]): row["count"] for row in found} == {
        (a, b): counts[i][j] for i, a in enumerate(CLASSES) for j, b in enumerate(CLASSES)
    }
    assert {(row["run_id"], row["fold"]) for row in found} == {(f"{experiment.name}-f2-s5", FOLD)}
