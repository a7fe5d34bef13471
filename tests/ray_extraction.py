"""What tests of extraction on Ray share: a small corpus, extractions of it, and what they stored.

A module for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract_pass
from tfser.pipeline.extraction.extract_report import ExtractReport
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.features.registry import Pass, feature_set
from tfser.pipeline.resources.cluster import RayCluster
from tfser.pipeline.resources.part import CorpusPart
from tfser.pipeline.scanning.measure import Advance
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.reader import ShardReader

LOGMEL = feature_set("logmel")
COUNT = 40
"""Files of the corpus."""
USABLE = COUNT - 2
BLOCK = 3
"""Utterances in a block, of these tests."""


def write_corpus(folder: Path) -> Path:
    """Write forty files and their table; one is too short, one is no audio."""
    for i in range(COUNT):
        samples = 0.1 * np.random.default_rng(i).standard_normal(100 if i == 7 else 8000 + 100 * i)
        soundfile.write(folder / f"u{i}.wav", samples, 16000)
    (folder / "u5.wav").write_bytes(b"RIFF, but no more")
    (folder / "t.csv").write_text("path\n" + "".join(f"u{i}.wav\n" for i in range(COUNT)))
    return folder


def scanned(place: Path, root: Path) -> Cache:
    """Return a new cache with the rows of that corpus."""
    cache = Cache(place)
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv"), "columns": {}, "delimiter": None})
    return cache


def extracted(
    cache: Cache,
    job: Pass,
    cluster: RayCluster | None = None,
    begin: Callable[[int, float], Advance] | None = None,
    part: CorpusPart | None = None,
) -> ExtractReport:
    """Extract what a cache lacks, in shards of eight."""
    compute = Compute(cluster=cluster, part=part)
    return extract_pass(cache, "c", job, compute, ShardWriting(shard_utterances=8, begin=begin))[0]


def files(cache: Cache, features: Any = LOGMEL) -> dict[str, bytes]:
    """Return the bytes of each shard of a feature set."""
    folder = cache.feature_root / features.folder
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.h5"))}


def manifest(cache: Cache) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the catalogue says of the features, whatever shard they lie in, and of who has none."""
    with open_catalogue(cache) as connection:
        return {
            "features": connection.execute(
                "SELECT feature_set, corpus, utterance_id, frames, dim, checksum FROM features ORDER BY ALL"
            ).fetchall(),
            "skipped": connection.execute("SELECT * FROM skipped ORDER BY ALL").fetchall(),
            "sets": connection.execute("SELECT feature_set, fingerprint, config FROM feature_sets ORDER BY ALL").fetchall(),
        }


def frames_of(cache: Cache, features: Any = LOGMEL) -> dict[str, Any]:
    """Return the frames of each utterance, (t, D)."""
    found = {}
    for path in sorted((cache.feature_root / features.folder / "c").glob("*.h5")):
        with ShardReader(path) as reader:
            for i, name in enumerate(reader.utterance_ids):
                found[name] = reader.frames_of(int(reader.offsets[i]), int(reader.offsets[i + 1] - reader.offsets[i])).copy()
    return found
