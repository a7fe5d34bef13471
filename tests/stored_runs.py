"""Finished runs without training: chance predictions, written into a cache as `tfser train` writes its own.

A module for tests, which import it by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfser.heads.runs.outcome import RunOutcome, Selected
from tfser.heads.runs.store import begin, finish
from tfser.manifests.annotations import Annotation, annotation_table
from tfser.manifests.cache import Cache
from tfser.manifests.files import write_json, write_table
from tfser.manifests.utterances import Measured, Utterance, skipped_table, to_table

CLASSES = ("anger", "happiness", "neutral")


def make_utterances(speakers: int = 8, each: int = 12, seed: int = 0, **known: bool) -> list[Utterance]:
    """Return utterances of speakers called 03, 04 ...; two of them a session. The first speaker has no happiness."""
    rng = np.random.default_rng(seed)
    found = []
    for s in range(speakers):
        for i in range(each + 2 * (s % 3)):
            label = CLASSES[rng.integers(3)]
            found.append(
                Utterance(
                    utterance_id=f"s{s}u{i:02d}",
                    path=f"s{s}u{i}.wav",
                    speaker=f"{s + 3:02d}" if known.get("speaker", True) else None,
                    session=f"Ses{s // 2}" if known.get("session", True) else None,
                    dialogue=f"d{s // 2}_{i % 2}" if known.get("dialogue", True) else None,
                    label="neutral" if s == 0 and label == "happiness" else label,
                )
            )
    return found


def put_utterances(cache: Cache, utterances: Sequence[Utterance], corpus: str = "toy", *, rated: bool = False) -> None:
    """Write a corpus as a scan does, without audio; if `rated`, of three raters one hears another class in every third of it."""
    folder = cache.corpus(corpus)
    measured = [Measured(size=1, mtime_ns=1, duration_s=1.0, content_hash=f"of {u.utterance_id}") for u in utterances]
    write_table(folder / "skipped.parquet", skipped_table([]))
    write_table(folder / "utterances.parquet", to_table(corpus, list(utterances), measured))
    about = {"corpus": corpus, "adapter": "table", "root": "/nowhere", "options": {}, "default_protocol": None}
    if rated:
        other = {label: CLASSES[(i + 1) % len(CLASSES)] for i, label in enumerate(CLASSES)}
        ratings = [
            Annotation(utterance_id=u.utterance_id, rater=f"r{r}", label=other[u.label] if r == 2 and not i % 3 else u.label)
            for i, u in enumerate(utterances)
            for r in range(3)
            if u.label in other
        ]
        write_table(folder / "annotations.parquet", annotation_table(corpus, ratings))
    write_json(folder / "corpus.json", {**about, "scanned_at": "2025-01-01T00:00:00+00:00"})


def put_experiment(
    cache: Cache,
    name: str,
    utterances: Sequence[Utterance],
    *,
    right: float = 0.7,
    seeds: Sequence[int] = (0,),
    folds: Mapping[str, int] | None = None,
    only_folds: Sequence[int] | None = None,
    selections: Sequence[str] = ("last",),
    audit: str = "passed",
    speakers_kept: str | None = "kept",
    corpus: str = "toy",
    classes: Sequence[str] = CLASSES,
    history: Sequence[Mapping[str, Any]] | None = None,
    **more: Any,
) -> None:
    """Write an experiment's runs: each utterance is taken for its own class with probability `right`, less for odd speakers.

    Args:
        cache: the cache.
        name: of the experiment; the predictions are drawn from it and the seed.
        utterances: what is tested.
        right: share of right predictions.
        seeds: of training.
        folds: of each utterance; that of its speaker's number if left out.
        only_folds: those that are finished.
        selections: all of the same predictions, but test-oracle, which is right more often.
        audit: passed or overridden.
        speakers_kept: as the run stores it; None: a run that is older than the column.
        corpus: name.
        classes: what the head tells apart; utterances of other labels are not tested.
        history: of each run; five epochs of a falling loss if left out.
        more: other columns of its runs (protocol, protocol_hash, config ...).
    """
    K = len(classes)
    of = folds or {u.utterance_id: int(u.utterance_id[1 : u.utterance_id.index("u")]) + 1 for u in utterances}
    for seed in seeds:
        rng = np.random.default_rng([seed, *name.encode()])
        for fold in sorted(set(of.values())):
            tested = [u for u in utterances if of[u.utterance_id] == fold and u.label in classes]
            labels = np.array([classes.index(str(u.label)) for u in tested])
            kept: list[Selected] = []
            for selection in selections:
                rate = right + (0.1 if selection == "test-oracle" else 0.0) - 0.2 * (fold % 2)
                wrong = (labels + rng.integers(1, K, len(labels))) % K
                chosen = np.where(rng.random(len(labels)) < rate, labels, wrong)
                probabilities = (0.1 + (1 - 0.1 * K) * np.eye(K)[chosen]).astype(np.float32)
                kept.append(
                    Selected(
                        selection=selection,
                        epoch=5,
                        utterances=probabilities,
                        segments=np.repeat(probabilities, 2, axis=0),
                        segment_utterance=np.repeat(np.arange(len(labels)), 2),
                        segment_number=np.tile([0, 1], len(labels)),
                    )
                )
            if only_folds is not None and fold not in only_folds:
                continue
            about: dict[str, Any] = {
                "run_id": f"{name}-f{fold}-s{seed}", "experiment": name, "head": name.split("-")[0], "preset": "small",
                "recipe": "default", "corpus": corpus, "protocol": "loso-speaker", "protocol_hash": "abc", "validation": "none",
                "fold": fold, "seed": seed, "feature_set": "logmel", "fingerprint": "f", "epochs": 5, "device": "cpu",
                "parameters": 10, "utterances_cut": 0, "audit": audit, "findings": [], "started_at": "2025-01-01T00:00:00+00:00",
                "finished_at": "2025-01-01T00:00:01+00:00", "seconds": 1.0, "versions": {}, "config": {},
            }  # fmt: skip
            about |= more
            about |= {} if speakers_kept is None else {"speakers_kept": speakers_kept}
            begin(cache, about)
            finish(
                cache,
                about,
                RunOutcome(
                    classes=classes,
                    utterances=[(corpus, u.utterance_id) for u in tested],
                    labels=labels,
                    selections=kept,
                    history=history or [{"epoch": n + 1, "loss": 1.0 / (n + 1)} for n in range(5)],
                ),
            )


def put_old_run(
    cache: Cache, run_id: str, *, status: str = "finished", wa: float = 0.5, fold: int = 1, corpus: str = "toy"
) -> None:
    """Write a run as the versions before seals did, in the plainest way: 20 utterances of anger, a share of them right."""
    n = 20
    hits = round(wa * n)
    said = ["anger"] * hits + ["neutral"] * (n - hits)
    f1 = 2 * hits / (n + hits)
    key = {"run_id": run_id, "fold": fold, "selection": "last", "level": "utterance"}
    scores = {"WA": wa, "UA": wa, "WF1": f1, "macro_F1": f1 / 2 if 0 < hits < n else f1}
    metrics = [key | {"metric": name, "class": None, "value": value, "epoch": 1} for name, value in scores.items()]
    metrics.append(key | {"metric": "recall", "class": "anger", "value": wa, "epoch": 1})
    counts = {("anger", "anger"): hits, ("anger", "neutral"): n - hits, ("neutral", "anger"): 0, ("neutral", "neutral"): 0}
    predictions = [
        key
        | {"corpus": corpus, "utterance_id": f"u{i}", "label": "anger", "predicted": of, "segment": None}
        | {"probabilities": {"anger": 0.75, "neutral": 0.25} if of == "anger" else {"anger": 0.25, "neutral": 0.75}}
        for i, of in enumerate(said)
    ]
    tables = {
        "history": [{"run_id": run_id, "epoch": 1, "loss": 1.0}],
        "metrics": metrics,
        "confusion": [key | {"label": a, "predicted": b, "count": count} for (a, b), count in counts.items()],
        "predictions": predictions,
    }
    for name, found in tables.items():
        of = pa.Table.from_pylist(found)
        if name == "predictions":
            kind = pa.map_(pa.string(), pa.float64())
            maps = pa.array([list(row["probabilities"].items()) for row in predictions], kind)
            of = of.set_column(of.column_names.index("probabilities"), "probabilities", maps)
        write_table(cache.runs / run_id / f"{name}.parquet", of)
    about = {"run_id": run_id, "experiment": "e", "seed": 0, "fold": fold, "corpus": corpus, "config": {"a": 1}, "status": status}
    write_json(cache.runs / run_id / "run.json", about)
