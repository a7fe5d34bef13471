"""Splits for others: what is written is what the folds are, whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.splits.export import COLUMNS, export
from tfser.manifests.utterances import Utterance


def corpus(name: str = "toy") -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f's{s}, "{i}"',
            path=f"{name} é/s{s}_{i}.wav",
            speaker=f"s{s}",
            label=("anger", "neutral")[i % 2],
        )
        for s in range(1, 4)
        for i in range(4)
    ]


def folds(connection) -> list[tuple]:
    return connection.execute(
        "SELECT f.fold, f.role, f.corpus, f.utterance_id, f.label, u.path "
        "FROM folds f JOIN utterances u USING (corpus, utterance_id)"
    ).fetchall()


def read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def test_csv_and_json(cache, put_corpus, installed, tmp_path):
    put_corpus(cache, corpus())
    catalogue = installed("toy", "loso-speaker/next-group")
    for format in ("csv", "json"):
        path = tmp_path / f"split.{format}"
        assert export(catalogue, "loso-speaker/next-group", "toy", path, format) == 36
        found = list(read(path)) if format == "csv" else json.loads(path.read_text(encoding="utf-8"))["utterances"]
        assert list(found[0]) == list(COLUMNS)
        assert sorted((int(r["fold"]), *(r[c] for c in COLUMNS[1:6])) for r in found) == sorted(folds(catalogue))
        order = [(int(r["fold"]), ("train", "val", "test").index(r["role"]), r["utterance_id"]) for r in found]
        assert order == sorted(order)
        again = tmp_path / f"again.{format}"
        export(catalogue, "loso-speaker/next-group", "toy", again, format)
        assert again.read_bytes() == path.read_bytes()
    about = json.loads(path.read_text(encoding="utf-8"))
    assert about["protocol"] == "loso-speaker/next-group" and about["validation"] == "next-group" and len(about["hash"]) == 16
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_audformat(cache, put_corpus, installed, tmp_path):
    put_corpus(cache, corpus())
    catalogue = installed("toy", "loso-speaker")
    path = tmp_path / "db"
    assert export(catalogue, "loso-speaker", "toy", path, "audformat") == 36
    header = json.loads((path / "db.yaml").read_text(encoding="utf-8"))  # JSON is YAML
    names = [f"fold{k}.{role}" for k in (1, 2, 3) for role in ("train", "test")]
    assert list(header["tables"]) == names and {t["type"] for t in header["tables"].values()} == {"filewise"}
    assert sorted(p.name for p in path.iterdir()) == sorted(["db.yaml", *(f"db.{n}.csv" for n in names)])
    found = {(int(n[4]), n[6:], r["file"], r["emotion"], r["speaker"]) for n in names for r in read(path / f"db.{n}.csv")}
    assert {(k, role, file, label) for k, role, file, label, _ in found} == {(r[0], r[1], r[5], r[4]) for r in folds(catalogue)}
    assert {r["speaker"] for r in read(path / "db.fold2.test.csv")} == {"s2"}
    export(catalogue, "loso-speaker", "toy", path, "audformat")  # over its own earlier export
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "db"]


def test_audformat_of_segments_and_of_several_corpora(cache, put_corpus, installed, tmp_path):
    put_corpus(cache, [replace(u, path="long.wav", start_s=90061.5 * i, end_s=None) for i, u in enumerate(corpus())], corpus="a")
    put_corpus(cache, [replace(u, start_s=0.0, end_s=1.25) for u in corpus("b")], corpus="b")
    catalogue = installed("a+b", "cross:a:b")
    export(catalogue, "cross:a:b", "a+b", tmp_path / "db", "audformat")
    header = json.loads((tmp_path / "db" / "db.yaml").read_text(encoding="utf-8"))
    assert {n: t["type"] for n, t in header["tables"].items()} == {"fold1.train": "segmented", "fold1.test": "segmented"}
    second = list(read(tmp_path / "db" / "db.fold1.train.csv"))[1]
    assert (second["file"], second["start"], second["end"]) == ("a/long.wav", "1 days 01:01:01.500000", "")
    first = next(read(tmp_path / "db" / "db.fold1.test.csv"))
    assert (first["file"], first["start"], first["end"]) == ("b/b é/s1_0.wav", "0 days 00:00:00.000000", "0 days 00:00:01.250000")


def test_nothing_else_is_replaced(cache, put_corpus, installed, tmp_path):
    put_corpus(cache, corpus())
    catalogue = installed("toy", "loso-speaker")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in ("mine", "file"):
        with pytest.raises(UsageError, match="something else is there"):
            export(catalogue, "loso-speaker", "toy", tmp_path / path, "audformat")
    with pytest.raises(UsageError, match="this is a folder"):
        export(catalogue, "loso-speaker", "toy", tmp_path / "mine", "csv")
    with pytest.raises(UsageError, match="unknown format 'xml'"):
        export(catalogue, "loso-speaker", "toy", tmp_path / "x", "xml")
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "file", "cache"}


def test_a_failed_export_leaves_the_old_one(cache, put_corpus, installed, tmp_path, monkeypatch):
    put_corpus(cache, corpus())
    catalogue = installed("toy", "loso-speaker")
    for path, format in ((tmp_path / "x.csv", "csv"), (tmp_path / "db", "audformat")):
        export(catalogue, "loso-speaker", "toy", path, format)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "cache" not in p.parts}
        with monkeypatch.context() as patch:
            patch.setattr("tfser.manifests.splits.export.fsync_path", fail)
            patch.setattr("tfser.manifests.files.fsync_path", fail)
            with pytest.raises((OSError, TfserError), match="full"):
                export(catalogue, "loso-speaker", "toy", path, format)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "cache" not in p.parts} == before


def fail(path: Path) -> None:
    raise OSError(28, "the disk is full")
