"""Run by test_named_protocols in a Python of its own: print the hashes of some protocols of two small generated corpora."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import duckdb

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.build import create, insert_corpora
from tfser.manifests.catalogue.stored import read_corpus
from tfser.manifests.catalogue.views import AUDITED_VIEWS
from tfser.manifests.files import write_json, write_table
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.own import parse_own
from tfser.manifests.utterances import Measured, Utterance, to_table

LABELS = ("anger", "neutral", "happiness", "Überdruss", "excitement", "情")
OWN = """
name = "mine"
corpora = ["two", "one"]
labels = { up = ["anger", "exc"], down = ["neutral", "Überdruss"] }
where = "duration_s < 3"
k = 2
validation = "speakers:1"
"""
SINGLE = (
    *("loso-speaker", "loso-session", "loso-speaker@common4/next-group", "group-kfold:3", "group-kfold:2:session"),
    *("random-kfold:4", "loso-speaker/speakers:2", "group-kfold:3/random-leaky:0.15", "official-split"),
)
SEVERAL = ("cross:two:one@arousal2", "loco:one,two/speakers:1", "loco:one,two@quadrants4/random-leaky:0.2")


def put(cache: Cache, name: str, speakers: int) -> None:
    """Write a corpus with speakers, ids and labels that sort differently in different places."""
    utterances = [
        Utterance(
            utterance_id=f"{speaker}-{i}",
            path=f"{speaker}-{i}.wav",
            speaker=speaker,
            session=f"S{1 + n // 2}",
            label=LABELS[(n + i) % len(LABELS)].lower(),
            split=("train", "train", "val", "test")[n % 4],
        )
        for n, speaker in enumerate(["s10", "s9", "S9", "é1", "É2", "z", "ß", "s1 a", "10", "9"][:speakers])
        for i in range(5 + 3 * n % 7)
    ]
    measured = [Measured(size=1, mtime_ns=1, duration_s=1.0 + i % 3, content_hash=f"{name}{i}") for i in range(len(utterances))]
    write_table(cache.corpus(name) / "utterances.parquet", to_table(name, utterances, measured))
    about = {"adapter": "table", "root": "/", "options": {}, "default_protocol": None, "scanned_at": ""}
    write_json(cache.corpus(name) / "corpus.json", about)


def main(folder: str) -> None:
    cache = Cache(Path(folder) / "cache")
    put(cache, "one", 10)
    put(cache, "two", 7)
    own = parse_own(OWN, "mine.toml").protocol
    with contextlib.closing(duckdb.connect()) as connection:
        create(connection, AUDITED_VIEWS)
        insert_corpora(connection, [read_corpus(cache, name) for name in ("one", "two")])
        for spec in SINGLE:
            install(connection, "one", parse(spec))
        for spec in (*SEVERAL, own.name):
            install(connection, "one+two", parse(spec, {own.name: own}))
        found = connection.execute("SELECT DISTINCT protocol, hash FROM protocols ORDER BY protocol").fetchall()
    print(json.dumps(dict(found)))


main(sys.argv[1])
