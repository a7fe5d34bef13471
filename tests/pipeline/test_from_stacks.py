"""Layers that are asked for when all are stored: taken out of the stack, and no audio is read for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.pipeline.derived.from_stacks import take_stored_layers
from tfser.pipeline.extraction.extract import extract_pass
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.features.registry import FeatureRequest, Pass, feature_pass
from tfser.pipeline.shards.packed import FeatureRow, load_packed
from tfser.pipeline.verify import verify

from ..conftest import fill_with_tones


@pytest.fixture
def filled(cache: Cache, tmp_path: Path) -> Cache:
    fill_with_tones(cache, tmp_path / "wavs", each=(1, 1), seconds=0.3)
    return cache


def job(weights: Path, layer: str, **options: Any) -> Pass:
    return feature_pass("whisper-base", FeatureRequest(weights=str(weights), layer=layer, **options))


def corpus_of(cache: Cache) -> str:
    return cache.corpora()[0]


def extract(cache: Cache, wanted: Pass) -> list[int]:
    return [report.extracted for report in extract_pass(cache, corpus_of(cache), wanted, compute=Compute())]


def stored(cache: Cache, name: str) -> dict[str, np.ndarray]:
    with open_catalogue(cache) as connection:
        found = rows(connection, "FROM features WHERE feature_set = ?", [name])
    keys = ("utterance_id", "first_frame", "frames", "dim", "checksum")
    packed = load_packed([FeatureRow(path=cache.root / r["shard"], **{key: r[key] for key in keys}) for r in found])
    return {of: packed.of(i) for i, of in enumerate(packed.utterance_ids)}


@pytest.mark.slow
def test_layers_of_a_stored_stack_need_no_audio(filled: Cache, tiny_whisper: Path, tmp_path: Path) -> None:
    assert extract(filled, job(tiny_whisper, "all")) == [4]
    for path in (tmp_path / "wavs").rglob("*.wav"):
        path.unlink()
    wanted = job(tiny_whisper, "1,mean,2")
    taken = take_stored_layers(filled, corpus_of(filled), wanted)
    assert [(of.feature_set, of.stack, of.report.written) for of in taken] == [
        (f"whisper-base/{layer}", "whisper-base/all", 4) for layer in ("1", "mean", "2")
    ]
    assert extract(filled, wanted) == [0, 0, 0]  # nothing is left to be computed
    frames = stored(filled, "whisper-base/all")
    for name, found in stored(filled, "whisper-base/1").items():
        np.testing.assert_array_equal(found, frames[name][:, 32:64])
    assert verify(filled) == [] and take_stored_layers(filled, corpus_of(filled), wanted) == []


def test_what_was_rounded_or_computed_in_another_way_is_not_taken(filled: Cache, tiny_whisper: Path) -> None:
    extract(filled, job(tiny_whisper, "all", dtype="float16"))
    refresh(filled)
    clip = {"dtype": "float16", "settings": {"window": "clip"}}
    for layer, options in (("1", {}), ("mean", {"dtype": "float16"}), ("1", clip)):
        assert take_stored_layers(filled, corpus_of(filled), job(tiny_whisper, layer, **options)) == []
    (taken,) = take_stored_layers(filled, corpus_of(filled), job(tiny_whisper, "1", dtype="float16"))
    assert taken.feature_set == "whisper-base/1+float16"


@pytest.mark.slow
def test_what_the_stack_lacks_is_extracted(filled: Cache, tiny_whisper: Path) -> None:
    """Half of the stack is there; the layer's other half comes from audio, to the same numbers."""
    whole = job(tiny_whisper, "all")
    extract_pass(filled, corpus_of(filled), whole, compute=Compute(), how=ShardWriting(shard_utterances=2))
    kept, gone = sorted(filled.feature_root.glob("whisper*/*/*.rows.parquet"))
    gone.unlink()
    wanted = job(tiny_whisper, "2")
    (taken,) = take_stored_layers(filled, corpus_of(filled), wanted)
    assert taken.report.written == 2 and kept.exists()
    assert extract(filled, wanted) == [2]
    extract(filled, whole)
    frames = stored(filled, "whisper-base/all")
    for name, found in stored(filled, "whisper-base/2").items():
        np.testing.assert_allclose(found, frames[name][:, 64:], atol=1e-5)
