"""Near-duplicates: fingerprints survive what copies go through, different sounds stay apart, and nothing is computed twice."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.manifests.audits.run import run_audits
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.pipeline.copies import search as searching
from tfser.pipeline.copies.fingerprints import Fingerprinter, stored, update_fingerprints
from tfser.pipeline.copies.search import MIN_WORDS, find_pairs, search
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.scanning.scan import ScanOptions, scan
from tfser.pipeline.sound.audio import resample

RATE = 16000
FRONT = Fingerprinter()


def babble(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Noise whose bands swell and fade like syllables: no two seeds sound alike."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / RATE)
    out = np.zeros(n)
    for low in np.arange(100, 4000, 300):
        band = np.fft.irfft(np.where((hz >= low) & (hz < low + 300), spectrum, 0), n)
        gains = rng.uniform(-30, 0, int(seconds * 8) + 2)
        out += band * 10 ** (np.interp(np.arange(n), np.linspace(0, n, len(gains)), gains) / 20)
    return (0.3 * out / np.abs(out).max()).astype(np.float32)


def encoded(samples: np.ndarray, kind: str, subtype: str) -> np.ndarray:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=kind, subtype=subtype)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]


CHANGES = {
    "ogg": lambda x: (encoded(x, "OGG", "VORBIS"), RATE),
    "mp3": lambda x: (encoded(x, "MP3", "MPEG_LAYER_III"), RATE),
    "quiet": lambda x: (np.round(x * 0.25 * 32767).astype(np.float32) / 32767, RATE),
    "loud and clipped": lambda x: (np.clip(4 * x, -1, 1), RATE),
    "telephone": lambda x: (resample(x, RATE, 8000), 8000),
    "studio": lambda x: (resample(x, RATE, 44100), 44100),
    "start": lambda x: (x[int(0.287 * RATE) :], RATE),
    "end": lambda x: (x[: -int(0.3 * RATE)], RATE),
    "silence before": lambda x: (np.concatenate([np.zeros(7000, np.float32), x]), RATE),
    "noise": lambda x: (x + (np.random.default_rng(9).standard_normal(len(x)) * 0.002).astype(np.float32), RATE),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_and_nothing_else(change):
    sounds = [babble(seed) for seed in range(5)]
    prints = [FRONT.words(x, RATE) for x in sounds] + [FRONT.words(*CHANGES[change](x)) for x in sounds]
    pairs = find_pairs(prints)
    assert [(p.a, p.b) for p in pairs] == [(i, i + 5) for i in range(5)]
    shift = {"start": -14, "silence before": 22}.get(change, 0)
    assert all(abs(p.offset - shift) <= 1 for p in pairs)
    assert all(p.is_whole == (change not in ("start", "end")) for p in pairs)


def test_gain_alone_changes_nothing():
    x = babble(1)
    assert np.array_equal(FRONT.words(x, RATE), FRONT.words(x * np.float32(0.5), RATE))


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_however_the_index_is_cut_the_pairs_are_the_same(seed, partition):
    rng = np.random.default_rng(seed)
    prints = [rng.integers(1, 2**32, size=40, dtype=np.uint32) for _ in range(4)]
    prints += [prints[0].copy(), prints[1][5:].copy(), np.empty(0, np.uint32), np.zeros(50, np.uint32), prints[2][:20].copy()]
    whole = find_pairs(prints)
    assert find_pairs(prints, partition=partition * 10) == whole
    assert [(p.a, p.b, p.offset, p.is_whole, p.similarity) for p in whole] == [(0, 4, 0, True, 1.0), (1, 5, -5, False, 1.0)]
    assert find_pairs(prints, only=np.arange(len(prints)) == 5) == [p for p in whole if p.b == 5]


def test_what_is_too_short_or_silent_is_like_nothing():
    assert len(FRONT.words(np.zeros(100, np.float32), RATE)) == 0
    assert not FRONT.words(np.zeros(RATE, np.float32), RATE).any()
    short = FRONT.words(babble(0, 0.5), RATE)
    assert np.count_nonzero(short) < MIN_WORDS
    assert find_pairs([short, short]) == find_pairs([]) == []


def test_many_copies_of_one_sound_find_each_other():
    words = FRONT.words(babble(3), RATE)
    pairs = find_pairs([words] * 200)
    assert {p.a for p in pairs} | {p.b for p in pairs} == set(range(200))
    assert len(pairs) < 200 * 199 / 2  # in long runs, only neighbours are compared


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "toy"
    root.mkdir()
    lines = ["path,label,speaker"]
    for i in range(6):
        soundfile.write(root / f"{i}.wav", babble(i), RATE)
        lines.append(f"{i}.wav,{'angry' if i % 2 else 'sad'},s{i % 3}")
    soundfile.write(root / "copy.ogg", babble(0)[3000:] * 0.5, RATE)
    soundfile.write(root / "same.flac", soundfile.read(root / "1.wav")[0], RATE)
    lines += ["copy.ogg,sad,s1", "same.flac,angry,s2"]
    (root / "toy.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_from_audio_to_audit(cache, corpus):
    options = {"table": str(corpus / "toy.csv"), "columns": {}, "delimiter": None}

    def scanned():
        scan(cache, READER, corpus="toy", root=corpus, options=options, how=ScanOptions(workers=1))

    scanned()
    first = update_fingerprints(cache, "toy", workers=2)
    assert (first.utterances, first.computed, first.failed) == (7, 7, ())  # one audio twice
    found = search(cache, "toy")
    assert (found.compared, found.others, found.pairs, found.was_current) == (7, 0, 1, False)
    assert update_fingerprints(cache, "toy").computed == 0
    assert search(cache, "toy") == type(found)(compared=7, others=0, too_short=0, pairs=1, was_current=True)
    name = ensure_protocol(cache, "toy", "loso-speaker")
    with open_catalogue(cache) as connection:
        findings = {f.audit: f for f in run_audits(connection, protocol=name, corpus="toy") if f.level != "ok"}
        pairs = rows(connection, "SELECT utterance_id, other_id, evidence, offset_s FROM near_duplicates")
    assert (findings["near_duplicates"].level, findings["duplicate_audio"].level) == ("error", "error")
    ids = {p["utterance_id"] for p in pairs}
    assert {p["evidence"] for p in pairs} == {"excerpt"} and len(pairs) == 2 and any("copy" in i for i in ids)
    assert sorted(round(p["offset_s"], 1) for p in pairs) == [-0.2, 0.2]

    soundfile.write(corpus / "copy.ogg", babble(77), RATE)  # another sound under the same name
    scanned()
    with open_catalogue(cache) as connection:  # what was found of the old sound is gone, and it is said
        assert rows(connection, "SELECT * FROM near_duplicates") == []
        after = {f.audit: f for f in run_audits(connection, protocol=name, corpus="toy") if f.level != "ok"}
    assert "near_duplicates" not in after and after["near_duplicates_unsearched"].level == "info"
    assert update_fingerprints(cache, "toy").computed == 1
    assert search(cache, "toy").pairs == 0


def test_files_that_changed_or_went_are_said_and_nothing_is_lost(cache, corpus):
    scan(cache, READER, corpus="toy", root=corpus, options={"table": str(corpus / "toy.csv"), "columns": {}, "delimiter": None})
    (corpus / "2.wav").unlink()
    soundfile.write(corpus / "3.wav", babble(50), RATE)
    report = update_fingerprints(cache, "toy")
    assert sorted(reason.split(";")[0].rpartition(": ")[2] for _, reason in report.failed) == [
        "No such file or directory",
        "the file holds other sound than at the scan",
    ]
    table = stored(cache, "toy")
    assert table is not None and table.num_rows == report.computed == 5
    path = cache.corpus("toy") / "fingerprints.parquet"
    pq.write_table(table.replace_schema_metadata({"algorithm": "0"}), path)  # of another version
    assert stored(cache, "toy") is None
    path.write_bytes(b"PAR1 cut off")
    assert update_fingerprints(cache, "toy").computed == 5


def test_copies_in_another_corpus(cache, corpus, tmp_path):
    for name in ("toy", "other"):
        root = corpus if name == "toy" else tmp_path / "other"
        root.mkdir(exist_ok=True)
        if name == "other":
            soundfile.write(root / "x.wav", 0.3 * babble(4), RATE)
            (root / "toy.csv").write_text("path,label,speaker\nx.wav,sad,s0\n")
        options = {"table": str(root / "toy.csv"), "columns": {}, "delimiter": None}
        scan(cache, READER, corpus=name, root=root, options=options)
        update_fingerprints(cache, name)
    assert (search(cache, "other").pairs, search(cache, "toy").pairs) == (1, 2)
    with open_catalogue(cache) as connection:
        across = rows(connection, "SELECT other_corpus, other_id FROM near_duplicates WHERE corpus = 'other'")
    assert [(r["other_corpus"], "4" in r["other_id"]) for r in across] == [("toy", True)]


def test_a_search_is_made_again_where_a_recording_came_from_another_corpus(cache, monkeypatch):
    """All contents are as before; that one of them is the corpus's own now makes pairs of others its own."""
    own = {"a": ["1"], "b": ["2", "3"]}
    words = np.zeros(1, "<u4").tobytes()
    table = pa.table({"content_hash": ["1", "2", "3"], "words": pa.array([words] * 3, pa.large_binary())})
    asked = []
    monkeypatch.setattr(type(cache), "corpora", lambda self: list(own))
    monkeypatch.setattr(searching, "stored", lambda cache, corpus: table)
    monkeypatch.setattr(searching, "_current", lambda cache, corpus: set(own[corpus]))
    monkeypatch.setattr(searching, "find_pairs", lambda prints, only: asked.append(only.tolist()) or [])
    search(cache, "a"), search(cache, "a")
    own["a"].append("2")
    search(cache, "a")
    assert asked == [[True, False, False], [True, True, False]]
