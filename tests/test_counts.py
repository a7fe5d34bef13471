"""One rule for counts: what comes in equals what is used plus what is listed with a reason, from the table to the training."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tfser.cli import app
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import audit_experiment
from tfser.heads.runs.request import Request
from tfser.manifests.audits.participation import NO_AUDIO, NO_LABEL, OTHER_LABEL, Tally, definition, participation
from tfser.manifests.audits.run import Finding
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, refresh
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import NO_EMOTION
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import ScanOptions, scan

GOOD = [f"g{i}.wav" for i in range(6)]
LABELS = ["", " ", "none", "N/A", "nan", "null", "NA", "anger", "joy", "Joy", "undecided", "xxx"]
ROW = st.tuples(
    st.sampled_from([*GOOD, *GOOD, "tiny.wav", "text.wav", "empty.wav", "gone.wav", "nowhere/gone.wav", ""]),
    st.sampled_from(LABELS),
    st.sampled_from(["", "a", "b", "none", "1", "01"]),
    st.sampled_from(["", "train", "Test", "dev", "Development", "Test1", "none", "0"]),
    st.sampled_from(["", "", "", "i1", "i2", "i3"]),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings, one that is too short for a frame, two that are none."""
    folder = tmp_path_factory.mktemp("sounds")
    for i, name in enumerate(GOOD):
        soundfile.write(folder / name, 0.1 * np.random.default_rng(i).standard_normal(1600), 16000)
    soundfile.write(folder / "tiny.wav", np.full(100, 0.1), 16000)
    (folder / "text.wav").write_text("no sound")
    (folder / "empty.wav").write_bytes(b"")
    return folder


def write(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    file = folder / "t.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("path", "label", "speaker", "split", "id"), *rows])
    return file


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.lists(ROW, min_size=1, max_size=14))
def test_counts_add_up_at_every_stage(tmp_path_factory: pytest.TempPathFactory, root: Path, rows: list[tuple[str, ...]]) -> None:
    folder = tmp_path_factory.mktemp("counts")
    cache, file = Cache(folder / "cache"), write(folder, rows)
    try:
        scanned = scan(cache, READER, corpus="t", root=root, options={"table": str(file)}, how=ScanOptions(workers=1))
    except TfserError as error:  # rows that share an id and differ, or none with a path: said, and nothing is written
        assert "share the utterance id" in str(error) or "no row makes an utterance" in str(error)
        assert not cache.corpora()
        return

    # Scan: every row of the table is an utterance or listed, and what is used is what the text says.
    kept = pq.read_table(cache.corpus("t") / "utterances.parquet").to_pylist()
    unread = [s for s in scanned.skipped if s.stage == "read"]
    assert scanned.tally.given == len(rows) == len(kept) + len(unread)
    labelled = {path for path, label, *_ in rows if path in (*GOOD, "tiny.wav") and label.strip()}
    assert {row["path"] for row in kept if row["label"] is not None and row["content_hash"] is not None} == labelled
    assert scanned.usable == sum(row["label"] is not None and row["content_hash"] is not None for row in kept)
    assert sum(scanned.classes.values()) + scanned.unlabelled == len(kept)
    assert {row["raw_label"] for row in kept} - {None} <= {label.strip() for label in LABELS}
    printed = scanned.to_row()
    assert printed["given"] == printed["used"] + sum(printed["left_out"].values())
    if scanned.unlabelled:
        has = "has" if scanned.unlabelled == 1 else "have"
        assert f"{scanned.unlabelled} of {len(kept)} {has} no label" in "\n".join(scanned.lines())
    assert (scanned.failure is None) == any(row["content_hash"] for row in kept)

    # Extract: every utterance has features or is listed.
    extracted = extract(cache, "t", feature_set("logmel"), workers=1)
    heard = [row for row in kept if row["path"] in GOOD]
    assert (extracted.tally.given, extracted.tally.used) == (len(kept), len(heard))
    again = extract(cache, "t", feature_set("logmel"), workers=1)
    assert again.tally == extracted.tally and again.extracted == 0

    # Audit and train: every utterance of the corpus takes part in the protocol or is listed.
    refresh(cache)
    try:
        protocol = ensure_protocol(cache, "t", "random-kfold:2")
    except TfserError:  # fewer than two classes
        return
    classes = {row["label"] for row in kept} - {None} - NO_EMOTION
    members = [row for row in kept if row["label"] in classes]
    with open_catalogue(cache) as connection:
        audited = participation(connection, protocol=protocol, corpus="t", defined=definition(cache, protocol))
    assert audited.given == len(kept)
    assert audited.used == sum(row["content_hash"] is not None for row in members)
    assert audited.left_out[NO_LABEL] == sum(row["label"] is None for row in kept)
    assert audited.left_out[OTHER_LABEL] == sum(row["label"] in NO_EMOTION for row in kept)
    assert audited.left_out[NO_AUDIO] == sum(row["content_hash"] is None for row in members)
    assume(heard)
    with open_catalogue(cache) as connection:
        trained = participation(
            connection, protocol=protocol, corpus="t", defined=definition(cache, protocol), feature_set="logmel"
        )
    assert (trained.given, trained.used) == (len(kept), sum(row["path"] in GOOD for row in members))


def finding_of(findings: list[Finding]) -> Finding:
    (found,) = [of for of in findings if of.audit == "takes_no_part"]
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Cache:
    """A corpus with a class called none, an empty label, a missing file and a class of few."""
    folder = tmp_path_factory.mktemp("full")
    rows = [(name, ("none", "anger")[i % 2], "ab"[i // 3], "", "") for i, name in enumerate(GOOD)]
    rows += [("tiny.wav", "anger", "a", "", ""), ("gone.wav", "none", "b", "", "")]
    for name, label in (("e0", ""), ("e1", " "), ("o0", "joy")):
        soundfile.write(folder / f"{name}.wav", 0.1 * np.random.default_rng(len(rows)).standard_normal(1600), 16000)
        rows.append((str(folder / f"{name}.wav"), label, "a", "", ""))
    cache, file = Cache(folder / "cache"), write(folder, rows)
    words = ("extract", "--corpus", "table", "--table", str(file), "--root", str(root), "--cache", str(cache.root))
    result = CliRunner().invoke(app, [*words, "--report", "json"])
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert (row["given"], row["used"]) == (11, 9)
    assert row["left_out"] == {"no readable audio": 1, "could not be extracted": 1}
    assert "2 of 11 have no label and take no part: tfser sql " in result.stderr
    assert "3 classes: anger 4, none 4, happiness 1" in result.stderr
    return cache


def test_what_is_loaded_is_what_the_tally_says(full: Cache) -> None:
    experiment = resolve(full, Request(head="logreg", labels="none,anger"))
    found = finding_of(audit_experiment(full, experiment))
    assert len(load(full, experiment).labels) == 6
    assert (found.level, found.rows) == ("info", 5)
    assert {of["reason"]: of["utterances"] for of in found.examples} == {
        "no label": 2,
        "label outside the classes": 1,
        "no readable audio": 1,
        "no features": 1,
    }
    assert found.explanation.startswith("6 of 11 utterances take part, 5 do not: 2 no label, 1 label outside the classes")


@pytest.mark.slow
def test_audit_and_train_print_it_in_words_and_json(full: Cache) -> None:
    here = ("--cache", str(full.root), "--labels", "none,anger")
    audited = CliRunner().invoke(app, ["audit", *here, "--format", "json"])
    (found,) = [of for of in json.loads(audited.stdout) if of["audit"] == "takes_no_part"]
    assert found["rows"] == sum(of["utterances"] for of in found["examples"]) == 4
    assert "7 of 11 utterances take part, 4 do not: 2 no label, 1 label outside the classes (happiness 1)" in audited.stderr
    trained = CliRunner().invoke(app, ["train", "--head", "logreg", *here, "--format", "json"])
    assert trained.exit_code == 0, trained.stderr
    assert "6 of 11 utterances take part, 5 do not: 2 no label" in trained.stderr
    row = json.loads(trained.stdout)[0]
    assert (row["given"], row["used"], row["left_out"]["no label"]) == (11, 6, 2)


def test_a_class_called_none_is_trained(full: Cache) -> None:
    with open_catalogue(full) as connection:
        labels = Counter(row[0] for row in connection.execute("SELECT label FROM utterances").fetchall())
    assert labels == {"none": 4, "anger": 4, None: 2, "happiness": 1}
    assert resolve(full, Request(head="logreg", labels="none,anger")).classes == ("none", "anger")


def test_a_tally_that_does_not_add_up_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="9 came in, 5 were used, and"):
        Tally(given=9, used=5, left_out={"no label": 3})
